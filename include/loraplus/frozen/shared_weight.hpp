// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/error.hpp>
#include <loraplus/frozen/frozen_weight.hpp>
#include <loraplus/kernels/affine.hpp>
#include <memory>
#include <utility>

namespace loraplus::inline v0_1 {

/// A frozen weight that owns its matrix. Its copies share the one matrix, so many adapters and
/// many threads can stand on it; nobody can write it.
template <RealScalar Scalar_>
class SharedWeight {
 public:
  using Scalar = Scalar_;

  /// Move the matrices in and nothing is copied.
  /// @param w out x in, @param b out coefficients, or empty for y = W x
  /// @throws ShapeError if b is neither
  explicit SharedWeight(Matrix<Scalar> w, Vector<Scalar> b = {}) {
    if (b.size() != 0) require_shape("SharedWeight", "b", b, w.rows(), 1);
    data_ = std::make_shared<const Data>(Data{std::move(w), std::move(b)});
  }

  Index in_features() const { return data_->w.cols(); }
  Index out_features() const { return data_->w.rows(); }

  /// y = W x + b. @param x in x n, @param y out x n
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y) const {
    kernels::affine<Scalar>(data_->w, bias(), x, y);
  }

  /// dx = W' dy. @param dy out x n, @param dx in x n
  void backward(ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx) const {
    kernels::affine_backward<Scalar>(data_->w, dy, dx);
  }

  /// Whether the two share their matrix.
  bool is_same_object(const SharedWeight& other) const { return data_ == other.data_; }

  /// The shared matrix, out x in.
  const Matrix<Scalar>& weight() const { return data_->w; }

  /// y = the columns of W of these tokens, with the bias. @param y out x tokens
  void lookup(std::span<const Index> tokens, MatrixView<Scalar> y) const {
    kernels::lookup<Scalar>(data_->w, bias(), tokens, y);
  }

  /// w = W. @param w out x in
  /// @throws ShapeError
  void copy_to(MatrixView<Scalar> w) const {
    require_shape("SharedWeight::copy_to", "w", w, out_features(), in_features());
    w = data_->w;
  }
  ConstVectorView<Scalar> bias() const { return {data_->b.data(), data_->b.size()}; }

 private:
  struct Data {
    Matrix<Scalar> w;  // out x in
    Vector<Scalar> b;  // out, or empty
  };
  std::shared_ptr<const Data> data_;
};

}  // namespace loraplus
