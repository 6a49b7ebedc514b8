// SPDX-License-Identifier: MIT
//
// The products of an adapted layer as plain Eigen expressions: what the fast ones are tested
// against and measured beside. Symbols and shapes are those of affine.hpp and low_rank.hpp.
#pragma once

#include <loraplus/core/matrix.hpp>

namespace loraplus::kernels::reference {

/// y = W x + b, or y = W x if b is empty.
template <typename Weight, typename B, typename X, typename Y>
void affine(const Weight& w, const B& b, const X& x, Y&& y) {
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

/// h = s F' x.
template <typename F, typename X, typename H>
void project(typename F::Scalar s, const F& f, const X& x, H&& h) {
  h.noalias() = s * f.transpose() * x;
}

/// y += F h.
template <typename F, typename H, typename Y>
void expand(const F& f, const H& h, Y&& y) {
  y.noalias() += f * h;
}

/// dF += x h'; with F a weight, dW += dy x'.
template <typename X, typename H, typename GradF>
void accumulate(const X& x, const H& h, GradF&& grad_f) {
  grad_f.noalias() += x * h.transpose();
}

}  // namespace loraplus::kernels::reference
