// SPDX-License-Identifier: MIT
//
// The singular value decomposition of a dense matrix, of which adapters are cut. In double whatever
// the adapter's scalar: singular values far below the largest are lost in float.
#pragma once

#include <Eigen/SVD>
#include <loraplus/core/error.hpp>

namespace loraplus::detail {

/// Throws NonFiniteError "<where>: <what> is not finite" if a coefficient is NaN or infinite.
template <typename Derived>
void require_finite(std::string_view where, std::string_view what,
                    const Eigen::MatrixBase<Derived>& matrix) {
  if (matrix.allFinite()) return;
  throw NonFiniteError(std::string(where) + ": " + std::string(what) + " is not finite");
}

/// M = U diag(s) V' with k = min(out, in) components.
struct ThinSvd {
  Matrix<double> u;  ///< out x k, orthonormal columns
  Vector<double> s;  ///< k, not negative, descending
  Matrix<double> v;  ///< in x k, orthonormal columns
};

/// Accurate to rounding relative to the largest singular value. The sign of a pair of singular
/// vectors is arbitrary.
/// @param matrix out x in
/// @throws NonFiniteError if a coefficient is not finite
inline ThinSvd thin_svd(const Matrix<double>& matrix) {
  if (matrix.size() == 0) return {Matrix<double>(matrix.rows(), 0), {}, {matrix.cols(), 0}};
  require_finite("thin_svd", "the matrix", matrix);
  const Eigen::BDCSVD<Matrix<double>> svd(matrix, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return {svd.matrixU(), svd.singularValues(), svd.matrixV()};
}

}  // namespace loraplus::detail
