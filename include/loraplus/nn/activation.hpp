// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <loraplus/core/error.hpp>
#include <loraplus/core/matrix.hpp>
#include <numbers>
#include <string_view>

namespace loraplus::inline v0_1 {

/// An elementwise function, chosen when the program runs: one switch a call, none a coefficient.
enum class Activation {
  identity,   ///< x
  relu,       ///< max(0, x), derivative 0 at 0
  gelu,       ///< x Phi(x) (Hendrycks and Gimpel, "GELU"), as PyTorch's approximate="none"
  gelu_tanh,  ///< x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, as approximate="tanh"
  silu,       ///< x / (1 + exp(-x))
  tanh,       ///< the hyperbolic tangent
};

/// The name of the enumerator.
constexpr std::string_view to_string(Activation activation) {
  switch (activation) {
    case Activation::identity:
      return "identity";
    case Activation::relu:
      return "relu";
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_tanh";
    case Activation::silu:
      return "silu";
    case Activation::tanh:
      return "tanh";
  }
  return "unknown";
}

namespace detail {

// value(x) is an array expression, which Eigen evaluates with vector instructions where it can;
// derivative(x, y) is of one coefficient.

template <typename Scalar>
struct Relu {
  static auto value(const auto& x) {
    return x.unaryExpr([](Scalar v) { return v < 0 ? Scalar(0) : v; });  // a NaN passes through
  }
  static Scalar derivative(Scalar /*x*/, Scalar y) { return y > 0 ? Scalar(1) : y * 0; }
};

template <typename Scalar>
struct Tanh {
  static auto value(const auto& x) { return x.tanh(); }
  static Scalar derivative(Scalar /*x*/, Scalar y) { return 1 - y * y; }
};

/// GELU and SiLU are x times a gate q(x) in (0, 1). The derivative q + x q'(x) takes the gate
/// from the output, q = y / x, so the backward pass repeats no erf and no tanh; q(0) = 1/2.
template <typename Scalar>
Scalar gate(Scalar x, Scalar y) {
  return x == 0 ? Scalar(0.5) : y / x;
}

template <typename Scalar>
struct Gelu {
  static auto value(const auto& x) {
    return x.unaryExpr([](Scalar v) {
      using std::erf;
      return v * (Scalar(0.5) * (1 + erf(v * Scalar(std::numbers::sqrt2 / 2))));
    });
  }
  static Scalar derivative(Scalar x, Scalar y) {  // Phi(x) + x phi(x)
    using std::exp;
    const auto density = Scalar(std::numbers::inv_sqrtpi / std::numbers::sqrt2);
    return gate(x, y) + x * density * exp(Scalar(-0.5) * x * x);
  }
};

template <typename Scalar>
struct GeluTanh {
  static Scalar linear() { return Scalar(std::numbers::sqrt2 * std::numbers::inv_sqrtpi); }
  static Scalar cubic() { return linear() * Scalar(0.044715); }

  static auto value(const auto& x) {
    return x * (Scalar(0.5) * (Scalar(1) + (x * (linear() + cubic() * x * x)).tanh()));
  }
  static Scalar derivative(Scalar x, Scalar y) {  // q = (1 + tanh u)/2, q' = 2 q (1 - q) u'
    const Scalar q = gate(x, y);
    return q + 2 * y * (1 - q) * (linear() + 3 * cubic() * x * x);
  }
};

template <typename Scalar>
struct Silu {
  static auto value(const auto& x) { return x / (Scalar(1) + (-x).exp()); }
  static Scalar derivative(Scalar x, Scalar y) {  // q' = q (1 - q)
    const Scalar q = gate(x, y);
    return q + y * (1 - q);
  }
};

/// Calls `use` with the function's implementation; for the identity not at all.
template <typename Scalar, typename Use>
void with_activation(Activation activation, Use&& use) {
  switch (activation) {
    case Activation::identity:
      return;
    case Activation::relu:
      return use(Relu<Scalar>{});
    case Activation::gelu:
      return use(Gelu<Scalar>{});
    case Activation::gelu_tanh:
      return use(GeluTanh<Scalar>{});
    case Activation::silu:
      return use(Silu<Scalar>{});
    case Activation::tanh:
      return use(Tanh<Scalar>{});
  }
}

}  // namespace detail

/// Whether the derivative needs the input x, or can be told from the output y alone, so that the
/// function may work in place.
constexpr bool derivative_needs_input(Activation activation) {
  return activation == Activation::gelu || activation == Activation::gelu_tanh ||
         activation == Activation::silu;
}

/// y = f(x); y may be x. @param x, y f x n
template <RealScalar Scalar>
void activate(Activation activation, ConstMatrixView<Scalar> x, MatrixView<Scalar> y) {
  require_shape("activate", "y", y, x.rows(), x.cols());
  if (activation == Activation::identity && x.data() != y.data()) y = x;
  detail::with_activation<Scalar>(activation, [&](auto f) { y.array() = f.value(x.array()); });
}

/// dx = f'(x) dy, elementwise; dx may be dy. @param x, y, dy, dx f x n; y = f(x), and x may be y
/// if derivative_needs_input is false
template <RealScalar Scalar>
void activate_backward(Activation activation, ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> y,
                       ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx) {
  require_shape("activate_backward", "y", y, x.rows(), x.cols());
  require_shape("activate_backward", "dy", dy, x.rows(), x.cols());
  require_shape("activate_backward", "dx", dx, x.rows(), x.cols());
  if (activation == Activation::identity && dx.data() != dy.data()) dx = dy;
  detail::with_activation<Scalar>(activation, [&](auto f) {
    dx = dy.cwiseProduct(
        x.binaryExpr(y, [f](Scalar in, Scalar out) { return f.derivative(in, out); }));
  });
}

}  // namespace loraplus
