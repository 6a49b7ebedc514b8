#include <loraplus/frozen/frozen_linear.hpp>
#include <loraplus/frozen/shared_weight.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"
#include "support/sparse_weight.hpp"

using loraplus::FrozenLinear;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::SharedWeight;

namespace {

SharedWeight<double> shared(Index out, Index in) {
  return SharedWeight<double>(test::random_matrix<double>(out, in, 1),
                              test::random_vector<double>(out, 2));
}

static_assert(loraplus::Layer<FrozenLinear<SharedWeight<double>>>);
static_assert(loraplus::Layer<FrozenLinear<test::SparseWeight<float>>>);

}  // namespace

TEST_CASE("the gradients of a frozen layer, with and without a trained bias") {
  for (const bool train_bias : {false, true}) {
    for (const auto& [in, out] : {std::pair<Index, Index>{7, 5}, {1, 1}, {5, 1}, {1, 5}}) {
      for (const Index n : {1, 2, 17}) {
        FrozenLinear layer(shared(out, in), train_bias);
        CAPTURE(train_bias, in, out);
        CHECK(loraplus::parameter_count(layer) == (train_bias ? out : 0));
        test::require_gradients(layer, n, 3);
        test::require_accumulation(layer, n, 3);
      }
    }
  }
}

TEST_CASE("an untrained bias changes nothing, a trained one replaces that of the weight") {
  const auto weight = shared(5, 4);
  FrozenLinear plain(weight);
  FrozenLinear trained(weight, true);
  const auto x = test::random_matrix<double>(4, 3, 3);
  const Matrix<double> before = predict(plain, x);
  CHECK(test::same_bits(predict(trained, x), before));
  trained.visit_parameters([](auto bias) { bias.value += 0.5; });
  CHECK(test::relative_distance(predict(trained, x), (before.array() + 0.5).matrix()) < 1e-14);
  CHECK(trained.bias() == (weight.bias().array() + 0.5).matrix());
  CHECK(plain.bias() == weight.bias());
}

TEST_CASE("a weight without a bias has none to train") {
  FrozenLinear layer(SharedWeight<double>(test::random_matrix<double>(3, 2, 1)), true);
  CHECK_FALSE(layer.trains_bias());
  CHECK(loraplus::parameter_count(layer) == 0);
}

TEST_CASE("the bias of a weight that does not tell it cannot be trained") {
  const test::SparseWeight<double> weight{test::random_matrix<double>(3, 2, 1).sparseView()};
  CHECK_NOTHROW(FrozenLinear(weight));
  CHECK(test::contains(
      test::message_of<loraplus::ArgumentError>([&] { FrozenLinear(weight, true); }), "bias()"));
}

TEST_CASE("a frozen layer refuses wrong shapes") {
  FrozenLinear layer(shared(5, 4));
  auto cache = layer.make_cache(3);
  Matrix<double> x(4, 3), y(5, 3), dx(4, 3);
  CHECK_THROWS_AS(layer.forward(Matrix<double>(5, 3), y, cache), loraplus::ShapeError);
  Matrix<double> narrow(5, 2);
  CHECK_THROWS_AS(layer.forward(x, narrow, cache), loraplus::ShapeError);
  CHECK_THROWS_AS(layer.backward(x, narrow, cache), loraplus::ShapeError);
  CHECK_THROWS_AS(layer.backward(x, y, narrow, cache), loraplus::ShapeError);
}
