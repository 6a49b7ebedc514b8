// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/optim/update_rule.hpp>

namespace loraplus {

/// Stochastic gradient descent as PyTorch's SGD without dampening, eta the learning rate, mu the
/// momentum, l the weight decay (added to the gradient):
///
///     g = gradient + l p,  m = mu m + g,  p -= eta m          or, Nesterov, p -= eta (g + mu m)
struct Sgd {
  double learning_rate = 1e-3;
  double momentum = 0;
  bool nesterov = false;
  double weight_decay = 0;

  Index state_count() const { return momentum == 0 ? 0 : 1; }

  void validate() const {
    detail::require_rate_and_decay("Sgd", learning_rate, weight_decay);
    detail::require_setting(momentum >= 0 && momentum < 1, "Sgd", "momentum must be in [0, 1)",
                            momentum);
    detail::require_setting(!nesterov || momentum > 0, "Sgd", "Nesterov needs a positive momentum",
                            momentum);
  }

  template <RealScalar Scalar>
  void update(FlatView<Scalar> value, ConstFlatView<Scalar> gradient, OptimizerState<Scalar>& state,
              const UpdateContext& context) const {
    const auto rate = static_cast<Scalar>(context.learning_rate);
    const auto decay = static_cast<Scalar>(context.weight_decay);
    const auto mu = static_cast<Scalar>(momentum);
    const auto decayed = gradient + decay * value;
    if (momentum == 0) {
      value -= rate * decayed;
      return;
    }
    auto m = state.col(0);
    m = mu * m + decayed;
    if (nesterov) {
      value -= rate * (decayed + mu * m);
    } else {
      value -= rate * m;
    }
  }
};

}  // namespace loraplus
