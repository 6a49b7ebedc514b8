// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/SVD>
#include <loraplus/core/error.hpp>

namespace loraplus::detail {

/// M = U diag(s) V' with k = min(rows, cols) components, the largest first.
struct ThinSvd {
  Matrix<double> u;  ///< rows x k
  Vector<double> s;  ///< k
  Matrix<double> v;  ///< cols x k
};

/// @throws NonFiniteError if a coefficient is a NaN or an infinity, with which BDCSVD may not end
inline ThinSvd thin_svd(const Matrix<double>& matrix) {
  if (!matrix.allFinite()) throw NonFiniteError("thin_svd: the matrix is not finite");
  const Eigen::BDCSVD<Matrix<double>> svd(matrix, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return {svd.matrixU(), svd.singularValues(), svd.matrixV()};
}

}  // namespace loraplus::detail
