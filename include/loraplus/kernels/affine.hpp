// SPDX-License-Identifier: MIT
//
// The products of a dense weight that is not packed. Symbols and shapes: W is out x in, x is in x
// n, y is out x n; n samples, a column each.
#pragma once

#include <loraplus/kernels/product.hpp>
#include <loraplus/kernels/transposed_product.hpp>
#include <span>

namespace loraplus::inline v0_1::kernels {

namespace detail {

/// y = b + M x.
template <typename Scalar>
void multiply_columns(ConstMatrixView<Scalar> m, ConstVectorView<Scalar> b,
                      ConstMatrixView<Scalar> x, MatrixView<Scalar> y) {
  multiply<Scalar>(ColumnMajorFactor<Scalar>(m, x.cols() > outer_cols), x, y, b);
}

/// y = b + M' x.
template <typename Scalar>
void multiply_rows(ConstMatrixView<Scalar> m, ConstVectorView<Scalar> b, ConstMatrixView<Scalar> x,
                   MatrixView<Scalar> y) {
  multiply_transposed<Scalar>(DotFactor<Scalar>(m), Scalar(1), x, y, b);
}

}  // namespace detail

/// y = W x + b, or y = W x if b is empty.
/// @param w out x in, in memory, row- or column-major, @param x in x n, @param y out x n
/// @throws ShapeError
template <RealScalar Scalar, typename Weight>
void affine(const Weight& w, ConstVectorView<Scalar> b, ConstMatrixView<Scalar> x,
            MatrixView<Scalar> y) {
  if constexpr (Weight::IsRowMajor) {
    detail::multiply_rows<Scalar>(w.transpose(), b, x, y);
  } else {
    detail::multiply_columns<Scalar>(w, b, x, y);
  }
}

/// dx = W' dy.
/// @param w out x in, in memory, row- or column-major, @param dy out x n, @param dx in x n
/// @throws ShapeError
template <RealScalar Scalar, typename Weight>
void affine_backward(const Weight& w, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx) {
  const ConstVectorView<Scalar> none(nullptr, 0);
  if constexpr (Weight::IsRowMajor) {
    detail::multiply_columns<Scalar>(w.transpose(), none, dy, dx);
  } else {
    detail::multiply_rows<Scalar>(w, none, dy, dx);
  }
}

/// y = the columns of W of these tokens + b: W x + b where each x has a single 1.
/// @param w out x in, @param b out, or empty, @param tokens in [0, in), @param y out x tokens
template <RealScalar Scalar, typename Weight>
void lookup(const Weight& w, ConstVectorView<Scalar> b, std::span<const Index> tokens,
            MatrixView<Scalar> y) {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    y.col(static_cast<Index>(i)) = w.col(tokens[i]);
  }
  if (b.size() != 0) y.colwise() += b;
}

/// db += the sum of the columns of dy.
template <typename Dy, typename GradB>
void accumulate_bias_gradient(const Dy& dy, GradB& grad_b) {
  for (Index sample = 0; sample < dy.cols(); ++sample) {
    grad_b += dy.col(sample);
  }
}

}  // namespace loraplus::kernels
