// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <loraplus/core/error.hpp>
#include <numbers>
#include <string_view>

namespace loraplus::inline v0_1 {

/// The course of the learning rate after the warm-up.
enum class Decay {
  constant,  ///< as it is
  linear,    ///< straight down to 0 at total_steps
  cosine,    ///< half a cosine down to 0 at total_steps
};

/// The name of the enumerator.
constexpr std::string_view to_string(Decay decay) {
  switch (decay) {
    case Decay::constant:
      return "constant";
    case Decay::linear:
      return "linear";
    case Decay::cosine:
      return "cosine";
  }
  return "unknown";
}

/// A factor on every learning rate of an optimizer, as a function of the step. The curves are
/// those of the schedulers with warm-up in Hugging Face's transformers, with one difference: the
/// first step of a warm-up of w steps has the factor 1 / w, where theirs has 0 and moves nothing.
struct Schedule {
  /// What comes after the warm-up.
  Decay decay = Decay::constant;
  Index warmup_steps = 0;  ///< steps over which the factor rises to 1
  Index total_steps = 0;   ///< steps in all, for linear and cosine

  /// The factor of step t, counted from 0.
  double factor(Index step) const {
    if (step < warmup_steps) {
      return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    }
    if (decay == Decay::constant) return 1;
    const double progress = std::min(1.0, static_cast<double>(step - warmup_steps) /
                                              static_cast<double>(total_steps - warmup_steps));
    return decay == Decay::linear ? 1 - progress : (1 + std::cos(std::numbers::pi * progress)) / 2;
  }

  /// @throws ArgumentError if the warm-up is negative, or a decay has no steps after it
  void validate() const {
    if (warmup_steps < 0) {
      raise<ArgumentError>("Schedule: warmup_steps must be at least 0, found " +
                           std::to_string(warmup_steps));
    }
    if (decay != Decay::constant && total_steps <= warmup_steps) {
      raise<ArgumentError>("Schedule: total_steps must be above warmup_steps = " +
                           std::to_string(warmup_steps) + ", found " + std::to_string(total_steps));
    }
  }
};

}  // namespace loraplus
