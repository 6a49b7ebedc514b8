// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/error.hpp>
#include <loraplus/nn/layer.hpp>
#include <loraplus/nn/loss.hpp>

namespace loraplus::inline v0_1 {

/// One training step of a model: forward, loss, backward, update. All memory is made once, for
/// the largest batch; a smaller one uses its left columns.
template <Layer Model, typename Loss = SoftmaxCrossEntropy>
class TrainingStep {
 public:
  using Scalar = typename Model::Scalar;

  /// @param largest_batch samples
  TrainingStep(const Model& model, Index largest_batch)
      : cache_(model.make_cache(largest_batch)),
        y_(model.out_features(), largest_batch),
        dy_(model.out_features(), largest_batch) {}

  /// @param x in x n, @param target as the loss takes it, @param generator for dropout
  /// @return the loss before the update
  /// @throws ShapeError, NonFiniteError if the loss is not finite; nothing is updated then
  template <typename Target, typename Optimizer, RandomBits Generator>
  double operator()(Model& model, Optimizer& optimizer, ConstMatrixView<Scalar> x,
                    const Target& target, Generator& generator) {
    require_batch_fits("TrainingStep", x.cols(), y_.cols());
    auto y = y_.leftCols(x.cols());
    auto dy = dy_.leftCols(x.cols());
    forward_layer(model, x, y, cache_, generator);
    const double loss = Loss::template evaluate<Scalar>(y, target, dy);
    if (!std::isfinite(loss)) {
      raise<NonFiniteError>("TrainingStep: the loss is " + std::to_string(loss) + " after " +
                            std::to_string(optimizer.steps()) + " updates");
    }
    model.backward(x, dy, cache_);
    optimizer.step(model);
    return loss;
  }

 private:
  typename Model::Cache cache_;
  Matrix<Scalar> y_;   // out x largest batch
  Matrix<Scalar> dy_;  // the same
};

template <Layer Model>
TrainingStep(const Model&, Index) -> TrainingStep<Model>;

}  // namespace loraplus
