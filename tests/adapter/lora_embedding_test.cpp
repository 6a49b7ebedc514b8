#include <loraplus/adapter/lora_embedding.hpp>
#include <loraplus/adapter/lora_embedding_set.hpp>
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/frozen/weight_view.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::Factors;
using loraplus::Index;
using loraplus::LoraEmbedding;
using loraplus::LoraOptions;
using loraplus::Matrix;
using loraplus::RowMajorMatrix;
using loraplus::SharedWeight;
using loraplus::Vector;
using loraplus::WeightView;

namespace {

const std::vector<Index> tokens{3, 0, 5, 3, 3};

template <typename Scalar>
LoraEmbedding<SharedWeight<Scalar>> trained_embedding(bool dora, Index rank = 2) {
  std::mt19937_64 generator{1};
  LoraEmbedding layer{SharedWeight<Scalar>(test::random_matrix<Scalar>(4, 6, 2)),
                      {.rank = rank, .alpha = 3, .dora = dora},
                      generator};
  layer.set_factors(
      {test::random_matrix<Scalar>(rank, 6, 3), test::random_matrix<Scalar>(4, rank, 4)});
  if (dora) layer.set_magnitude(test::random_vector<Scalar>(4, 5));
  return layer;
}

template <typename Layer>
auto looked_up(const Layer& layer, std::span<const Index> which) {
  Matrix<typename Layer::Scalar> y(layer.out_features(), static_cast<Index>(which.size()));
  auto cache = layer.make_cache(y.cols());
  layer.forward(which, y, cache);
  return y;
}

/// The tokens as columns with a single 1 each.
Matrix<double> one_hot(std::span<const Index> which) {
  Matrix<double> x = Matrix<double>::Zero(6, static_cast<Index>(which.size()));
  for (std::size_t i = 0; i < which.size(); ++i) {
    x(which[i], static_cast<Index>(i)) = 1;
  }
  return x;
}

}  // namespace

// EA = [1, 0, 2], EB = [.5, -1]', s = 2; worked out by hand.
TEST_CASE("the hand-worked example of an embedding") {
  const Matrix<double> w = Matrix<double>::Zero(2, 3);
  const Factors<double> factors{(RowMajorMatrix<double>(1, 3) << 1, 0, 2).finished(),
                                (Matrix<double>(2, 1) << 0.5, -1).finished(), 2};
  LoraEmbedding layer{WeightView{w}, factors};
  const Matrix<double> delta = (Matrix<double>(2, 3) << 1, 0, 2, -2, 0, -4).finished();
  CHECK(test::relative_distance(layer.merged_weight(), delta) < 1e-15);
  CHECK(test::relative_distance(looked_up(layer, std::vector<Index>{0, 1, 2}), delta) < 1e-15);
}

TEST_CASE("T1: an embedding starts with A = 0 and B ~ N(0, 1), and as its weight") {
  std::mt19937_64 generator{1};
  const SharedWeight<double> weight(test::random_matrix<double>(400, 6, 2));
  for (const auto initialization :
       {loraplus::Initialization::a_uniform, loraplus::Initialization::a_gaussian,
        loraplus::Initialization::both_uniform}) {
    const bool both = initialization == loraplus::Initialization::both_uniform;
    const LoraEmbedding layer{weight, {.rank = 8, .initialization = initialization}, generator};
    CHECK(layer.factors().a().isZero(0) != both);
    CHECK(std::abs(layer.factors().b().squaredNorm() / 3200 - 1) < 0.13);  // five standard errors
    const Matrix<double> y = looked_up(layer, tokens);
    for (std::size_t i = 0; i < tokens.size() && !both; ++i) {
      CHECK(y.col(static_cast<Index>(i)) == weight.weight().col(tokens[i]));
    }
  }
}

TEST_CASE("an embedding is a linear layer on columns with a single 1, gradients included") {
  for (const bool dora : {false, true}) {
    for (const Index rank : {1, 2, 9}) {
      CAPTURE(dora, rank);
      auto layer = trained_embedding<double>(dora, rank);
      loraplus::LoraLinear linear{layer.weight(), layer.factors().factors(), {.dora = dora}};
      if (dora) linear.set_magnitude(layer.magnitude()->values());
      const auto n = static_cast<Index>(tokens.size());
      const Matrix<double> x = one_hot(tokens), dy = test::random_matrix<double>(4, n, 6);
      auto cache = layer.make_cache(n);
      auto linear_cache = linear.make_cache(n);
      Matrix<double> y(4, n), expected(4, n);
      for (int pass = 0; pass < 2; ++pass) {  // gradients add up
        layer.forward(tokens, y, cache);
        layer.backward(tokens, dy, cache);
        linear.forward(x, expected, linear_cache);
        linear.backward(x, dy, linear_cache);
      }
      CHECK(test::relative_distance(y, expected) < 1e-14);
      const auto& found = layer.factors();
      CHECK(test::relative_distance(found.a_gradient(), linear.factors().a_gradient()) < 1e-14);
      CHECK(test::relative_distance(found.b_gradient(), linear.factors().b_gradient()) < 1e-14);
      if (dora) {
        CHECK(test::relative_distance(layer.magnitude()->gradient(),
                                      linear.magnitude()->gradient()) < 1e-14);
      }
    }
  }
}

