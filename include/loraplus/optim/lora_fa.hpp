// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/optim/factor_pair.hpp>
#include <loraplus/optim/regularized_rule.hpp>

namespace loraplus::inline v0_1 {

/// LoRA-FA (Zhang et al., arXiv 2308.03303): A stays as it was drawn, B alone is trained, on the
/// gradient that makes the change of s B A the closest to that of full fine-tuning, as PEFT's
/// optimizer of this name has it:
///
///     gB = 1 / s^2 gB (A A' + d I)^-1        d: regularization
///
/// and then the rule. Biases and other parameters follow the rule alone. A must be the random
/// factor: with A = 0 nothing would ever be learned, so an optimizer refuses it. The adapter of an
/// embedding is a pair as any other, but begins with A = 0 unless both factors are drawn
/// (Initialization::both_uniform); there PEFT takes steps that move nothing. The gradient of A is
/// still computed.
template <UpdateRule Rule>
struct LoraFa : detail::RegularizedRule<LoraFa<Rule>, Rule> {
  /// What a checkpoint calls it.
  static constexpr const char* kind = "LoraFa";

  /// Adapters of embeddings are pairs, too.
  static constexpr bool pairs_embeddings = true;
  /// A stays as it is, and has no moments.
  static constexpr bool freezes(FactorKind factor) { return factor == FactorKind::a; }

  /// @param rule what follows @param d the damping, above 0
  // NOLINTNEXTLINE(google-explicit-constructor): a rule may stand for it, as for an aggregate
  LoraFa(const Rule& rule = {}, double d = 1e-8) : detail::RegularizedRule<LoraFa, Rule>(rule, d) {}

  template <RealScalar Scalar>
  bool precondition(FactorPair<Scalar>& pair, GramSolver& solver) const {
    if (!solver.factorize(pair.a, this->regularization)) return false;
    const auto s = static_cast<double>(pair.scaling);
    solver.solve(1 / (s * s), pair.b_gradient_transposed);
    return true;
  }
};

template <UpdateRule Rule>
LoraFa(const Rule&) -> LoraFa<Rule>;

}  // namespace loraplus
