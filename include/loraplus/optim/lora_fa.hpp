// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/optim/factor_pair.hpp>

namespace loraplus {

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
struct LoraFa : Rule {
  double regularization = 1e-8;

  static constexpr bool pairs_embeddings = true;
  static constexpr bool freezes(FactorKind factor) { return factor == FactorKind::a; }

  static std::string name() { return "LoraFa " + Rule::name(); }

  template <typename Visitor>
  void visit_settings(Visitor&& visit) const {
    Rule::visit_settings(visit);
    visit("regularization", regularization);
  }

  void validate() const {
    Rule::validate();
    require_argument(std::isfinite(regularization) && regularization > 0, "LoraFa",
                     "the regularization must be positive and finite", regularization);
  }

  template <RealScalar Scalar>
  bool precondition(FactorPair<Scalar>& pair, GramSolver& solver) const {
    if (!solver.factorize(pair.a, regularization)) return false;
    const auto s = static_cast<double>(pair.scaling);
    solver.solve(1 / (s * s), pair.b_gradient_transposed);
    return true;
  }
};

template <typename Rule>
LoraFa(const Rule&) -> LoraFa<Rule>;
template <typename Rule>
LoraFa(const Rule&, double) -> LoraFa<Rule>;

}  // namespace loraplus
