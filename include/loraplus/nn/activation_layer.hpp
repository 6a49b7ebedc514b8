// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/parameter.hpp>
#include <loraplus/nn/activation.hpp>

namespace loraplus::inline v0_1 {

/// An activation as a layer of its own, to stand in a Sequential.
template <RealScalar Scalar_>
class ActivationLayer {
 public:
  using Scalar = Scalar_;
  /// What a forward pass keeps for the backward pass; one for each thread.
  struct Cache {
    Matrix<Scalar> y;  ///< features x largest batch: the output of the last forward pass
  };

  /// @param features of x and of y
  ActivationLayer(Activation activation, Index features)
      : activation_(activation), features_(features) {}

  /// The function.
  Activation activation() const { return activation_; }
  Index in_features() const { return features_; }
  Index out_features() const { return features_; }
  Cache make_cache(Index largest_batch) const { return {Matrix<Scalar>(features_, largest_batch)}; }

  /// y = f(x). @param x, y features x n
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache) const {
    require_shape("ActivationLayer::forward", "x", x, features_, x.cols());
    require_batch_fits("ActivationLayer::forward", x.cols(), cache.y.cols());
    activate<Scalar>(activation_, x, y);
    cache.y.leftCols(x.cols()) = y;
  }

  /// Nothing to train.
  void backward(ConstMatrixView<Scalar> /*x*/, ConstMatrixView<Scalar> /*dy*/, Cache& /*cache*/) {}

  /// dx = f'(x) dy, elementwise. @param x, dy, dx features x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx,
                Cache& cache) {
    require_batch_fits("ActivationLayer::backward", x.cols(), cache.y.cols());
    activate_backward<Scalar>(activation_, x, cache.y.leftCols(x.cols()), dy, dx);
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& /*visit*/) {}

 private:
  Activation activation_;
  Index features_;
};

}  // namespace loraplus
