#include <loraplus/adapter/add_weighted.hpp>
#include <loraplus/adapter/lora_embedding_set.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"
#include "support/trained_adapter.hpp"

using loraplus::Index;
using loraplus::LoraEmbedding;
using loraplus::LoraEmbeddingSet;
using loraplus::Matrix;
using loraplus::SharedWeight;
using test::trained_adapter;

namespace {

const std::vector<Index> text{3, 0, 5, 3, 3, 1};

/// A table of 6 tokens in 4 dimensions with the adapters "a", "b" and, with DoRA, "d".
template <typename Scalar>
LoraEmbeddingSet<SharedWeight<Scalar>> embeddings() {
  LoraEmbeddingSet made(SharedWeight<Scalar>(test::random_matrix<Scalar>(4, 6, 1)));
  made.add("a", trained_adapter(made.weight(), {.rank = 1, .alpha = 3}, 10));
  made.add("b", trained_adapter(made.weight(), {.rank = 3}, 20));
  made.add("d", trained_adapter(made.weight(), {.rank = 9, .dora = true}, 30));
  return made;
}

template <typename Layer>
auto read_text(const Layer& layer, std::span<const Index> tokens) {
  Matrix<typename Layer::Scalar> y(layer.out_features(), static_cast<Index>(tokens.size()));
  auto cache = layer.make_cache(y.cols());
  layer.forward(tokens, y, cache);
  return y;
}

Matrix<double> columns_of_text() {
  Matrix<double> x = Matrix<double>::Zero(6, 6);
  for (std::size_t i = 0; i < text.size(); ++i) {
    x(text[i], static_cast<Index>(i)) = 1;
  }
  return x;
}

}  // namespace

TEST_CASE("a new adapter of an embedding is drawn as the layer draws it") {
  auto made = embeddings<double>();
  std::mt19937_64 generator{7}, same{7};
  made.add("new", {.rank = 2}, generator);
  const LoraEmbedding layer{made.weight(), {.rank = 2}, same};
  const auto& drawn = made.at("new")->factors();
  CHECK(test::same_bits(drawn.a(), layer.factors().a()));
  CHECK(test::same_bits(drawn.b(), layer.factors().b()));
  CHECK_THROWS_AS(made.add("no", {.rank = 2, .dropout = 0.1}, generator), loraplus::ArgumentError);
  CHECK_FALSE(made.contains("no"));
  const auto dropout = trained_adapter(made.weight(), {.rank = 2, .dropout = 0.1}, 1);
  const auto bias = trained_adapter(made.weight(), {.rank = 2, .lora_bias = true}, 1);
  CHECK_THROWS_AS(made.add("no", dropout), loraplus::ArgumentError);
  CHECK_THROWS_AS(made.replace("a", bias), loraplus::ArgumentError);
}

TEMPLATE_TEST_CASE("T14: each token through an adapter of its own, or none", "", float, double) {
  using Scalar = TestType;
  const double tolerance = std::is_same_v<Scalar, float> ? 1e-6 : 1e-14;
  const auto made = embeddings<Scalar>();
  const std::vector<std::string> names{"a", "d", "__base__", "b", "a", "d"};
  auto cache = made.make_cache(8);
  made.assign(cache, names);
  Matrix<Scalar> y(4, 6);
  made.forward(text, y, cache);
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::vector<Index> one{text[i]};
    const Matrix<Scalar> expected = names[i] == "__base__"
                                        ? Matrix<Scalar>(made.weight().weight().col(text[i]))
                                        : read_text(made.adapted(names[i]), one);
    CHECK(test::relative_distance(y.col(static_cast<Index>(i)), expected) < tolerance);
  }
}

TEST_CASE("a cache of an embedding serves columns too") {
  const auto made = embeddings<double>();
  const loraplus::LoraSet<SharedWeight<double>>& columns = made;
  const std::vector<std::string> names{"a", "d", "__base__", "b", "a", "d"};
  auto cache = made.make_cache(6);
  made.assign(cache, names);
  Matrix<double> y(4, 6), expected(4, 6);
  made.forward(text, expected, cache);
  columns.forward(columns_of_text(), y, cache);
  CHECK(test::relative_distance(y, expected) < 1e-14);
}

TEST_CASE("T10: active adapters of an embedding add up, as on columns with a single 1") {
  auto made = embeddings<double>();
  made.set_active({"b", "d", "a"});
  const Matrix<double> x = columns_of_text(), dy = test::random_matrix<double>(4, 6, 6);
  loraplus::LoraSet<SharedWeight<double>> columns = made;  // a copy, with adapters of its own
  auto cache = made.make_cache(6);
  auto columns_cache = columns.make_cache(6);
  Matrix<double> y(4, 6), expected(4, 6);
  for (int pass = 0; pass < 2; ++pass) {  // gradients add up
    made.forward(text, y, cache);
    made.backward(text, dy, cache);
    columns.forward(x, expected, columns_cache);
    columns.backward(x, dy, columns_cache);
  }
  CHECK(test::relative_distance(y, expected) < 1e-14);
  for (const std::string name : {"a", "b", "d"}) {
    const auto found = made.at(name), wanted = columns.at(name);
    CHECK(test::relative_distance(found->factors().a_gradient(), wanted->factors().a_gradient()) <
          1e-14);
    CHECK(test::relative_distance(found->factors().b_gradient(), wanted->factors().b_gradient()) <
          1e-14);
  }
  CHECK(test::relative_distance(made.at("d")->magnitude()->gradient(),
                                columns.at("d")->magnitude()->gradient()) < 1e-14);
}

