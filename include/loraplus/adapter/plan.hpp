// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/error.hpp>
#include <string_view>

namespace loraplus::inline v0_1 {

/// How a LoRA layer computes a training step. Multiply-adds for s samples, weights of out x in and
/// rank r, with dx:
///
///     unmerged   y = W x + B h, dx = W' dy + A' z     2 s in out + 3 s r in + 3 s r out
///     merged     y = W~ x, dx = W~' dy, W~ = W + s B A made once for each update of A and B
///                                                     2 s in out + 2 s r in + 2 s r out + c r in
///                                                     out
///
/// c is what the frozen weight asks for a merge (MergesLowRank), 1 or, with two packed copies, 2.
/// Without dx, as in the first layer of a network, merging saves s r out alone and pays only above
/// c in samples: a layer does not know who will ask for dx, so there the choice is the user's.
enum class Plan {
  automatic,  ///< the one with fewer multiply-adds, counted for a step with dx
  unmerged,   ///< W x + B (s A x)
  merged,     ///< (W + s B A) x, of a merged copy
};

/// The name of the enumerator.
constexpr std::string_view to_string(Plan plan) {
  switch (plan) {
    case Plan::automatic:
      return "automatic";
    case Plan::unmerged:
      return "unmerged";
    case Plan::merged:
      return "merged";
  }
  return "unknown";
}

/// The samples from one update of A and B to the next above which the merged plan counts fewer
/// multiply-adds: c in out / (in + out). The rank cancels.
inline double plan_break_even(Index in, Index out, Index merge_cost) {
  const auto i = static_cast<double>(in), o = static_cast<double>(out);
  return static_cast<double>(merge_cost) * i * o / (i + o);
}

}  // namespace loraplus
