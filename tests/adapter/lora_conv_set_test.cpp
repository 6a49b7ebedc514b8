#include <loraplus/adapter/add_weighted.hpp>
#include <loraplus/adapter/lora_conv_set.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"
#include "support/trained_adapter.hpp"

using loraplus::ConvGeometry;
using loraplus::Index;
using loraplus::LoraConv;
using loraplus::LoraConvSet;
using loraplus::LoraOptions;
using loraplus::Matrix;
using loraplus::SharedWeight;

namespace {

using ConvSet = LoraConvSet<SharedWeight<double>>;

const ConvGeometry plane{.channels = 4,
                         .height = {.size = 4, .kernel = 2, .padding = 1},
                         .width = {.size = 5, .kernel = 3, .stride = 2, .padding = 1}};

void add_trained(ConvSet& convs, const std::string& name, const LoraOptions& options,
                 unsigned seed) {
  std::mt19937_64 generator{seed};
  const LoraConv layer{convs.weight(), convs.geometry(), options, generator};
  convs.set().add(name, test::trained(layer.layer().adapter(), seed));
}

/// Adapters "a", "b" and, with DoRA, "d", over a weight from patches to 4 channels.
ConvSet convolutions(Index groups = 1) {
  ConvGeometry geometry = plane;
  geometry.groups = groups;
  ConvSet convs(SharedWeight<double>(test::random_matrix<double>(4, geometry.patch(), 1),
                                     test::random_vector<double>(4, 2)),
                geometry);
  add_trained(convs, "a", {.rank = 2, .alpha = 3, .lora_bias = true}, 10);
  add_trained(convs, "b", {.rank = 6}, 20);
  add_trained(convs, "d", {.rank = 4, .dora = true}, 30);
  return convs;
}

}  // namespace

TEST_CASE("T14: each image through an adapter of its own, or none; groups too") {
  for (const Index groups : {1, 2}) {
    auto convs = convolutions(groups);
    const std::vector<std::string> names{"d", "a", "__base__", "b", "a"};
    const auto x = test::random_matrix<double>(convs.in_features(), 5, 5);
    auto cache = convs.make_cache(5);
    convs.assign(cache, names);
    Matrix<double> y(convs.out_features(), 5);
    convs.forward(x, y, cache);
    for (Index i = 0; i < 5; ++i) {
      CAPTURE(groups, i);
      const std::string& name = names[static_cast<std::size_t>(i)];
      auto layer = convs.adapted(name == "__base__" ? "a" : name);
      layer.layer().set_enabled(name != "__base__");
      const Matrix<double> one = x.col(i);
      CHECK(test::relative_distance(y.col(i), predict(layer, one)) < 1e-14);
    }
    CHECK_THROWS_AS(convs.assign(cache, std::vector<std::string>(6, "a")), loraplus::ShapeError);
  }
}

TEST_CASE("T10, T7: active adapters of a convolution add up, merged or not") {
  auto convs = convolutions();
  const auto x = test::random_matrix<double>(convs.in_features(), 3, 5);
  const Matrix<double> a = predict(convs, x);
  CHECK(test::same_bits(a, predict(convs.adapted("a"), x)));
  auto base = convs.adapted("a");
  base.layer().set_enabled(false);
  convs.set().set_active({"a", "b"});
  const Matrix<double> both = predict(convs, x);
  CHECK(test::relative_distance(both, a + predict(convs.adapted("b"), x) - predict(base, x)) <
        1e-14);
  convs.set().merge({"b", "a"});
  CHECK(test::relative_distance(predict(convs, x), both) < 1e-14);
  convs.set().unmerge();
  CHECK(test::same_bits(predict(convs, x), both));
}

TEST_CASE("the gradients of several adapters of a convolution, DoRA by itself") {
  for (const Index groups : {1, 2}) {
    auto convs = convolutions(groups);
    convs.set().set_active({"b", "a"});
    test::require_gradients(convs, 3, 6);
    test::require_accumulation(convs, 3, 6);
    // The norm is a constant to the gradients, so DoRA is compared with the layer.
    convs.set().set_active({"d"});
    auto layer = convs.adapted("d");
    const auto x = test::random_matrix<double>(convs.in_features(), 3, 5);
    const auto dy = test::random_matrix<double>(convs.out_features(), 3, 6);
    const auto gradient = [&](auto& trained) {
      auto cache = trained.make_cache(3);
      Matrix<double> y(dy.rows(), 3), dx(x.rows(), 3);
      trained.forward(x, y, cache);
      trained.backward(x, dy, dx, cache);
      return dx;
    };
    CHECK(test::relative_distance(gradient(convs), gradient(layer)) < 1e-14);
    const auto adapter = convs.set().at("d");
    CHECK(test::relative_distance(adapter->factors().a_gradient(),
                                  layer.layer().factors().a_gradient()) < 1e-14);
    CHECK(test::relative_distance(adapter->magnitude()->gradient(),
                                  layer.layer().magnitude()->gradient()) < 1e-14);
  }
}

