// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <loraplus/core/error.hpp>
#include <loraplus/core/random.hpp>
#include <numeric>
#include <span>
#include <vector>

namespace loraplus::inline v0_1 {

/// Inputs with a class each, for SoftmaxCrossEntropy.
template <RealScalar Scalar_>
struct LabelledData {
  using Scalar = Scalar_;

  Matrix<Scalar> inputs;    ///< features x samples
  std::vector<int> labels;  ///< a class a sample

  /// The samples.
  Index size() const { return inputs.cols(); }

  /// Copies the samples of these indices to the left columns of `batch`, which has room for them.
  /// @throws ShapeError if it has not
  void gather(std::span<const Index> indices, LabelledData& batch) const {
    require_batch_fits("LabelledData::gather", static_cast<Index>(indices.size()), batch.size());
    for (std::size_t i = 0; i < indices.size(); ++i) {
      batch.inputs.col(static_cast<Index>(i)) = inputs.col(indices[i]);
      batch.labels[i] = labels[static_cast<std::size_t>(indices[i])];
    }
  }

  /// Room for `samples` samples.
  LabelledData make_batch(Index samples) const {
    return {Matrix<Scalar>(inputs.rows(), samples),
            std::vector<int>(static_cast<std::size_t>(samples))};
  }

  /// The targets of the first `samples` samples, as the loss takes them.
  std::span<const int> targets(Index samples) const {
    return std::span(labels).first(static_cast<std::size_t>(samples));
  }

  /// @throws ShapeError unless there is one label for each sample
  void validate() const {
    if (static_cast<Index>(labels.size()) != size()) {
      raise<ShapeError>("LabelledData: " + std::to_string(size()) + " samples, but " +
                        std::to_string(labels.size()) + " labels");
    }
  }
};

/// Inputs with a vector to be matched each, for MeanSquaredError.
template <RealScalar Scalar_>
struct PairedData {
  using Scalar = Scalar_;

  Matrix<Scalar> inputs;   ///< features x samples
  Matrix<Scalar> outputs;  ///< targets x samples

  /// The samples.
  Index size() const { return inputs.cols(); }

  /// Copies the samples of these indices to the left columns of `batch`, which has room for them.
  /// @throws ShapeError if it has not
  void gather(std::span<const Index> indices, PairedData& batch) const {
    require_batch_fits("PairedData::gather", static_cast<Index>(indices.size()), batch.size());
    for (std::size_t i = 0; i < indices.size(); ++i) {
      batch.inputs.col(static_cast<Index>(i)) = inputs.col(indices[i]);
      batch.outputs.col(static_cast<Index>(i)) = outputs.col(indices[i]);
    }
  }

  /// Room for `samples` samples.
  PairedData make_batch(Index samples) const {
    return {Matrix<Scalar>(inputs.rows(), samples), Matrix<Scalar>(outputs.rows(), samples)};
  }

  /// The targets of the first `samples` samples, as the loss takes them.
  ConstMatrixView<Scalar> targets(Index samples) const { return outputs.leftCols(samples); }

  /// @throws ShapeError unless there is one output for each sample
  void validate() const { require_shape("PairedData", "outputs", outputs, outputs.rows(), size()); }
};

/// Deals out the samples in a random order, each once an epoch; the last batch of an epoch may be
/// smaller.
class BatchSampler {
 public:
  /// @throws ArgumentError unless both are at least 1
  BatchSampler(Index samples, Index batch) {
    if (samples < 1 || batch < 1) {
      raise<ArgumentError>("BatchSampler: " + std::to_string(samples) + " samples in batches of " +
                           std::to_string(batch) + ", both must be at least 1");
    }
    order_.resize(static_cast<std::size_t>(samples));
    std::iota(order_.begin(), order_.end(), Index{0});
    batch_ = static_cast<std::size_t>(batch);
    next_ = order_.size();
  }

  /// The indices of the next batch, valid until the next call.
  template <RandomBits Generator>
  std::span<const Index> next(Generator& generator) {
    if (next_ == order_.size()) {
      loraplus::shuffle(std::span(order_), generator);
      next_ = 0;
    }
    const std::size_t count = std::min(batch_, order_.size() - next_);
    next_ += count;
    return std::span<const Index>(order_).subspan(next_ - count, count);
  }

  /// The samples in a batch.
  Index batch() const { return static_cast<Index>(batch_); }

  /// The order of the samples in this epoch, and how many of them were dealt out.
  std::span<const Index> order() const { return order_; }
  /// The samples of the epoch that were dealt out.
  Index dealt() const { return static_cast<Index>(next_); }

  /// Goes on within an epoch. @param order each index once, @param dealt of them
  /// @throws ArgumentError if they are not those of as many samples; nothing is changed then
  void set_progress(std::span<const Index> order, Index dealt) {
    std::vector<Index> sorted(order.begin(), order.end()), all = order_;
    std::sort(sorted.begin(), sorted.end());
    std::sort(all.begin(), all.end());
    if (sorted != all || dealt < 0 || dealt > static_cast<Index>(order.size())) {
      raise<ArgumentError>("BatchSampler::set_progress: not an order of " +
                           std::to_string(order_.size()) + " samples of which some were dealt out");
    }
    order_.assign(order.begin(), order.end());
    next_ = static_cast<std::size_t>(dealt);
  }

 private:
  std::vector<Index> order_;
  std::size_t batch_ = 0;
  std::size_t next_ = 0;  // in order_; at its end a new epoch begins
};

}  // namespace loraplus
