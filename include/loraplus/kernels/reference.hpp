// SPDX-License-Identifier: MIT
//
// The thin products of an adapter as plain Eigen expressions: what the fast ones are tested against
// and measured beside. Symbols and shapes are those of low_rank.hpp.
#pragma once

#include <loraplus/core/matrix.hpp>

namespace loraplus::inline v0_1::kernels::reference {

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

/// dF += x h'.
template <typename X, typename H, typename GradF>
void accumulate(const X& x, const H& h, GradF&& grad_f) {
  grad_f.noalias() += x * h.transpose();
}

}  // namespace loraplus::kernels::reference