TEST_CASE("T6, T7: merged adapters of an embedding equal the unmerged, and unmerging is exact") {
  auto made = embeddings<double>();
  made.set_active({"a", "b"});
  const Matrix<double> before = read_text(made, text);
  made.merge({"a", "b"});
  CHECK(test::relative_distance(read_text(made, text), before) < 1e-14);
  auto cache = made.make_cache(6);
  Matrix<double> y(4, 6);
  made.forward(text, y, cache);
  CHECK_THROWS_AS(made.backward(text, y, cache), loraplus::StateError);
  made.unmerge();
  CHECK(test::same_bits(read_text(made, text), before));
}

TEST_CASE("O2: LoRA+ trains the adapters of an embedding at the rate of embeddings") {
  auto made = embeddings<double>();
  const loraplus::LoraPlus optimizer{loraplus::AdamW{.learning_rate = 1e-3}, {.ratio = 16}, made};
  CHECK(optimizer.group_of("a.lora_embedding_A").learning_rate == 1e-6);
  CHECK(optimizer.group_of("a.lora_embedding_B").learning_rate == 1e-6);
}

TEST_CASE("adapters of an embedding are combined, and trained ones come from layers") {
  auto made = embeddings<double>();
  add_weighted(made, "sum", {{"a", 0.5}, {"b", 2}});
  made.set_active({"sum"});
  const Matrix<double> base = made.weight().weight();
  const auto delta = [&](const char* name) -> Matrix<double> {
    return made.adapted(name).merged_weight() - base;
  };
  Matrix<double> expected(4, 6);
  for (std::size_t i = 0; i < text.size(); ++i) {
    expected.col(static_cast<Index>(i)) = (base + 0.5 * delta("a") + 2 * delta("b")).col(text[i]);
  }
  CHECK(test::relative_distance(read_text(made, text), expected) < 1e-13);
  made.add("copy", made.adapted("b"));
  made.set_active({"copy"});
  CHECK(test::same_bits(read_text(made, text), read_text(made.adapted("b"), text)));
}

TEST_CASE("the padding token teaches A nothing, in a layer and in a set") {
  auto made = embeddings<double>();
  auto plain = made;
  made.set_padding_index(3);
  auto layer = made.adapted("a");  // which knows the token too
  const Matrix<double> dy = test::random_matrix<double>(4, 6, 6);
  const auto step = [&](auto& trained) {
    auto cache = trained.make_cache(6);
    Matrix<double> y(4, 6);
    trained.forward(text, y, cache);
    trained.backward(text, dy, cache);
    return y;
  };
  const Matrix<double> y = step(made);
  CHECK(test::same_bits(y, step(plain)));  // it is looked up as any other
  step(layer);
  const auto& with = made.at("a")->factors();
  const auto& without = plain.at("a")->factors();
  for (Index token = 0; token < 6; ++token) {
    CAPTURE(token);
    CHECK(layer.factors().a_gradient().col(token) == with.a_gradient().col(token));
    if (token == 3) {
      CHECK(with.a_gradient().col(token).isZero(0));
      CHECK_FALSE(without.a_gradient().col(token).isZero(0));
    } else {
      CHECK(with.a_gradient().col(token) == without.a_gradient().col(token));
    }
  }
  CHECK(test::same_bits(with.b_gradient(), without.b_gradient()));
  CHECK_THROWS_AS(made.set_padding_index(6), loraplus::ArgumentError);
  CHECK_THROWS_AS(layer.set_padding_index(-1), loraplus::ArgumentError);
}

TEST_CASE("an adapter of an embedding over another table is refused") {
  auto made = embeddings<double>();
  const auto add = [&](double factor) {
    std::mt19937_64 generator{1};
    const SharedWeight<double> table(factor * test::random_matrix<double>(4, 6, 1));
    made.add("x", LoraEmbedding{table, {.rank = 2, .dora = true}, generator});
  };
  CHECK(test::contains(test::message_of<loraplus::ArgumentError>([&] { add(3); }),
                       "'x' stands on another frozen weight"));
  CHECK_FALSE(made.contains("x"));
  add(1);  // equal, not the same memory
  CHECK(made.contains("x"));
}

TEST_CASE("a set of embeddings names a token that is none, and takes no tokens at all") {
  auto made = embeddings<double>();
  auto cache = made.make_cache(3);
  Matrix<double> y(4, 3);
  const std::vector<Index> beyond{0, 1, 6};
  CHECK(test::contains(
      test::message_of<loraplus::ArgumentError>([&] { made.forward(beyond, y, cache); }),
      "token 2 is 6, the vocabulary has 6"));
  CHECK(read_text(made, {}).cols() == 0);
  CHECK_THROWS_AS(made.forward(text, y, cache), loraplus::ShapeError);
}
