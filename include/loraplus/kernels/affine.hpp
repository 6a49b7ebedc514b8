// SPDX-License-Identifier: MIT
//
// The products of a dense weight. Symbols and shapes: W is out x in, x is in x n, y is out x n;
// n samples, a column each.
#pragma once

#include <loraplus/core/matrix.hpp>

namespace loraplus::kernels {

/// y = W x + b, or y = W x if b is empty. b has out coefficients.
template <typename Weight, typename X, typename Y>
void affine(const Weight& w, ConstVectorView<typename Weight::Scalar> b, const X& x, Y&& y) {
  if (b.size() == 0) {
    y.noalias() = w * x;
  } else {
    y.colwise() = b;
    y.noalias() += w * x;
  }
}

/// dx = W' dy.
template <typename Weight, typename Dy, typename Dx>
void affine_backward(const Weight& w, const Dy& dy, Dx&& dx) {
  dx.noalias() = w.transpose() * dy;
}

/// dW += dy x'.
template <typename X, typename Dy, typename GradW>
void accumulate_weight_gradient(const X& x, const Dy& dy, GradW& grad_w) {
  grad_w.noalias() += dy * x.transpose();
}

/// db += the sum of the columns of dy.
template <typename Dy, typename GradB>
void accumulate_bias_gradient(const Dy& dy, GradB& grad_b) {
  for (Index sample = 0; sample < dy.cols(); ++sample) {
    grad_b += dy.col(sample);
  }
}

}  // namespace loraplus::kernels
