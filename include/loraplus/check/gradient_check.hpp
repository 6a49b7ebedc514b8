// SPDX-License-Identifier: MIT
//
// Gradients compared with differences of the function itself. Run it in double on a layer of your
// own before you trust it; it returns numbers and prints nothing.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <loraplus/nn/layer.hpp>
#include <string>
#include <vector>

namespace loraplus::inline v0_1 {

/// How far the gradient of one tensor is from the differences.
struct GradientError {
  std::string tensor;   ///< the name of the parameter, or "x"
  double relative = 0;  ///< largest |analytic - numeric| / largest |analytic| or |numeric|
  Index worst = 0;      ///< the coefficient, in storage order, that is furthest off
  double analytic = 0;  ///< its gradient as the layer computes it
  double numeric = 0;   ///< its gradient by differences
};

/// Compares `analytic` with the fourth-order central differences of `f` at the coefficients that
/// `values` sees, (8 (f(v + h) - f(v - h)) - (f(v + 2h) - f(v - 2h))) / 12h. The coefficients are
/// changed one at a time and restored bit for bit.
/// @param f a function without arguments whose result, a double, depends on `values`
/// @param step h for a coefficient of magnitude up to 1, relative above
template <typename Scalar, typename Function>
GradientError compare_gradient(std::string tensor,
                               Eigen::Map<Eigen::Array<Scalar, Eigen::Dynamic, 1>> values,
                               const Eigen::Array<Scalar, Eigen::Dynamic, 1>& analytic,
                               Function&& f, double step = 1e-4) {
  GradientError error{std::move(tensor)};
  double furthest = -1;
  double largest = 0;
  for (Index i = 0; i < values.size(); ++i) {
    const Scalar original = values(i);
    const double h = step * std::max(1.0, std::abs(static_cast<double>(original)));
    const auto f_at = [&](double offset) {
      values(i) = static_cast<Scalar>(static_cast<double>(original) + offset);
      return static_cast<double>(f());
    };
    const double numeric = (8 * (f_at(h) - f_at(-h)) - (f_at(2 * h) - f_at(-2 * h))) / (12 * h);
    values(i) = original;
    const auto exact = static_cast<double>(analytic(i));
    largest = std::max({largest, std::abs(exact), std::abs(numeric)});
    const double distance = std::abs(exact - numeric);
    if (!(distance <= furthest)) {  // a NaN is furthest of all
      furthest = distance;
      error.worst = i;
      error.analytic = exact;
      error.numeric = numeric;
      if (std::isnan(distance)) break;
    }
  }
  error.relative = furthest <= 0 ? 0 : furthest / largest;
  return error;
}

/// Checks every parameter and the input of a layer: the gradients of sum(dy * forward(x)), an
/// entry a tensor, the input last. The gradients of the layer are used and left at zero; both
/// forms of backward run, and must add the same to them.
///
/// A function with a kink, as ReLU, is only differentiable where no argument is within 2 `step`
/// of it. For a layer with dropout give a generator: a copy of it serves every pass, so that the
/// mask is the same in all.
/// @param x in x n, @param dy out x n, at random
template <Layer L, RandomBits... Generator>
std::vector<GradientError> check_gradients(L& layer, ConstMatrixView<typename L::Scalar> x,
                                           ConstMatrixView<typename L::Scalar> dy,
                                           double step = 1e-4, Generator... generator) {
  using Scalar = typename L::Scalar;
  using Flat = Eigen::Array<Scalar, Eigen::Dynamic, 1>;
  Matrix<Scalar> input = x;                          // in x n
  Matrix<Scalar> y(layer.out_features(), x.cols());  // out x n
  Matrix<Scalar> dx(layer.in_features(), x.cols());  // in x n
  auto cache = layer.make_cache(x.cols());
  const auto forward = [&](Generator... copied) {
    loraplus::forward_layer(layer, input, y, cache, copied...);
  };
  const auto objective = [&] {
    forward(generator...);
    return dy.cwiseProduct(y).sum();
  };

  // Both forms of backward, so that one which does not add up, or leaves out, is found.
  loraplus::zero_gradients(layer);
  dx.setConstant(std::numeric_limits<Scalar>::quiet_NaN());
  forward(generator...);
  layer.backward(input, dy, cache);
  layer.backward(input, dy, dx, cache);
  std::vector<GradientError> errors;
  layer.visit_parameters([&](Parameter<Scalar> parameter) {
    const Flat analytic = parameter.gradient / Scalar(2);
    errors.push_back(
        compare_gradient<Scalar>(parameter.name.str(), parameter.value, analytic, objective, step));
  });
  loraplus::zero_gradients(layer);
  const Flat analytic = dx.reshaped();
  errors.push_back(compare_gradient<Scalar>("x", Eigen::Map<Flat>(input.data(), input.size()),
                                            analytic, objective, step));
  return errors;
}

/// The tensor that is furthest off. @param errors not empty
inline const GradientError& worst(const std::vector<GradientError>& errors) {
  return *std::max_element(errors.begin(), errors.end(), [](const auto& a, const auto& b) {
    return a.relative < b.relative || (std::isnan(b.relative) && !std::isnan(a.relative));
  });
}

}  // namespace loraplus
