// SPDX-License-Identifier: MIT
//
// The products of a dense weight that is not packed. Symbols and shapes: W is out x in, x is in x
// n, y is out x n; n samples, a column each.
#pragma once

#include <loraplus/kernels/gradient_product.hpp>
#include <loraplus/kernels/product.hpp>
#include <loraplus/kernels/transposed_product.hpp>

namespace loraplus::kernels {

namespace detail {

/// y = b + M x for a column-major M.
template <typename Scalar>
void multiply_columns(Columns<const Scalar> m, ConstVectorView<Scalar> b, ConstMatrixView<Scalar> x,
                      MatrixView<Scalar> y) {
  const ColumnMajorFactor<Scalar> factor(m, y.rows(), x.rows(), x.cols() > outer_cols);
  multiply<Scalar>(factor, x, y, b.size() == 0 ? nullptr : b.data());
}

/// y = b + M' x for a column-major M.
template <typename Scalar>
void multiply_rows(Columns<const Scalar> m, ConstVectorView<Scalar> b, ConstMatrixView<Scalar> x,
                   MatrixView<Scalar> y) {
  if (b.size() != 0) y.colwise() = b;
  multiply_transposed<Scalar>({m, x.rows(), y.rows()}, Scalar(1), x, y, b.size() != 0);
}

}  // namespace detail

/// y = W x + b, or y = W x if b is empty. @param w lies in memory, row- or column-major
template <RealScalar Scalar, typename Weight>
void affine(const Weight& w, ConstVectorView<Scalar> b, ConstMatrixView<Scalar> x,
            MatrixView<Scalar> y) {
  const Columns<const Scalar> columns{w.data(), w.outerStride()};
  if constexpr (Weight::IsRowMajor) {
    detail::multiply_rows<Scalar>(columns, b, x, y);
  } else {
    detail::multiply_columns<Scalar>(columns, b, x, y);
  }
}

/// dx = W' dy. @param w lies in memory, row- or column-major
template <RealScalar Scalar, typename Weight>
void affine_backward(const Weight& w, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx) {
  const Columns<const Scalar> columns{w.data(), w.outerStride()};
  const ConstVectorView<Scalar> none(nullptr, 0);
  if constexpr (Weight::IsRowMajor) {
    detail::multiply_columns<Scalar>(columns, none, dy, dx);
  } else {
    detail::multiply_rows<Scalar>(columns, none, dy, dx);
  }
}

/// dW += dy x'. @param grad_w column-major
template <typename Scalar>
void accumulate_weight_gradient(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy,
                                Matrix<Scalar>& grad_w) {
  accumulate_gradient<Scalar>(dy, x, grad_w);
}

/// db += the sum of the columns of dy.
template <typename Dy, typename GradB>
void accumulate_bias_gradient(const Dy& dy, GradB& grad_b) {
  for (Index sample = 0; sample < dy.cols(); ++sample) {
    grad_b += dy.col(sample);
  }
}

}  // namespace loraplus::kernels
