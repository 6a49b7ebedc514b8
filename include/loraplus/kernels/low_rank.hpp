// SPDX-License-Identifier: MIT
//
// The six thin products of a low-rank adapter, as plain Eigen expressions.
//
//   A  r x in, row-major     x   in x n      h   r x n    s A x, the scaling included
//   B  out x r, column-major dy  out x n     z   r x n    s B' dy, the scaling included
//
// The scaling is applied once, on the r-sized factor: with h and z scaled, the other four
// products need none, and a step counts 3 n r (in + out) multiply-adds.
#pragma once

#include <loraplus/core/matrix.hpp>

namespace loraplus::kernels {

/// h = s A x.
template <typename A, typename X, typename H>
void down_project(typename A::Scalar s, const A& a, const X& x, H&& h) {
  h.noalias() = s * a * x;
}

/// y += B h.
template <typename B, typename H, typename Y>
void up_project(const B& b, const H& h, Y&& y) {
  y.noalias() += b * h;
}

/// z = s B' dy.
template <typename B, typename Dy, typename Z>
void up_project_backward(typename B::Scalar s, const B& b, const Dy& dy, Z&& z) {
  z.noalias() = s * b.transpose() * dy;
}

/// dB += dy h'.
template <typename Dy, typename H, typename GradB>
void accumulate_b_gradient(const Dy& dy, const H& h, GradB& grad_b) {
  grad_b.noalias() += dy * h.transpose();
}

/// dA += z x'.
template <typename Z, typename X, typename GradA>
void accumulate_a_gradient(const Z& z, const X& x, GradA& grad_a) {
  grad_a.noalias() += z * x.transpose();
}

/// dx += A' z.
template <typename A, typename Z, typename Dx>
void down_project_backward(const A& a, const Z& z, Dx&& dx) {
  dx.noalias() += a.transpose() * z;
}

}  // namespace loraplus::kernels
