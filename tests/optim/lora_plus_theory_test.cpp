// Exact properties of LoRA+, which hold for any right implementation of it.
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/nn/loss.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/optim/sgd.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::Adam;
using loraplus::Index;
using loraplus::Initialization;
using loraplus::LoraLinear;
using loraplus::LoraOptions;
using loraplus::LoraPlus;
using loraplus::Matrix;
using loraplus::MeanSquaredError;
using loraplus::Sgd;
using loraplus::SharedWeight;

namespace {

using Layer = LoraLinear<SharedWeight<double>>;

/// Trains an adapter by LoRA+ on a regression task, and gives B A after every step.
template <typename Rule>
std::vector<Matrix<double>> products(const LoraOptions& options, const Rule& rule, double ratio,
                                     int steps) {
  const SharedWeight<double> weight(test::random_matrix<double>(5, 7, 1));
  std::mt19937_64 generator{2};
  Layer layer(weight, options, generator);
  LoraPlus optimizer{rule, {.ratio = ratio}, layer};
  auto cache = layer.make_cache(4);
  Matrix<double> y(5, 4), dy(5, 4);
  std::vector<Matrix<double>> products;
  for (int step = 0; step < steps; ++step) {
    const auto x = test::random_matrix<double>(7, 4, 100 + static_cast<unsigned>(step) % 8);
    const auto target = test::random_matrix<double>(5, 4, 200 + static_cast<unsigned>(step) % 8);
    layer.forward(x, y, cache);
    MeanSquaredError::evaluate<double>(y, target, dy);
    layer.backward(x, dy, cache);
    optimizer.step(layer);
    products.push_back(layer.factors().b() * layer.factors().a());
  }
  return products;
}

double furthest(const std::vector<Matrix<double>>& a, const std::vector<Matrix<double>>& b) {
  double distance = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    distance = std::max(distance, test::relative_distance(a[i], b[i]));
  }
  return distance;
}

}  // namespace

// With p = sqrt(ratio), A' = p A and B' = B / p have the product of A and B, and Adam, whose steps
// do not depend on the size of a gradient, moves them by p etaA each. Powers of two are exact.
TEST_CASE("under Adam a ratio of 4^k is a rescaled initialisation, bit for bit over 200 steps") {
  const double rate = 1e-3;
  for (const double p : {2.0, 4.0, 16.0, 0.5}) {
    for (const auto initialization :
         {Initialization::a_uniform, Initialization::a_gaussian, Initialization::b_uniform}) {
      CAPTURE(p, static_cast<int>(initialization));
      const bool a_is_random = initialization != Initialization::b_uniform;
      const auto lora_plus = products({.rank = 3, .alpha = 5, .initialization = initialization},
                                      Adam{.learning_rate = rate, .epsilon = 0}, p * p, 200);
      const auto lora = products({.rank = 3,
                                  .alpha = 5,
                                  .initialization = initialization,
                                  .init_scale = a_is_random ? p : 1 / p},
                                 Adam{.learning_rate = p * rate, .epsilon = 0}, 1, 200);
      for (std::size_t step = 0; step < lora.size(); ++step) {
        REQUIRE(test::same_bits(lora_plus[step], lora[step]));
      }
      CHECK(lora.back().norm() > 0.01);  // it did move
    }
  }
}

TEST_CASE("a rescaled initialisation without its rate is another training") {
  const auto lora_plus = products({.rank = 3}, Adam{.learning_rate = 1e-3, .epsilon = 0}, 4, 20);
  const auto other =
      products({.rank = 3, .init_scale = 2}, Adam{.learning_rate = 1e-3, .epsilon = 0}, 1, 20);
  CHECK(furthest(other, lora_plus) > 0.1);
}

// Under gradient descent p = ratio^(1/4), and the common rate is sqrt(ratio) etaA.
TEST_CASE("under SGD a ratio is a rescaled initialisation, to rounding") {
  for (const double momentum : {0.0, 0.9}) {
    for (const double ratio : {3.0, 16.0, 0.2}) {
      CAPTURE(momentum, ratio);
      const double rate = 1e-3;
      const auto lora_plus = products({.rank = 3, .alpha = 5},
                                      Sgd{.learning_rate = rate, .momentum = momentum}, ratio, 200);
      const auto lora =
          products({.rank = 3, .alpha = 5, .init_scale = std::pow(ratio, 0.25)},
                   Sgd{.learning_rate = std::sqrt(ratio) * rate, .momentum = momentum}, 1, 200);
      CHECK(furthest(lora_plus, lora) < 1e-9);
      CHECK(lora.back().norm() > 0.01);
    }
  }
}

// The linear model of the LoRA+ paper, equation 2: f(x) = b a'x, x with entries of size 1. Its
// gradient descent is a recursion in b and a'x alone, so with rates (k / n, k') it is the same at
// every width n.
TEST_CASE("the paper's linear model learns the same way at every width") {
  const double k = 0.2, rate_b = 0.3, target = 1.7;
  const auto outputs = [&](Index n) {
    std::mt19937_64 generator{1};
    Layer layer(SharedWeight<double>(Matrix<double>(Matrix<double>::Zero(1, n))),
                {.rank = 1, .alpha = 1}, generator);
    // a'x = 0.6 at the start, b = 0
    layer.set_factors(Matrix<double>(Matrix<double>::Constant(1, n, 0.6 / double(n))),
                      Matrix<double>(Matrix<double>::Zero(1, 1)));
    const double rate_a = k / double(n);
    LoraPlus optimizer{Sgd{.learning_rate = rate_a}, {.ratio = rate_b / rate_a}, layer};
    auto cache = layer.make_cache(1);
    const Matrix<double> x = Matrix<double>::Ones(n, 1);
    Matrix<double> y(1, 1), dy(1, 1);
    std::vector<double> found;
    for (int step = 0; step < 40; ++step) {
      layer.forward(x, y, cache);
      found.push_back(y(0, 0));
      dy(0, 0) = y(0, 0) - target;  // of the loss (f - y)^2 / 2
      layer.backward(x, dy, cache);
      optimizer.step(layer);
    }
    return found;
  };

  // the recursion itself: b -= eta_b s U, s -= k b U
  double s = 0.6, b = 0;
  std::vector<double> recursion;
  for (int step = 0; step < 40; ++step) {
    recursion.push_back(b * s);
    const double residual = b * s - target;
    const double b_before = b;
    b -= rate_b * s * residual;
    s -= k * b_before * residual;
  }
  CHECK(std::abs(recursion.back() - target) < 0.1);  // it does learn
  for (const Index n : {1, 10, 64, 1000, 4096}) {
    CAPTURE(n);
    const auto found = outputs(n);
    for (std::size_t step = 0; step < found.size(); ++step) {
      CHECK(std::abs(found[step] - recursion[step]) < 1e-12);
    }
  }
}
