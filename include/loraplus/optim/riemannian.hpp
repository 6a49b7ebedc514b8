// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/optim/factor_pair.hpp>

namespace loraplus {

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
struct Riemannian : Rule {
  double regularization = 1e-6;

  static std::string name() { return "Riemannian " + Rule::name(); }

  template <typename Visitor>
  void visit_settings(Visitor&& visit) const {
    Rule::visit_settings(visit);
    visit("regularization", regularization);
  }

  void validate() const {
    Rule::validate();
    require_argument(std::isfinite(regularization) && regularization > 0, "Riemannian",
                     "the regularization must be positive and finite", regularization);
  }

  template <RealScalar Scalar>
  bool precondition(FactorPair<Scalar>& pair, GramSolver& solver) const {
    if (!solver.factorize(pair.b_transposed, regularization)) return false;
    solver.solve(1, pair.a_gradient);
    if (!solver.factorize(pair.a, regularization)) return false;
    solver.solve(1, pair.b_gradient_transposed);
    return true;
  }
};

template <typename Rule>
Riemannian(const Rule&) -> Riemannian<Rule>;
template <typename Rule>
Riemannian(const Rule&, double) -> Riemannian<Rule>;

}  // namespace loraplus
