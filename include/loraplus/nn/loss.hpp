// SPDX-License-Identifier: MIT
#pragma once

#include <cmath>
#include <loraplus/core/error.hpp>
#include <span>

namespace loraplus::inline v0_1 {

/// The mean over the samples of -log softmax(logits)[label].
///
/// The largest logit of a sample is taken off first, so no finite logit overflows. A NaN or +inf
/// among the logits gives a loss and a gradient that are NaN.
struct SoftmaxCrossEntropy {
  /// A class index for each sample.
  using Target = std::span<const int>;

  /// Writes the gradient, (softmax(logits) - onehot(label)) / n, and returns the loss.
  /// @param logits classes x n, @param labels n class indices, @param dlogits classes x n
  /// @throws ShapeError, ArgumentError if the batch is empty or a label is no class (the sample is
  /// named)
  template <RealScalar Scalar>
  static double evaluate(ConstMatrixView<Scalar> logits, Target labels, MatrixView<Scalar> dlogits);
};

/// The mean of (y - target)^2 over all coefficients, as PyTorch's MSELoss.
struct MeanSquaredError {
  /// Writes the gradient, 2 (y - target) / (f n), and returns the loss.
  /// @param y, target, dy f x n
  /// @throws ShapeError, ArgumentError if the batch is empty
  template <RealScalar Scalar>
  static double evaluate(ConstMatrixView<Scalar> y, ConstMatrixView<Scalar> target,
                         MatrixView<Scalar> dy);
};

namespace detail {

inline void require_samples(const char* where, Index samples) {
  if (samples == 0) raise<ArgumentError>(std::string(where) + ": an empty batch has no mean");
}

inline void require_labels(std::span<const int> labels, Index samples, Index classes) {
  if (static_cast<Index>(labels.size()) != samples) {
    raise<ShapeError>("SoftmaxCrossEntropy: " + std::to_string(samples) + " samples, but " +
                      std::to_string(labels.size()) + " labels");
  }
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0 || labels[i] >= classes) {
      raise<ArgumentError>("SoftmaxCrossEntropy: label " + std::to_string(labels[i]) +
                           " of sample " + std::to_string(i) + " is not in 0 .. " +
                           std::to_string(classes - 1));
    }
  }
}

}  // namespace detail

template <RealScalar Scalar>
double SoftmaxCrossEntropy::evaluate(ConstMatrixView<Scalar> logits, Target labels,
                                     MatrixView<Scalar> dlogits) {
  const Index samples = logits.cols();
  detail::require_samples("SoftmaxCrossEntropy", samples);
  detail::require_labels(labels, samples, logits.rows());
  require_shape("SoftmaxCrossEntropy", "dlogits", dlogits, logits.rows(), samples);
  const Scalar inverse = Scalar(1) / static_cast<Scalar>(samples);
  double loss = 0;
  for (Index i = 0; i < samples; ++i) {
    const int label = labels[static_cast<std::size_t>(i)];
    const Scalar largest = logits.col(i).maxCoeff();
    const Scalar chosen = logits(label, i) - largest;
    auto p = dlogits.col(i);  // classes
    p = (logits.col(i).array() - largest).exp().matrix();
    const Scalar total = p.sum();
    loss += std::log(static_cast<double>(total)) - static_cast<double>(chosen);
    p *= inverse / total;
    p(label) -= inverse;
  }
  return loss / static_cast<double>(samples);
}

template <RealScalar Scalar>
double MeanSquaredError::evaluate(ConstMatrixView<Scalar> y, ConstMatrixView<Scalar> target,
                                  MatrixView<Scalar> dy) {
  detail::require_samples("MeanSquaredError", y.cols());
  require_shape("MeanSquaredError", "target", target, y.rows(), y.cols());
  require_shape("MeanSquaredError", "dy", dy, y.rows(), y.cols());
  const auto count = static_cast<double>(y.size());
  dy = y - target;
  const double loss = static_cast<double>(dy.squaredNorm()) / count;
  dy *= static_cast<Scalar>(2 / count);
  return loss;
}

}  // namespace loraplus
