// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <loraplus/core/error.hpp>
#include <span>
#include <vector>

namespace loraplus::inline v0_1 {

/// Successive outputs that the same ranks of an adapter reach.
struct OutputBlock {
  Index first;  ///< row of y
  /// Rows of y.
  Index size;

  /// Whether they are the same outputs.
  bool operator==(const OutputBlock&) const = default;
};

/// Which ranks of an adapter reach which outputs. With r ranks a block, block k of B is size x r
/// and takes rows k r to (k + 1) r of A x; outputs in no block are not adapted.
class OutputBlocks {
 public:
  /// Every rank reaches every output: the usual adapter.
  static OutputBlocks whole(Index out, Index rank) { return {out, rank, {{0, out}}}; }

  /// Equal groups of outputs, each with its share of the ranks: PEFT's adapter of a grouped
  /// convolution.
  /// @throws ArgumentError if the groups do not divide the outputs and the rank
  static OutputBlocks grouped(Index out, Index groups, Index rank) {
    const auto require = [&](Index whole, const char* what) {
      if (groups >= 1 && whole % groups == 0) return;
      raise<ArgumentError>("OutputBlocks: " + std::to_string(groups) + " groups cannot share " +
                           what + ' ' + std::to_string(whole));
    };
    require(out, "outputs, of which there are");
    require(rank, "the rank");
    return {out, rank / groups, equal_blocks(out, groups)};
  }

  /// Equal groups of outputs, of which only some are adapted, by `rank` ranks each: MergedLinear of
  /// loralib, for projections to queries, keys and values in one matrix.
  /// @throws ArgumentError if the groups do not divide the outputs, or none is enabled
  static OutputBlocks enabled(Index out, const std::vector<bool>& enabled, Index rank) {
    const auto groups = static_cast<Index>(enabled.size());
    if (groups == 0 || out % groups != 0) {
      raise<ArgumentError>("OutputBlocks: " + std::to_string(groups) +
                           " groups cannot share outputs, of which there are " +
                           std::to_string(out));
    }
    std::vector<OutputBlock> chosen;
    for (const OutputBlock& block : equal_blocks(out, groups)) {
      if (enabled[static_cast<std::size_t>(block.first / block.size)]) chosen.push_back(block);
    }
    if (chosen.empty()) raise<ArgumentError>("OutputBlocks: no group is enabled");
    return {out, rank, std::move(chosen)};
  }

  /// The same outputs with so many ranks a block.
  OutputBlocks with_block_rank(Index rank) const { return {out_, rank, blocks_}; }

  /// Whether the blocks are those of the other, of whatever ranks.
  bool has_outputs_of(const OutputBlocks& other) const {
    return out_ == other.out_ && blocks_ == other.blocks_;
  }

  Index out_features() const { return out_; }
  /// The blocks, from the first output on.
  std::span<const OutputBlock> blocks() const { return blocks_; }
  /// r, the ranks of one block: columns of its B.
  Index block_rank() const { return block_rank_; }
  /// The ranks of all blocks: rows of A.
  Index rank() const { return block_rank_ * static_cast<Index>(blocks_.size()); }
  /// Whether one block reaches all outputs.
  bool is_whole() const { return blocks_.size() == 1 && reach_all(); }
  /// Whether every output is in a block.
  bool reach_all() const { return adapted_outputs() == out_; }
  /// Whether the same ranks reach the same outputs.
  bool operator==(const OutputBlocks&) const = default;

  /// The rows of all blocks together: those of their B, one below the other.
  Index adapted_outputs() const {
    Index sum = 0;
    for (const OutputBlock& block : blocks_) {
      sum += block.size;
    }
    return sum;
  }

 private:
  OutputBlocks(Index out, Index block_rank, std::vector<OutputBlock> blocks)
      : out_(out), block_rank_(block_rank), blocks_(std::move(blocks)) {}

  static std::vector<OutputBlock> equal_blocks(Index out, Index groups) {
    std::vector<OutputBlock> blocks;
    for (Index group = 0; group < groups; ++group) {
      blocks.push_back({group * (out / groups), out / groups});
    }
    return blocks;
  }

  Index out_;
  Index block_rank_;
  std::vector<OutputBlock> blocks_;
};

}  // namespace loraplus
