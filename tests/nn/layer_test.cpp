#include <loraplus/nn/layer.hpp>
#include <loraplus/nn/linear.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"
#include "support/user_layer.hpp"

using loraplus::Layer;
using loraplus::Matrix;

namespace {

struct NotALayer {
  using Scalar = float;
};

struct NoCache : test::Scale<double> {
  using Cache = int;  // make_cache gives something else
};

static_assert(Layer<loraplus::Linear<float>>);
static_assert(Layer<test::Scale<double>>);
static_assert(!Layer<NotALayer>);
static_assert(!Layer<NoCache>);
static_assert(!Layer<Matrix<float>>);

/// Remembers whether a generator reached it.
struct Dice : test::Scale<double> {
  using test::Scale<double>::Scale;
  using test::Scale<double>::forward;
  template <typename Generator>
  void forward(loraplus::ConstMatrixView<double>, loraplus::MatrixView<double> y, Cache&,
               Generator& generator) const {
    y.setConstant(static_cast<double>(generator()));
  }
};

}  // namespace

TEST_CASE("the generator reaches a layer that wants it, and no other") {
  std::mt19937_64 generator{1}, reference{1};
  const Matrix<double> x = Matrix<double>::Ones(2, 1);
  Matrix<double> y(2, 1);
  const test::Scale<double> plain(2, 3.0);
  auto plain_cache = plain.make_cache(1);
  loraplus::forward_layer(plain, x, y, plain_cache, generator);
  CHECK(y(0, 0) == 3);
  CHECK(generator == reference);
  const Dice dice(2, 3.0);
  auto cache = dice.make_cache(1);
  loraplus::forward_layer(dice, x, y, cache, generator);
  CHECK(y(0, 0) == static_cast<double>(reference()));
  loraplus::forward_layer(dice, x, y, cache);
  CHECK(y(0, 0) == 3);
}

TEST_CASE("predict gives the output in a matrix of its own") {
  const test::Scale<double> layer(3, 2.0);
  const auto x = test::random_matrix<double>(3, 4, 1);
  CHECK(loraplus::predict(layer, x) == 2 * x);
  CHECK(loraplus::predict(layer, x.leftCols(0)).cols() == 0);
}
