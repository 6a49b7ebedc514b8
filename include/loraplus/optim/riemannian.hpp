// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/optim/factor_pair.hpp>
#include <loraplus/optim/regularized_rule.hpp>

namespace loraplus::inline v0_1 {

/// An update rule on gradients preconditioned in the metric of the low-rank matrices (Zhang and
/// Pilanci, "Riemannian Preconditioned LoRA", arXiv 2402.02347, equation 2; with AdamW its "scaled
/// AdamW"):
///
///     gA = (B'B + d I)^-1 gA,  gB = gB (A A' + d I)^-1        d: regularization
///
/// and then the rule. One learning rate serves both factors at every width. Parameters that are no
/// factors of an adapter follow the rule alone, and so do, as in PEFT, the factors of embeddings.
/// With A = 0 or B = 0 at the start the other factor's gradient, which is 0 then, is divided by d:
/// no harm, but the first steps after it are large under SGD. PEFT calls d `reg`; d = 1e-6 and 1e-2
/// are both in use.
template <UpdateRule Rule>
struct Riemannian : detail::RegularizedRule<Riemannian<Rule>, Rule> {
  /// What a checkpoint calls it.
  static constexpr const char* kind = "Riemannian";

  /// @param rule what follows @param d the damping, above 0
  // NOLINTNEXTLINE(google-explicit-constructor): a rule may stand for it, as for an aggregate
  Riemannian(const Rule& rule = {}, double d = 1e-6)
      : detail::RegularizedRule<Riemannian, Rule>(rule, d) {}

  template <RealScalar Scalar>
  bool precondition(FactorPair<Scalar>& pair, GramSolver& solver) const {
    if (!solver.factorize(pair.b_transposed, this->regularization)) return false;
    solver.solve(1, pair.a_gradient);
    if (!solver.factorize(pair.a, this->regularization)) return false;
    solver.solve(1, pair.b_gradient_transposed);
    return true;
  }
};

template <UpdateRule Rule>
Riemannian(const Rule&) -> Riemannian<Rule>;

}  // namespace loraplus
