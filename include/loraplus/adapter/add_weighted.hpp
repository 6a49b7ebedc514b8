// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/combine.hpp>
#include <loraplus/adapter/lora_set.hpp>

namespace loraplus::inline v0_1 {

/// An adapter of a set and its weight in a sum.
struct WeightedName {
  /// Of an adapter of the set.
  std::string name;
  /// Any sign.
  double weight = 1;
};

namespace detail {

/// Block k of each adapter in a sum as an adapter by itself, combined; biases are left out.
/// @param terms their blocks of B one below the other @param row of B where block k begins
template <RealScalar Scalar, RandomBits... Generator>
Factors<Scalar> combine_block(std::span<const WeightedFactors<Scalar>> terms, Index k, Index row,
                              Index size, const CombineOptions& options, Generator&... generator) {
  std::vector<Factors<Scalar>> parts;
  for (const auto& term : terms) {
    const Factors<Scalar>& whole = term.factors;
    const Index rank = whole.b.cols();
    parts.push_back({.a = whole.a.middleRows(k * rank, rank),
                     .b = whole.b.middleRows(row, size),
                     .scaling = whole.scaling});
  }
  std::vector<WeightedFactors<Scalar>> weighted;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    weighted.push_back({parts[i], terms[i].weight});
  }
  return combine<Scalar>(weighted, options, generator...);
}

/// combine for adapters with the same blocks of outputs, each block by itself.
/// @param terms their blocks of B one below the other
template <RealScalar Scalar, RandomBits... Generator>
LowRank<Scalar> combine_blocks(const OutputBlocks& blocks,
                               std::span<const WeightedFactors<Scalar>> terms,
                               const CombineOptions& options, Generator&... generator) {
  for (std::size_t i = 0; i < terms.size(); ++i) {
    require_finite_term(place_text("combine", i, terms.size()), terms[i]);
  }
  Factors<double> sum{.a = {}, .b = {}, .bias = summed_bias(terms)};
  Index k = 0, row = 0;
  for (const OutputBlock& block : blocks.blocks()) {
    const Factors<Scalar> part = combine_block(terms, k, row, block.size, options, generator...);
    const Index rank = part.rank();  // the same for all blocks
    sum.a.conservativeResize((k + 1) * rank, part.in_features());
    sum.b.conservativeResize(row + block.size, rank);
    sum.a.bottomRows(rank) = part.a.template cast<double>();
    sum.b.bottomRows(block.size) = part.b.template cast<double>();
    ++k;
    row += block.size;
  }
  return LowRank<Scalar>(blocks.with_block_rank(sum.b.cols()), rounded<Scalar>("combine", sum));
}

}  // namespace detail

/// Adapters of a set combined into a new one of it, with the scales that they have there:
/// add_weighted_adapter of PEFT. The new adapter is not active; the others stay as they are.
/// Blocks of outputs, as those of a convolution in groups, are combined each by itself: svd_rank is
/// the rank of each, density the share that stays in each.
/// @param generator none, or one for the dare types
/// @throws as combine, and ArgumentError if a name is unknown, the new one is taken, an adapter has
/// DoRA, whose magnitudes have no sum, or other blocks of outputs than the first
template <FrozenWeight Frozen, RandomBits... Generator>
void add_weighted(LoraSet<Frozen>& set, const std::string& name,
                  const std::vector<WeightedName>& terms, const CombineOptions& options = {},
                  Generator&... generator) requires(sizeof...(Generator) <= 1) {
  using Scalar = typename Frozen::Scalar;
  if (terms.empty()) raise<ArgumentError>("add_weighted: there are no adapters");
  const auto first = set.at(terms.front().name);
  const OutputBlocks& blocks = first->factors().blocks();
  std::vector<Factors<Scalar>> factors;
  for (const WeightedName& term : terms) {
    const auto adapter = set.at(term.name);
    if (adapter->magnitude() != nullptr) {
      raise<ArgumentError>("add_weighted: '" + term.name +
                           "' has DoRA, whose magnitudes cannot be combined");
    }
    if (!blocks.has_outputs_of(adapter->factors().blocks())) {
      raise<ArgumentError>("add_weighted: '" + term.name + "' has other blocks of outputs than '" +
                           terms.front().name + "', they cannot be combined");
    }
    factors.push_back(adapter->factors().factors());
    factors.back().scaling *= set.scale(term.name);
  }
  std::vector<WeightedFactors<Scalar>> weighted;
  for (std::size_t i = 0; i < terms.size(); ++i) {
    weighted.push_back({factors[i], terms[i].weight});
  }
  const LowRank<Scalar> sum =
      detail::combine_blocks<Scalar>(blocks, weighted, options, generator...);
  set.add(name, Adapter<Scalar>(set.weight(), sum, {}));
}

}  // namespace loraplus
