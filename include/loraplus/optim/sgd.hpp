// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/optim/update_rule.hpp>

namespace loraplus::inline v0_1 {

/// Stochastic gradient descent as PyTorch's SGD without dampening, eta the learning rate, mu the
/// momentum, l the weight decay (added to the gradient):
///
///     g = gradient + l p,  m = mu m + g,  p -= eta m          or, Nesterov, p -= eta (g + mu m)
struct Sgd {
  /// eta, finite and at least 0; a group of the optimizer may have another.
  double learning_rate = 1e-3;
  /// mu, in [0, 1); at 0 there is no state.
  double momentum = 0;
  /// Needs a momentum.
  bool nesterov = false;
  /// l, finite and at least 0; a group may have another.
  double weight_decay = 0;

  static constexpr bool is_elementwise = true;
  Index state_count() const { return momentum == 0 ? 0 : 1; }
  static std::string name() { return "SGD"; }

  template <typename Visitor>
  void visit_settings(Visitor&& visit) const {
    visit("momentum", momentum);
    visit("nesterov", nesterov ? 1.0 : 0.0);
  }

  void validate() const {
    detail::require_rate_and_decay("Sgd", learning_rate, weight_decay);
    require_argument(momentum >= 0 && momentum < 1, "Sgd", "momentum must be in [0, 1)", momentum);
    require_argument(!nesterov || momentum > 0, "Sgd", "Nesterov needs a positive momentum",
                     momentum);
  }

  template <RealScalar Scalar>
  void update(FlatView<Scalar> value, ConstFlatView<Scalar> gradient,
              OptimizerStateView<Scalar> state, const UpdateContext& context) const {
    if (context.weight_decay == 0) {
      step<Scalar>(value, gradient, state, context);
    } else {
      step<Scalar>(value, gradient + static_cast<Scalar>(context.weight_decay) * value, state,
                   context);
    }
  }

 private:
  template <RealScalar Scalar, typename Gradient>
  void step(FlatView<Scalar>& value, const Gradient& g, OptimizerStateView<Scalar>& state,
            const UpdateContext& context) const {
    const auto rate = static_cast<Scalar>(context.learning_rate);
    const auto mu = static_cast<Scalar>(momentum);
    if (momentum == 0) {
      value -= rate * g;
      return;
    }
    auto m = state.col(0);
    m = mu * m + g;
    if (nesterov) {
      value -= rate * (g + mu * m);
    } else {
      value -= rate * m;
    }
  }
};

}  // namespace loraplus
