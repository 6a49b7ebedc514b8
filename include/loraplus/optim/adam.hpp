// SPDX-License-Identifier: MIT
#pragma once

#include <limits>
#include <loraplus/optim/update_rule.hpp>

namespace loraplus::inline v0_1 {

namespace detail {

/// What Adam and AdamW share (Kingma and Ba, "Adam", algorithm 1, in PyTorch's arrangement):
///
///     m += (1 - b1) (g - m),  v = b2 v + (1 - b2) g^2
///     p -= eta / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + epsilon)
///
/// An epsilon of 0 counts as the root of the smallest normal number: far below any sqrt(v) that is
/// not 0, and a coefficient whose v is 0 stays where it is, instead of becoming m / 0.
struct AdamMoments {
  double beta1;
  double beta2;
  double epsilon;

  void validate(const char* rule) const {
    require_argument(beta1 >= 0 && beta1 < 1, rule, "beta1 must be in [0, 1)", beta1);
    require_argument(beta2 >= 0 && beta2 < 1, rule, "beta2 must be in [0, 1)", beta2);
    require_argument(is_finite_nonnegative(epsilon), rule, "epsilon must be finite and at least 0",
                     epsilon);
  }

  template <typename Visitor>
  void visit_settings(Visitor& visit) const {
    visit("beta1", beta1);
    visit("beta2", beta2);
    visit("epsilon", epsilon);
  }

  template <RealScalar Scalar, typename Gradient>
  void step(FlatView<Scalar>& value, const Gradient& g, OptimizerStateView<Scalar>& state,
            const UpdateContext& context) const {
    using std::sqrt;
    const auto t = static_cast<double>(context.step);
    const double correction1 = 1 - std::pow(beta1, t);
    const double correction2 = 1 - std::pow(beta2, t);
    const auto b1 = static_cast<Scalar>(1 - beta1);
    const auto b2 = static_cast<Scalar>(beta2);
    const auto rate = static_cast<Scalar>(context.learning_rate / correction1);
    const auto inverse_root = static_cast<Scalar>(1 / std::sqrt(correction2));
    const Scalar smallest = sqrt(std::numeric_limits<Scalar>::min());
    const Scalar eps = epsilon == 0 ? smallest : static_cast<Scalar>(epsilon);
    auto m = state.col(0);
    auto v = state.col(1);
    m += b1 * (g - m);
    v = b2 * v + static_cast<Scalar>(1 - beta2) * g.square();
    value -= rate * m / (v.sqrt() * inverse_root + eps);
  }
};

}  // namespace detail

/// Adam as PyTorch's: the weight decay is added to the gradient, g = gradient + l p.
struct Adam {
  /// eta, finite and at least 0; a group of the optimizer may have another.
  double learning_rate = 1e-3;
  /// b1, in [0, 1).
  double beta1 = 0.9;
  /// b2, in [0, 1).
  double beta2 = 0.999;
  /// Finite and at least 0.
  double epsilon = 1e-8;
  /// l, finite and at least 0; a group may have another.
  double weight_decay = 0;

  static constexpr bool is_elementwise = true;
  static constexpr Index state_count() { return 2; }
  static std::string name() { return "Adam"; }

  template <typename Visitor>
  void visit_settings(Visitor&& visit) const {
    moments().visit_settings(visit);
  }

  void validate() const {
    detail::require_rate_and_decay("Adam", learning_rate, weight_decay);
    moments().validate("Adam");
  }

  template <RealScalar Scalar>
  void update(FlatView<Scalar> value, ConstFlatView<Scalar> gradient,
              OptimizerStateView<Scalar> state, const UpdateContext& context) const {
    const auto decay = static_cast<Scalar>(context.weight_decay);
    if (context.weight_decay == 0) {
      moments().template step<Scalar>(value, gradient, state, context);
    } else {
      moments().template step<Scalar>(value, gradient + decay * value, state, context);
    }
  }

 private:
  detail::AdamMoments moments() const { return {beta1, beta2, epsilon}; }
};

/// AdamW as PyTorch's: the decay is decoupled, p *= 1 - eta l before the step (Loshchilov and
/// Hutter, "Decoupled Weight Decay Regularization", algorithm 2).
struct AdamW {
  /// eta, finite and at least 0; a group of the optimizer may have another.
  double learning_rate = 1e-3;
  /// b1, in [0, 1).
  double beta1 = 0.9;
  /// b2, in [0, 1).
  double beta2 = 0.999;
  /// Finite and at least 0.
  double epsilon = 1e-8;
  /// l, finite and at least 0; a group may have another.
  double weight_decay = 1e-2;

  static constexpr bool is_elementwise = true;
  static constexpr Index state_count() { return 2; }
  static std::string name() { return "AdamW"; }

  template <typename Visitor>
  void visit_settings(Visitor&& visit) const {
    moments().visit_settings(visit);
  }

  void validate() const {
    detail::require_rate_and_decay("AdamW", learning_rate, weight_decay);
    moments().validate("AdamW");
  }

  template <RealScalar Scalar>
  void update(FlatView<Scalar> value, ConstFlatView<Scalar> gradient,
              OptimizerStateView<Scalar> state, const UpdateContext& context) const {
    if (context.weight_decay != 0) {
      value *= static_cast<Scalar>(1 - context.learning_rate * context.weight_decay);
    }
    moments().template step<Scalar>(value, gradient, state, context);
  }

 private:
  detail::AdamMoments moments() const { return {beta1, beta2, epsilon}; }
};

}  // namespace loraplus
