// SPDX-License-Identifier: MIT
//
// What a frozen weight does not tell of itself, found out by asking for its product.
#pragma once

#include <loraplus/frozen/frozen_weight.hpp>

namespace loraplus::inline v0_1 {

/// The bias that the frozen weight adds, out coefficients: its own word, or else its product with
/// zero.
template <FrozenWeight W>
Vector<typename W::Scalar> bias_of(const W& weight) {
  using Scalar = typename W::Scalar;
  if constexpr (requires { weight.bias(); }) {
    const ConstVectorView<Scalar> bias = weight.bias();
    if (bias.size() != 0) return bias;
    return Vector<Scalar>::Zero(weight.out_features());
  } else {
    Matrix<Scalar> y(weight.out_features(), 1);
    weight.forward(Matrix<Scalar>(Matrix<Scalar>::Zero(weight.in_features(), 1)), y);
    return y;
  }
}

/// The squared 2-norm of every row of W, out coefficients, added up in double. A weight that cannot
/// be read is multiplied with the columns of the identity, a few at a time.
template <FrozenWeight W>
Vector<double> squared_row_norms(const W& weight) {
  using Scalar = typename W::Scalar;
  if constexpr (DenseWeight<W>) {
    return loraplus::to_matrix(weight).template cast<double>().rowwise().squaredNorm();
  } else {
    const Index in = weight.in_features();
    const Vector<Scalar> bias = bias_of(weight);
    Vector<double> norms = Vector<double>::Zero(weight.out_features());
    for (Index first = 0; first < in; first += 64) {
      const Index count = std::min<Index>(64, in - first);
      Matrix<Scalar> unit = Matrix<Scalar>::Zero(in, count);
      unit.middleRows(first, count).setIdentity();
      Matrix<Scalar> columns(weight.out_features(), count);
      weight.forward(unit, columns);
      norms += (columns.colwise() - bias).template cast<double>().rowwise().squaredNorm();
    }
    return norms;
  }
}

}  // namespace loraplus
