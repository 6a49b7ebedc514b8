// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/pruned_sum.hpp>
#include <optional>
#include <string_view>

namespace loraplus::inline v0_1 {

/// How adapters of weights w are combined; q = w s.
///
/// Only `cat`, and `svd` of a sufficient rank, give the sum of q B A. The types that work on A and
/// B apart, entry by entry, need equal ranks and have cross terms: `linear` of two adapters gives
/// the product (c1 B1 + c2 B2)(d1 A1 + d2 A2) with c = sqrt|q| and d = sign(q) sqrt|q|, which is
/// the sum plus c1 d2 B1 A2 + c2 d1 B2 A1, matrices that no adapter has learnt. Those of a name in
/// _svd work on the products s B A instead, with the weights w, and decompose the result.
enum class Combination {
  linear,               ///< A = sum of sign(q) sqrt|q| A, B = sum of sqrt|q| B
  cat,                  ///< A and B side by side: exact, its rank is the sum of the ranks
  svd,                  ///< the closest of its rank to the sum of q B A
  ties,                 ///< the largest entries; where their signs differ, those of one sign
  ties_svd,             ///< ties on s B A
  dare_linear,          ///< random entries, rescaled, summed as by linear
  dare_linear_svd,      ///< dare_linear on s B A
  dare_ties,            ///< random entries, rescaled; where their signs differ, those of one sign
  dare_ties_svd,        ///< dare_ties on s B A
  magnitude_prune,      ///< the largest entries, summed as by linear
  magnitude_prune_svd,  ///< magnitude_prune on s B A
};

/// The name in PEFT's combination_type.
constexpr std::string_view to_string(Combination type) {
  switch (type) {
    case Combination::linear:
      return "linear";
    case Combination::cat:
      return "cat";
    case Combination::svd:
      return "svd";
    case Combination::ties:
      return "ties";
    case Combination::ties_svd:
      return "ties_svd";
    case Combination::dare_linear:
      return "dare_linear";
    case Combination::dare_linear_svd:
      return "dare_linear_svd";
    case Combination::dare_ties:
      return "dare_ties";
    case Combination::dare_ties_svd:
      return "dare_ties_svd";
    case Combination::magnitude_prune:
      return "magnitude_prune";
    case Combination::magnitude_prune_svd:
      return "magnitude_prune_svd";
  }
  return "unknown";
}

/// How adapters are combined.
struct CombineOptions {
  /// What is done; see Combination.
  Combination type = Combination::cat;
  /// Of the svd types: the rank of the result, which has zeros beyond min(out, in); 0 for the
  /// largest among the adapters.
  Index svd_rank = 0;
  /// Of the svd types: entries of B = U S and A = V' are clamped to this quantile, in [0.5, 1], of
  /// them all and their negatives. (PEFT's svd_clamp without the negatives: that depends on which
  /// sign the decomposition happens to give a pair of singular vectors.)
  std::optional<double> svd_clamp = {};
  /// Of the types that prune: the share of the entries that stays, not negative; all from 1 on.
  double density = 1;
  MajoritySign majority_sign = MajoritySign::total;  ///< of the ties types
};

/// @return the options, if all are in their ranges
/// @throws ArgumentError that names the option outside its range and its value
inline const CombineOptions& validate(const CombineOptions& options) {
  require_argument(options.svd_rank >= 0, "CombineOptions", "svd_rank must not be negative",
                   static_cast<double>(options.svd_rank));
  require_argument(options.density >= 0, "CombineOptions", "density must not be negative",
                   options.density);
  const double clamp = options.svd_clamp.value_or(1);
  require_argument(clamp >= 0.5 && clamp <= 1, "CombineOptions", "svd_clamp must be in [0.5, 1]",
                   clamp);
  return options;
}

namespace detail {

enum class Pruning { none, by_magnitude, at_random };

/// The types by their parts. (`cat` and `svd`, which need no entries, are done apart.)
struct CombinationParts {
  Pruning pruning;
  bool elects_sign;
  bool of_products;  // entries of s B A rather than of A and B
};

constexpr CombinationParts parts_of(Combination type) {
  switch (type) {
    case Combination::linear:
    case Combination::cat:
      return {Pruning::none, false, false};
    case Combination::svd:
      return {Pruning::none, false, true};
    case Combination::ties:
      return {Pruning::by_magnitude, true, false};
    case Combination::ties_svd:
      return {Pruning::by_magnitude, true, true};
    case Combination::dare_linear:
      return {Pruning::at_random, false, false};
    case Combination::dare_linear_svd:
      return {Pruning::at_random, false, true};
    case Combination::dare_ties:
      return {Pruning::at_random, true, false};
    case Combination::dare_ties_svd:
      return {Pruning::at_random, true, true};
    case Combination::magnitude_prune:
      return {Pruning::by_magnitude, false, false};
    case Combination::magnitude_prune_svd:
      return {Pruning::by_magnitude, false, true};
  }
  return {Pruning::none, false, false};
}

}  // namespace detail
}  // namespace loraplus