TEST_CASE("an adapter of a convolution with dropout is evaluated by a set, not trained") {
  auto convs = convolutions();
  std::mt19937_64 generator{1};
  convs.add("drop",
            {.rank = 2, .initialization = loraplus::Initialization::both_uniform, .dropout = 0.5},
            generator);
  convs.set().set_active({"drop"});
  const auto x = test::random_matrix<double>(convs.in_features(), 3, 5);
  CHECK(test::same_bits(predict(convs, x), predict(convs.adapted("drop"), x)));
  auto cache = convs.make_cache(3);
  Matrix<double> y(convs.out_features(), 3);
  CHECK(test::contains(
      test::message_of<loraplus::StateError>([&] { convs.forward(x, y, cache, generator); }),
      "'drop' has dropout, which LoraConv trains"));
  convs.set().set_active({"a"});
  convs.forward(x, y, cache, generator);
  CHECK(test::same_bits(y, predict(convs, x)));
  convs.set().set_active({"drop"});
  convs.set().set_enabled(false);
  CHECK_NOTHROW(convs.forward(x, y, cache, generator));
}

TEST_CASE("adapters of a convolution are drawn as the layer draws them, swapped and combined") {
  auto convs = convolutions(2);
  std::mt19937_64 generator{7}, same{7};
  convs.add("new", {.rank = 4}, generator);
  const LoraConv layer{convs.weight(), convs.geometry(), {.rank = 4}, same};
  CHECK(test::same_bits(convs.set().at("new")->factors().a(), layer.layer().factors().a()));
  convs.set().add("same", {.rank = 4}, generator);
  CHECK(convs.set().at("same")->factors().blocks() == layer.layer().factors().blocks());
  CHECK_THROWS_AS(convs.add("odd", {.rank = 3}, generator), loraplus::ArgumentError);
  CHECK_THROWS_AS(convs.add("bias", {.rank = 2, .bias = loraplus::BiasMode::lora_only}, generator),
                  loraplus::ArgumentError);

  const auto x = test::random_matrix<double>(convs.in_features(), 3, 5);
  auto cache = convs.make_cache(3);
  Matrix<double> y(convs.out_features(), 3);
  convs.forward(x, y, cache);
  convs.set().replace("a", *convs.set().at("b"));  // of another rank
  convs.forward(x, y, cache);
  CHECK(test::same_bits(y, predict(convs.adapted("b"), x)));
}

TEST_CASE("T18: a weighted sum of adapters of a convolution") {
  auto convs = convolutions();
  add_weighted(convs.set(), "sum", {{"a", 0.5}, {"b", 2}});
  const auto x = test::random_matrix<double>(convs.in_features(), 3, 5);
  auto base = convs.adapted("a");
  base.layer().set_enabled(false);
  const Matrix<double> y0 = predict(base, x);
  convs.set().set_active({"sum"});
  CHECK(test::relative_distance(predict(convs, x),
                                y0 + 0.5 * (predict(convs.adapted("a"), x) - y0) +
                                    2 * (predict(convs.adapted("b"), x) - y0)) < 1e-13);
}

TEST_CASE("T18: a weighted sum of adapters of a convolution in groups, exact by cat and svd") {
  auto convs = convolutions(2);
  using loraplus::Combination;
  add_weighted(convs.set(), "cat", {{"a", 0.5}, {"b", 2}});
  add_weighted(convs.set(), "svd", {{"a", 0.5}, {"b", 2}},
               {.type = Combination::svd, .svd_rank = 2});
  CHECK(convs.set().at("cat")->rank() == 8);
  CHECK(convs.set().at("svd")->rank() == 4);
  CHECK(convs.set().at("cat")->factors().blocks().block_rank() == 4);
  const auto x = test::random_matrix<double>(convs.in_features(), 3, 5);
  auto base = convs.adapted("a");
  base.layer().set_enabled(false);
  const Matrix<double> y0 = predict(base, x);
  const Matrix<double> expected =
      y0 + 0.5 * (predict(convs.adapted("a"), x) - y0) + 2 * (predict(convs.adapted("b"), x) - y0);
  for (const auto* name : {"cat", "svd"}) {
    convs.set().set_active({name});
    CHECK(test::relative_distance(predict(convs, x), expected) < 1e-13);
  }
}

