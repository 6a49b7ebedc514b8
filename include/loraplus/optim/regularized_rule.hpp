// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <loraplus/core/error.hpp>
#include <loraplus/optim/update_rule.hpp>

namespace loraplus::inline v0_1::detail {

/// An update rule around another that solves with Gram matrices of the factors, G + regularization
/// I. @tparam Outer what derives from it, with its name as `kind`
template <typename Outer, UpdateRule Rule>
struct RegularizedRule : Rule {
  double regularization;

  static std::string name() { return std::string(Outer::kind) + ' ' + Rule::name(); }

  template <typename Visitor>
  void visit_settings(Visitor&& visit) const {
    Rule::visit_settings(visit);
    visit("regularization", regularization);
  }

  void validate() const {
    Rule::validate();
    require_argument(std::isfinite(regularization) && regularization > 0, Outer::kind,
                     "the regularization must be positive and finite", regularization);
  }

 protected:
  RegularizedRule(const Rule& rule, double d) : Rule(rule), regularization(d) {}
};

}  // namespace loraplus::detail
