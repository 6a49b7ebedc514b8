// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <loraplus/adapter/lora_options.hpp>
#include <string>

namespace loraplus::inline v0_1 {

/// The learning rates of the two factors under Adam, and what is known about them.
struct RecommendedRates {
  /// Of A.
  double rate_a;
  /// Of B.
  double rate_b;
  std::string source;   ///< of the formula
  std::string unknown;  ///< what the source does not say, and this function does not know
};

/// Rates that a search has found best for one width and one adapter.
struct TunedRates {
  /// Of A, positive.
  double rate_a;
  /// Of B, positive.
  double rate_b;
  Index width;  ///< n, the inputs of the adapted layer
  /// Rank, scaling and initialisation they were tuned with.
  LoraOptions adapter = {};
};

/// Takes rates tuned on one network over to another width, rank and scaling s, under Adam. It knows
/// these laws, n the width, r the rank:
///
///     one rate for both, A random    eta     ~ (n r s)^-1/2     Chen, Villar and Hayou,
///     one rate for both, B random    eta     ~ (n s)^-1         arXiv 2602.06204
///     two rates (LoRA+)              eta_A ~ 1/n, eta_B ~ 1     Hayou, Ghosh and Yu,
///                                                               arXiv 2402.12354, theorem 1
///
/// All are limits of wide networks whose activations and head are scaled so as to keep the features
/// of order 1 (maximal-update parametrisation); docs/theory.md says how they hold at real widths.
/// @throws ArgumentError for a rate or width that is not positive, options out of their range, or
/// an initialisation of the other factor, between which no law carries a rate
inline RecommendedRates recommend_rates(const TunedRates& tuned, const LoraOptions& adapter,
                                        Index width);

/// One rate for both factors to begin a search with, where none has been tuned: the mean of those
/// that were best in the laboratory (docs/ratio_lab) on three tasks with images, n = 256, rank 4,
/// s = 1, 300 steps of Adam, taken over by the same laws.
/// @throws ArgumentError as above
inline RecommendedRates recommend_rates(const LoraOptions& adapter, Index width);

namespace detail {

inline void require_positive(const char* what, double value) {
  require_argument(std::isfinite(value) && value > 0, "recommend_rates", what, value);
}

inline bool draws_b(const LoraOptions& adapter) {
  return adapter.initialization == Initialization::b_uniform;
}

}  // namespace detail

inline RecommendedRates recommend_rates(const TunedRates& tuned, const LoraOptions& adapter,
                                        Index width) {
  detail::require_positive("rate_a must be positive and finite", tuned.rate_a);
  detail::require_positive("rate_b must be positive and finite", tuned.rate_b);
  detail::require_positive("the tuned width must be at least 1", static_cast<double>(tuned.width));
  detail::require_positive("the width must be at least 1", static_cast<double>(width));
  validate(tuned.adapter);
  validate(adapter);
  if (detail::draws_b(tuned.adapter) != detail::draws_b(adapter)) {
    raise<ArgumentError>(
        "recommend_rates: rates tuned with one factor random do not tell those with the other");
  }
  const double n = static_cast<double>(width) / static_cast<double>(tuned.width);
  const double r = static_cast<double>(adapter.rank) / static_cast<double>(tuned.adapter.rank);
  const double s = lora_scaling(adapter) / lora_scaling(tuned.adapter);
  std::string unknown = "the constant for another task, depth, batch or number of steps";
  if (tuned.rate_a != tuned.rate_b) {
    if (r != 1 || s != 1) unknown += "; how rank and scaling move the two rates (they are kept)";
    return {tuned.rate_a / n, tuned.rate_b, "eta_A ~ 1/n, eta_B ~ 1: arXiv 2402.12354, theorem 1",
            std::move(unknown)};
  }
  if (detail::draws_b(adapter)) {
    const double rate = tuned.rate_a / (n * s);
    return {rate, rate, "eta ~ 1/(n s): arXiv 2602.06204, B random", std::move(unknown)};
  }
  const double rate = tuned.rate_a / std::sqrt(n * r * s);
  return {rate, rate, "eta ~ (n r s)^-1/2: arXiv 2602.06204, A random", std::move(unknown)};
}

inline RecommendedRates recommend_rates(const LoraOptions& adapter, Index width) {
  const double best = detail::draws_b(adapter) ? 0.012 : 0.025;
  const LoraOptions measured{.rank = 4, .alpha = 4, .initialization = adapter.initialization};
  RecommendedRates rates = recommend_rates({best, best, 256, measured}, adapter, width);
  rates.source += "; constant: docs/ratio_lab";
  rates.unknown =
      "your task: in the laboratory it moved the best rate by a factor of 2 to 6, so "
      "search that far to both sides; depth, batch and number of steps";
  if (adapter.init_scale != 1) rates.unknown += "; what init_scale does (it is passed over)";
  return rates;
}

}  // namespace loraplus