TEST_CASE("O11: LoRA+ trains the magnitude of a convolution in a set with A") {
  auto convs = convolutions();
  convs.set().set_active({"d"});
  const loraplus::LoraPlus optimizer{loraplus::AdamW{.learning_rate = 1e-3}, {.ratio = 16}, convs};
  CHECK(optimizer.group_of("d.lora_magnitude_vector").name == "A");
}

TEST_CASE("a set of convolutions takes the adapters of its convolution alone") {
  auto convs = convolutions(2);
  ConvGeometry larger = convs.geometry();
  larger.height.size = 9;
  auto strided = larger;
  strided.height.stride = 2;
  std::mt19937_64 generator{1};
  convs.add("larger", LoraConv{convs.weight(), larger, {.rank = 2}, generator});
  CHECK_THROWS_AS(convs.add("no", LoraConv{convs.weight(), strided, {.rank = 2}, generator}),
                  loraplus::ArgumentError);
  const auto whole = test::trained_adapter(convs.weight(), {.rank = 2}, 1);
  CHECK(test::contains(
      test::message_of<loraplus::ArgumentError>([&] { convs.set().add("no", whole); }),
      "'no': the adapter does not keep 2 groups of outputs apart"));
  CHECK_THROWS_AS((LoraConv{convs.weight(), convs.geometry(), whole}), loraplus::ArgumentError);
  CHECK_FALSE(convs.set().contains("no"));
}

TEST_CASE("a set of convolutions refuses layers with another weight or a trained bias") {
  auto convs = convolutions();
  const auto refusal = [&](double factor, loraplus::BiasMode bias) {
    std::mt19937_64 generator{1};
    const SharedWeight<double> weight(factor * to_matrix(convs.weight()), convs.weight().bias());
    const LoraConv layer{weight, convs.geometry(), {.rank = 2, .bias = bias}, generator};
    return test::message_of<loraplus::ArgumentError>([&] { convs.add("x", layer); });
  };
  CHECK(test::contains(refusal(3, loraplus::BiasMode::none), "another frozen weight"));
  CHECK(test::contains(refusal(1, loraplus::BiasMode::lora_only), "'x' has a trained bias"));
  CHECK_FALSE(convs.set().contains("x"));
}

TEST_CASE("a pass of a convolution that was refused is not gone back through") {
  auto convs = convolutions();
  const auto x = test::random_matrix<double>(convs.in_features(), 3, 5);
  const auto dy = test::random_matrix<double>(convs.out_features(), 3, 6);
  std::mt19937_64 generator{1};
  auto cache = convs.make_cache(3);
  Matrix<double> y(convs.out_features(), 3);
  convs.forward(x, y, cache, generator);
  convs.set().merge({"a"});
  const Matrix<double> other = 2 * x;
  CHECK_THROWS_AS(convs.forward(other, y, cache, generator), loraplus::StateError);
  convs.set().unmerge();
  CHECK_THROWS_AS(convs.backward(x, dy, cache), loraplus::StateError);
  convs.forward(x, y, cache, generator);
  CHECK_NOTHROW(convs.backward(x, dy, cache));
  auto copy = convs;
  CHECK_THROWS_AS(copy.backward(x, dy, cache), loraplus::StateError);
  auto memory = test::random_matrix<double>(std::max(x.rows(), y.rows()), 3, 5);
  auto inputs = memory.topRows(x.rows());
  auto outputs = memory.topRows(y.rows());
  CHECK_THROWS_AS(convs.forward(inputs, outputs, cache), loraplus::ArgumentError);
}

TEST_CASE("a set of convolutions refuses a weight that does not take the patches") {
  CHECK_THROWS_AS(ConvSet(SharedWeight<double>(test::random_matrix<double>(4, 23, 1)), plane),
                  loraplus::ShapeError);
  ConvGeometry wrong = plane;
  wrong.groups = 0;
  CHECK(test::contains(test::message_of<loraplus::ArgumentError>([&] {
                         ConvSet(SharedWeight<double>(test::random_matrix<double>(4, 24, 1)),
                                 wrong);
                       }),
                       "groups must divide the channels"));
}
