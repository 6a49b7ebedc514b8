// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <concepts>
#include <loraplus/core/error.hpp>
#include <string>

namespace loraplus::inline v0_1 {

/// What an update rule is told about the parameter and the step at hand.
struct UpdateContext {
  double learning_rate;  ///< of the parameter's group, the schedule applied
  double weight_decay;   ///< of the parameter's group
  Index step;            ///< 1 for the first step
};

/// A parameter, its gradient, or one of its moments: the coefficients in storage order.
template <RealScalar Scalar>
using FlatView = Eigen::Ref<Eigen::Array<Scalar, Eigen::Dynamic, 1>>;
/// The same to read.
template <RealScalar Scalar>
using ConstFlatView = Eigen::Ref<const Eigen::Array<Scalar, Eigen::Dynamic, 1>>;

/// The state of one parameter: a column for each moment, zero before the first step.
template <RealScalar Scalar>
using OptimizerState = Eigen::Array<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
/// The state, or the rows of a part of the parameter.
template <RealScalar Scalar>
using OptimizerStateView = Eigen::Ref<OptimizerState<Scalar>>;

/// A rule that moves one parameter by its gradient. It holds its settings as plain doubles and no
/// state; state_count() says how many moments it wants kept for each coefficient, validate()
/// throws ArgumentError for a setting out of range.
///
/// To be told apart in a checkpoint, a rule also has `static std::string name()` and
/// visit_settings(visit), which calls visit(name, value) with each setting but the learning rate
/// and the weight decay, which are the groups'.
///
/// A rule that moves each coefficient by itself says `static constexpr bool is_elementwise = true`.
/// It is then called for a parameter part by part, so that a step goes through memory once.
template <typename Rule>
concept UpdateRule = requires(const Rule& rule, FlatView<double> value,
                              ConstFlatView<double> gradient, OptimizerStateView<double> state,
                              const UpdateContext& context) {
  { rule.learning_rate } -> std::convertible_to<double>;
  { rule.weight_decay } -> std::convertible_to<double>;
  { rule.state_count() } -> std::convertible_to<Index>;
  rule.validate();
  rule.template update<double>(value, gradient, state, context);
};

namespace detail {

template <typename Rule>
inline constexpr bool is_elementwise = false;
template <typename Rule>
requires requires {
  Rule::is_elementwise;
}
inline constexpr bool is_elementwise<Rule> = Rule::is_elementwise;

inline bool is_finite_nonnegative(double value) {
  return std::isfinite(value) && value >= 0;
}

inline void require_rate_and_decay(const char* where, double learning_rate, double weight_decay) {
  require_argument(is_finite_nonnegative(learning_rate), where,
                   "the learning rate must be finite and at least 0", learning_rate);
  require_argument(is_finite_nonnegative(weight_decay), where,
                   "the weight decay must be finite and at least 0", weight_decay);
}

}  // namespace detail

}  // namespace loraplus
