// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/error.hpp>
#include <loraplus/core/parameter.hpp>
#include <loraplus/core/random.hpp>
#include <loraplus/kernels/affine.hpp>
#include <loraplus/kernels/gradient_product.hpp>
#include <utility>

namespace loraplus::inline v0_1 {

/// A dense layer trained in full, y = W x + b: for pretraining, for a head, and as the baseline
/// that adapters are measured against.
template <RealScalar Scalar_>
class Linear {
 public:
  using Scalar = Scalar_;
  struct Cache {};

  /// @param w out x in, @param b out coefficients, or empty for no bias
  /// @throws ShapeError if b is neither
  explicit Linear(Matrix<Scalar> w, Vector<Scalar> b = {})
      : weight_(std::move(w)),
        bias_(std::move(b)),
        weight_gradient_(Matrix<Scalar>::Zero(weight_.rows(), weight_.cols())),
        bias_gradient_(Vector<Scalar>::Zero(bias_.size())) {
    if (bias_.size() != 0) require_shape("Linear", "b", bias_, weight_.rows(), 1);
  }

  /// W, then b, ~ U(-1/sqrt(in), 1/sqrt(in)), in storage order: the default of PyTorch.
  template <RandomBits Generator>
  Linear(Index out, Index in, Generator& generator)
      : Linear(Matrix<Scalar>(out, in), Vector<Scalar>(out)) {
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    loraplus::fill_uniform(weight_, generator, -bound, bound);
    loraplus::fill_uniform(bias_, generator, -bound, bound);
  }

  Index in_features() const { return weight_.cols(); }
  Index out_features() const { return weight_.rows(); }

  /// W, out x in.
  const Matrix<Scalar>& weight() const { return weight_; }
  /// b, out coefficients, or empty.
  ConstVectorView<Scalar> bias() const { return {bias_.data(), bias_.size()}; }

  Cache make_cache(Index /*largest_batch*/) const { return {}; }

  /// y = W x + b. @param x in x n, @param y out x n
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& /*cache*/) const {
    require_shape("Linear::forward", "x", x, in_features(), x.cols());
    require_shape("Linear::forward", "y", y, out_features(), x.cols());
    require_distinct("Linear::forward", x, y);
    kernels::affine<Scalar>(weight_, bias(), x, y);
  }

  /// dW += dy x', db += the sum of dy over the samples. @param x in x n, @param dy out x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& /*cache*/) {
    require_shape("Linear::backward", "x", x, in_features(), x.cols());
    require_shape("Linear::backward", "dy", dy, out_features(), x.cols());
    kernels::accumulate<Scalar>(dy, x, weight_gradient_);
    if (bias_.size() != 0) kernels::accumulate_bias_gradient(dy, bias_gradient_);
  }

  /// The same, and dx = W' dy. @param dx in x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx,
                Cache& cache) {
    require_shape("Linear::backward", "dx", dx, in_features(), x.cols());
    require_distinct("Linear::backward", dy, dx);
    backward(x, dy, cache);
    kernels::affine_backward<Scalar>(weight_, dy, dx);
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(Parameter<Scalar>("weight", Role::weight, weight_, weight_gradient_));
    if (bias_.size() != 0) {
      visit(Parameter<Scalar>("bias", Role::bias, bias_, bias_gradient_));
    }
  }

 private:
  Matrix<Scalar> weight_;           // out x in
  Vector<Scalar> bias_;             // out, or empty
  Matrix<Scalar> weight_gradient_;  // out x in
  Vector<Scalar> bias_gradient_;    // out, or empty
};

}  // namespace loraplus
