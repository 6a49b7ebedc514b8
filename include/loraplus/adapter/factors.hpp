// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/error.hpp>

namespace loraplus::inline v0_1 {

/// What an adapter has learnt, as plain matrices: y += s (B A x + b). Adapters are made from it,
/// give it, and are combined, converted and stored as it.
template <RealScalar Scalar_>
struct Factors {
  using Scalar = Scalar_;

  RowMajorMatrix<Scalar> a;  ///< r x in
  Matrix<Scalar> b;          ///< out x r
  double scaling = 1;        ///< s
  Vector<Scalar> bias = {};  ///< out, or empty: the bias of B (lora_bias of PEFT)

  /// r.
  Index rank() const { return a.rows(); }
  Index in_features() const { return a.cols(); }
  Index out_features() const { return b.rows(); }

  /// s B A, out x in.
  Matrix<Scalar> delta() const {
    Matrix<Scalar> product(out_features(), in_features());
    product.noalias() = static_cast<Scalar>(scaling) * b * a;
    return product;
  }

  /// @throws ShapeError if the shapes do not fit together
  const Factors& validate(std::string_view where) const {
    require_shape(where, "B", b, b.rows(), rank());
    if (bias.size() != 0) require_shape(where, "the bias of B", bias, out_features(), 1);
    return *this;
  }
};

}  // namespace loraplus
