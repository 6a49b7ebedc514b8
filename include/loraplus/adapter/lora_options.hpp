// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <loraplus/core/error.hpp>
#include <vector>

namespace loraplus::inline v0_1 {

/// How the scaling s follows from alpha and the rank r.
enum class Scaling {
  standard,         ///< alpha / r (Hu et al., "LoRA", section 4.1)
  rank_stabilized,  ///< alpha / sqrt(r) (Kalajdzievski, "rsLoRA")
};

/// Which factor starts at random; the other starts at zero, so that B A = 0, but for the last.
enum class Initialization {
  /// A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0: Init[1] of the LoRA+ paper and the default of PEFT.
  a_uniform,
  /// A ~ N(0, 1/r^2), B = 0: "gaussian" of PEFT.
  a_gaussian,
  /// A = 0, B ~ U(-1/sqrt(r), 1/sqrt(r)): Init[2], with which the LoRA+ paper ran its experiments.
  b_uniform,
  /// A ~ U(-1/sqrt(in), 1/sqrt(in)), B and its bias ~ U(-1/sqrt(r), 1/sqrt(r)): "false" of PEFT.
  /// The adapted layer does not begin as the frozen one.
  both_uniform,
};

/// Which biases are trained, as in PEFT.
enum class BiasMode {
  none,       ///< no bias
  lora_only,  ///< those of the adapted layers
  all,        ///< every bias of the network; for a single layer the same as lora_only
};

/// What an adapter is made of.
struct LoraOptions {
  Index rank = 8;    ///< r, at least 1; may be larger than a side of W
  double alpha = 8;  ///< numerator of the scaling, positive
  /// How s follows from alpha and r.
  Scaling scaling = Scaling::standard;
  /// Which factor is random.
  Initialization initialization = Initialization::a_uniform;
  double init_scale = 1;  ///< multiplies the random factor, positive
  double dropout = 0;     ///< probability, in [0, 1), of dropping an input of the adapter
  /// Which biases are trained.
  BiasMode bias = BiasMode::none;
  bool lora_bias = false;  ///< a bias on B too: y += s (B A x + b)
  bool dora = false;       ///< weight-decomposed (Liu et al., "DoRA"): see Magnitude
  /// The outputs in so many equal groups, of which only these are adapted, by `rank` ranks each
  /// (MergedLinear of loralib). Empty: all outputs, one group. Where not all are enabled there is
  /// neither lora_bias nor dora, which reach all outputs.
  std::vector<bool> enabled_groups = {};
};

/// The scaling s of the adapter's output.
inline double lora_scaling(const LoraOptions& options) {
  const auto rank = static_cast<double>(options.rank);
  return options.alpha / (options.scaling == Scaling::standard ? rank : std::sqrt(rank));
}

/// @return the options, if all are in their ranges
/// @throws ArgumentError that names the option outside its range and its value
inline const LoraOptions& validate(const LoraOptions& options) {
  const auto positive = [](double value) { return std::isfinite(value) && value > 0; };
  const auto require = [](bool valid, const char* what, double value) {
    require_argument(valid, "LoraOptions", what, value);
  };
  require(options.rank >= 1, "rank must be at least 1", static_cast<double>(options.rank));
  require(positive(options.alpha), "alpha must be positive and finite", options.alpha);
  require(positive(options.init_scale), "init_scale must be positive and finite",
          options.init_scale);
  require(options.dropout >= 0 && options.dropout < 1, "dropout must be in [0, 1)",
          options.dropout);
  if (options.dora && options.lora_bias) {
    raise<ArgumentError>(
        "LoraOptions: dora has no place for lora_bias, the bias of a decomposed "
        "weight is that of the frozen one");
  }
  return options;
}

}  // namespace loraplus