TEMPLATE_TEST_CASE("a merged embedding equals the unmerged, and unmerging is exact", "", float,
                   double) {
  const double tolerance = std::is_same_v<TestType, float> ? 1e-5 : 1e-14;
  for (const bool dora : {false, true}) {
    auto layer = trained_embedding<TestType>(dora);
    const auto unmerged = looked_up(layer, tokens);
    layer.merge();
    CHECK(test::relative_distance(looked_up(layer, tokens), unmerged) < tolerance);
    auto cache = layer.make_cache(5);
    CHECK_THROWS_AS(layer.backward(tokens, unmerged, cache), loraplus::StateError);
    CHECK_THROWS_AS(loraplus::zero_gradients(layer), loraplus::StateError);
    layer.unmerge();
    CHECK(test::same_bits(looked_up(layer, tokens), unmerged));
    layer.set_enabled(false);
    CHECK(looked_up(layer, tokens).col(0) == layer.weight().weight().col(3));
  }
}

TEST_CASE("O2: LoRA+ has a learning rate of its own for the adapter of an embedding") {
  auto layer = trained_embedding<double>(true);
  const loraplus::LoraPlus optimizer{loraplus::AdamW{.learning_rate = 5e-5},
                                     {.ratio = 1.2, .embedding_learning_rate = 1e-6},
                                     layer};
  CHECK(optimizer.group_of("lora_embedding_A").learning_rate == 1e-6);
  CHECK(optimizer.group_of("lora_embedding_B").learning_rate == 1e-6);
  CHECK(optimizer.group_of("lora_magnitude_vector").name == "B");
}

TEST_CASE("T23: what an embedding does not have is refused, and tokens that are none") {
  std::mt19937_64 generator{1};
  const SharedWeight<float> weight(Matrix<float>::Ones(4, 6));
  const auto refused = [&](const LoraOptions& options) {
    return test::message_of<loraplus::ArgumentError>([&] {
      LoraEmbedding{weight, options, generator};
    });
  };
  CHECK(test::contains(refused({.dropout = 0.1}), "dropout"));
  CHECK(test::contains(refused({.lora_bias = true}), "lora_bias"));
  CHECK(test::contains(refused({.bias = loraplus::BiasMode::all}), "bias"));
  CHECK(test::contains(refused({.enabled_groups = {true, false}}), "groups"));
  CHECK_THROWS_AS(
      (LoraEmbedding{weight, Factors<float>{RowMajorMatrix<float>(2, 5), Matrix<float>(4, 2)}}),
      loraplus::ShapeError);

  LoraEmbedding layer{weight, {.rank = 2}, generator};
  auto cache = layer.make_cache(3);
  Matrix<float> y(4, 3);
  const auto message = [&](const std::vector<Index>& which) {
    return test::message_of<loraplus::ArgumentError>([&] { layer.forward(which, y, cache); });
  };
  CHECK(message({0, 6, 1}) == "LoraEmbedding::forward: token 1 is 6, the vocabulary has 6");
  CHECK(test::contains(message({0, 1, -1}), "token 2 is -1"));
  CHECK(test::contains(message({0, 1}), "y must be 4 x 2"));
  CHECK_THROWS_AS(layer.backward(std::vector<Index>{0, 1, 2}, y, cache), loraplus::StateError);
  layer.forward(std::vector<Index>{}, y.leftCols(0), cache);
}

TEST_CASE("a backward pass through another embedding than the forward pass is refused") {
  auto layer = trained_embedding<double>(false);
  auto larger = trained_embedding<double>(false, 8);
  auto copy = layer;
  auto cache = layer.make_cache(5);
  Matrix<double> y(4, 5);
  layer.forward(tokens, y, cache);
  CHECK_NOTHROW(copy.backward(tokens, y, cache));
  CHECK_THROWS_AS(larger.backward(tokens, y, cache), loraplus::StateError);
  CHECK_THROWS_AS(trained_embedding<double>(false).backward(tokens, y, cache),
                  loraplus::StateError);
}

TEST_CASE("T23: an adapter with what an embedding does not have is refused") {
  const SharedWeight<double> weight(test::random_matrix<double>(4, 6, 1));
  const auto refused = [&](const LoraOptions& options) {
    std::mt19937_64 generator{1};
    const loraplus::Adapter<double> adapter(weight, options, generator);
    const auto of_layer = test::message_of<loraplus::ArgumentError>([&] {
      LoraEmbedding{weight, adapter};
    });
    loraplus::LoraEmbeddingSet set(weight);
    const auto of_set = test::message_of<loraplus::ArgumentError>([&] { set.add("no", adapter); });
    CHECK(of_set == "LoraEmbeddingSet: 'no'" + of_layer.substr(of_layer.find(':')));
    CHECK(set.names().empty());
    return of_layer;
  };
  CHECK(test::contains(refused({.dropout = 0.1}), "no dropout"));
  CHECK(test::contains(refused({.lora_bias = true}), "no lora_bias"));
  CHECK(test::contains(refused({.enabled_groups = {true, false}}), "no groups"));
  CHECK(test::contains(refused({.enabled_groups = {true, true}}), "no groups"));
}
