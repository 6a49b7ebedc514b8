#include <Eigen/LU>
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/optim/riemannian.hpp>
#include <loraplus/optim/sgd.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::AdamW;
using loraplus::ArgumentError;
using loraplus::FactorPair;
using loraplus::GramSolver;
using loraplus::Index;
using loraplus::LoraLinear;
using loraplus::Matrix;
using loraplus::Optimizer;
using loraplus::Riemannian;
using loraplus::RowMajorMatrix;
using loraplus::Sgd;
using loraplus::SharedWeight;

namespace {

/// Trains an adapter with given factors for some steps of gradient descent, and gives B A.
Matrix<double> trained_product(const RowMajorMatrix<double>& a, const Matrix<double>& b,
                               Index steps, const Riemannian<Sgd>& rule) {
  std::mt19937_64 generator{1};
  const Index out = b.rows(), in = a.cols();
  LoraLinear layer(SharedWeight<double>(test::random_matrix<double>(out, in, 1)),
                   {.rank = a.rows(), .alpha = static_cast<double>(a.rows())}, generator);
  layer.set_factors(a, b);
  Optimizer optimizer(rule, layer);
  auto cache = layer.make_cache(6);
  const auto x = test::random_matrix<double>(in, 6, 2),
             target = test::random_matrix<double>(out, 6, 3);
  Matrix<double> y(out, 6);
  for (Index step = 0; step < steps; ++step) {
    layer.forward(x, y, cache);
    const Matrix<double> dy = y - target;
    layer.backward(x, dy, cache);
    optimizer.step(layer);
  }
  return layer.factors().b() * layer.factors().a();
}

}  // namespace

// PEFT's vector: A = [1 0 2], B = [2 -1]', gA = [1 1 1], gB = [1 2]', reg = 0.01.
TEMPLATE_TEST_CASE("Riemannian: the gradients are PEFT's", "", float, double) {
  using Scalar = TestType;
  RowMajorMatrix<Scalar> a(1, 3), a_gradient(1, 3);
  Matrix<Scalar> b(2, 1), b_gradient(2, 1);
  a << 1, 0, 2;
  b << 2, -1;
  a_gradient << 1, 1, 1;
  b_gradient << 1, 2;
  FactorPair<Scalar> pair{{a.data(), 1, 3},
                          {b.data(), 1, 2},
                          {a_gradient.data(), 1, 3},
                          {b_gradient.data(), 1, 2},
                          Scalar(1)};
  GramSolver solver(1);
  REQUIRE(Riemannian{Sgd{}, 0.01}.precondition(pair, solver));
  const double unit = sizeof(Scalar) == 4 ? 1e-6 : 1e-9;
  Matrix<double> expected_a = Matrix<double>::Constant(1, 3, 0.1996007984);
  Matrix<double> expected_b(2, 1);
  expected_b << 0.1996007984, 0.3992015968;
  CHECK(test::relative_distance(a_gradient, expected_a) < unit);
  CHECK(test::relative_distance(b_gradient, expected_b) < unit);
}

// The metric is one of the product: factors (A, B) and (P A, B P^-1) learn the same B A.
TEST_CASE("Riemannian: under SGD the product learns the same way from any factors of it") {
  const RowMajorMatrix<double> a = test::random_matrix<double>(3, 7, 5);
  const auto b = test::random_matrix<double>(4, 3, 6);
  const Matrix<double> p =
      test::random_matrix<double>(3, 3, 7) + 2 * Matrix<double>::Identity(3, 3);
  const Riemannian<Sgd> rule{Sgd{.learning_rate = 0.05}, 1e-14};
  const RowMajorMatrix<double> other_a = p * a;
  const Matrix<double> other_b = b * p.inverse();
  const auto product = trained_product(a, b, 20, rule);
  CHECK(test::relative_distance(trained_product(other_a, other_b, 20, rule), product) < 1e-8);
  CHECK(test::relative_distance(product, b * a) > 0.1);  // it did move
  // which plain gradient descent does not
  const Riemannian<Sgd> weak{Sgd{.learning_rate = 0.05}, 1e9};
  const auto slow = trained_product(a, b, 20, weak);
  CHECK(test::relative_distance(slow, b * a) < 1e-6);
}

TEST_CASE("Riemannian: with B = 0 the first step moves B alone, and the next one both") {
  std::mt19937_64 generator{1};
  LoraLinear layer(SharedWeight<double>(test::random_matrix<double>(4, 6, 1)), {.rank = 2},
                   generator);
  const RowMajorMatrix<double> a = layer.factors().a();
  Optimizer optimizer(Riemannian{AdamW{.learning_rate = 1e-2, .weight_decay = 0}}, layer);
  auto cache = layer.make_cache(5);
  const auto x = test::random_matrix<double>(6, 5, 2), dy = test::random_matrix<double>(4, 5, 3);
  Matrix<double> y(4, 5);
  const auto step = [&] {
    layer.forward(x, y, cache);
    layer.backward(x, dy, cache);
    optimizer.step(layer);
  };
  step();
  CHECK(test::same_bits(layer.factors().a(), a));
  CHECK(layer.factors().b().norm() > 0.01);
  step();
  CHECK_FALSE(test::same_bits(layer.factors().a(), a));
  CHECK(layer.factors().a().allFinite());
}

TEST_CASE("Riemannian refuses a regularization that is not positive") {
  for (const double bad : {0.0, -1.0, std::numeric_limits<double>::infinity()}) {
    CHECK_THROWS_AS((Riemannian{Sgd{}, bad}.validate()), ArgumentError);
  }
  CHECK_THROWS_AS((Riemannian{Sgd{.momentum = 2}}.validate()), ArgumentError);
}
