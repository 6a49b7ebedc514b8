// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/combine.hpp>
#include <loraplus/adapter/lora_set.hpp>

namespace loraplus {

/// An adapter of a set and its weight in a sum.
struct WeightedName {
  std::string name;
  double weight = 1;
};

/// Adapters of a set combined into a new one of it, with the scales that they have there:
/// add_weighted_adapter of PEFT. The new adapter is not active; the others stay as they are.
/// @param generator none, or one for the dare types
/// @throws as combine, and ArgumentError if a name is unknown, the new one is taken, or an adapter
/// has DoRA, whose magnitudes have no sum
template <FrozenWeight Frozen, RandomBits... Generator>
void add_weighted(LoraSet<Frozen>& set, const std::string& name,
                  const std::vector<WeightedName>& terms, const CombineOptions& options = {},
                  Generator&... generator) requires(sizeof...(Generator) <= 1) {
  using Scalar = typename Frozen::Scalar;
  std::vector<Factors<Scalar>> factors;
  for (const WeightedName& term : terms) {
    const auto adapter = set.at(term.name);
    if (adapter->magnitude() != nullptr) {
      throw ArgumentError("add_weighted: '" + term.name +
                          "' has DoRA, whose magnitudes cannot be combined");
    }
    factors.push_back(adapter->factors().factors());
    factors.back().scaling *= set.scale(term.name);
  }
  std::vector<WeightedFactors<Scalar>> weighted;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    weighted.push_back({factors[i], terms[i].weight});
  }
  const Factors<Scalar> sum = combine<Scalar>(weighted, options, generator...);
  set.add(name, Adapter<Scalar>(set.weight(), LowRank<Scalar>(sum), {}));
}

}  // namespace loraplus
