// SPDX-License-Identifier: MIT
//
// The singular value decomposition of a dense matrix, of which adapters are cut. In double whatever
// the adapter's scalar: singular values far below the largest are lost in float.
//
// By the algorithm of Golub, Kahan and Reinsch (Golub and Van Loan, "Matrix Computations", section
// 8.6). Eigen 3.4 has two others, and neither serves: BDCSVD, fast, reads outside its arrays or
// errs by 1e-3 for some matrices with repeated singular values, as of adapters; JacobiSVD,
// accurate, takes many times as long.
//
// All are templates over `Double`, which is double: who includes this and decomposes nothing has
// nothing of it compiled, which takes seconds.
#pragma once

#include <Eigen/Householder>
#include <Eigen/Jacobi>
#include <Eigen/QR>
#include <algorithm>
#include <limits>
#include <loraplus/core/error.hpp>
#include <numeric>
#include <vector>

namespace loraplus::inline v0_1::detail {

/// Throws NonFiniteError "<where>: <what> is not finite" if a coefficient is NaN or infinite.
template <typename Derived>
void require_finite(std::string_view where, std::string_view what,
                    const Eigen::MatrixBase<Derived>& matrix) {
  if (matrix.allFinite()) return;
  raise<NonFiniteError>(std::string(where) + ": " + std::string(what) + " is not finite");
}

/// M = U diag(s) V' with k = min(out, in) components.
struct ThinSvd {
  Matrix<double> u;  ///< out x k, orthonormal columns
  Vector<double> s;  ///< k, not negative, descending
  Matrix<double> v;  ///< in x k, orthonormal columns
};

/// M = Q R with k = min(rows, columns) columns of Q.
struct ThinQr {
  Matrix<double> q;  ///< rows x k, orthonormal columns
  Matrix<double> r;  ///< k x columns, upper trapezoidal
};

template <typename Double = double>
ThinQr thin_qr(const Matrix<double>& matrix) {
  const Index k = std::min(matrix.rows(), matrix.cols());
  const Eigen::HouseholderQR<Matrix<Double>> qr(matrix);
  ThinQr thin{Matrix<Double>::Identity(matrix.rows(), k),
              qr.matrixQR().topRows(k).template triangularView<Eigen::Upper>()};
  thin.q.applyOnTheLeft(qr.householderQ());
  return thin;
}

/// A bidiagonal matrix U' M V on its way to a diagonal one, n x n.
template <typename Double>
class BidiagonalSvd {
 public:
  /// @param matrix n x n, finite
  explicit BidiagonalSvd(Matrix<Double> matrix)
      : n_(matrix.cols()),
        u_(Matrix<Double>::Identity(n_, n_)),
        v_(u_),
        d_(n_),
        e_(std::max<Index>(n_ - 1, 0)) {
    bidiagonalize(matrix);
  }

  ThinSvd solve() {
    diagonalize();
    std::vector<Index> order(static_cast<std::size_t>(n_));
    std::iota(order.begin(), order.end(), Index{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](Index i, Index j) { return std::abs(d_(i)) > std::abs(d_(j)); });
    for (Index i = 0; i < n_; ++i) {
      if (d_(i) < 0) v_.col(i) = -v_.col(i);
    }
    const auto all = Eigen::seqN(0, n_);  // Eigen::all is no name of both Eigen 3.4 and 5
    return {u_(all, order), d_(order).cwiseAbs(), v_(all, order)};
  }

 private:
  using Rotation = Eigen::JacobiRotation<Double>;

  /// Householder reflections from the left and the right in turn (Golub and Van Loan, algorithm
  /// 5.4.2).
  void bidiagonalize(Matrix<Double>& m) {
    Vector<Double> essential(n_), work(n_);
    double tau = 0;
    for (Index k = 0; k < n_; ++k) {
      const Index below = n_ - k - 1;  // rows below, and columns to the right
      auto left = essential.head(below);
      m.col(k).tail(below + 1).makeHouseholder(left, tau, d_(k));
      m.bottomRightCorner(below + 1, below).applyHouseholderOnTheLeft(left, tau, work.data());
      u_.rightCols(below + 1).applyHouseholderOnTheRight(left, tau, work.data());
      if (below == 0) break;
      auto right = essential.head(below - 1);
      m.row(k).tail(below).transpose().makeHouseholder(right, tau, e_(k));
      m.bottomRightCorner(below, below).applyHouseholderOnTheRight(right, tau, work.data());
      v_.rightCols(below).applyHouseholderOnTheRight(right, tau, work.data());
    }
  }

  /// Splits off the last singular value again and again, from the largest unreduced block.
  void diagonalize() {
    const double norm = d_.cwiseAbs().maxCoeff() + (n_ > 1 ? e_.cwiseAbs().maxCoeff() : 0);
    const double negligible = std::numeric_limits<double>::epsilon() * norm;
    Index last = n_ - 1;
    while (last > 0) {
      if (std::abs(e_(last - 1)) <= negligible) {
        --last;
        continue;
      }
      Index first = last - 1;
      while (first > 0 && std::abs(e_(first - 1)) > negligible) {
        --first;
      }
      const bool singular = d_.segment(first, last - first + 1).cwiseAbs().minCoeff() <= negligible;
      sweep(first, last, singular ? 0 : shift(last));
    }
  }

  /// The eigenvalue of the last 2 x 2 block of M' M that is closer to its last entry (Wilkinson).
  double shift(Index last) const {
    const double before = last > 1 ? e_(last - 2) : 0;
    const double t11 = d_(last - 1) * d_(last - 1) + before * before;
    const double t22 = d_(last) * d_(last) + e_(last - 1) * e_(last - 1);
    const double t12 = d_(last - 1) * e_(last - 1);
    const double half = (t11 - t22) / 2;
    return t22 - t12 * t12 / (half + std::copysign(std::hypot(half, t12), half));
  }

  /// One implicit QR step. A shift of 0 splits off the 0 that a singular block has.
  void sweep(Index first, Index last, double shift) {
    double y = d_(first), z = e_(first);
    if (shift != 0) {
      y = d_(first) * d_(first) - shift;
      z = d_(first) * e_(first);
    }
    for (Index k = first; k < last; ++k) {
      const Rotation right = annihilate(y, z, k > first ? &e_(k - 1) : nullptr);
      double c = right.c(), s = -right.s();
      y = c * d_(k) + s * e_(k);
      e_(k) = c * e_(k) - s * d_(k);
      z = s * d_(k + 1);
      d_(k + 1) *= c;
      v_.applyOnTheRight(k, k + 1, right);

      const Rotation left = annihilate(y, z, &d_(k));
      c = left.c();
      s = -left.s();
      y = c * e_(k) + s * d_(k + 1);
      d_(k + 1) = c * d_(k + 1) - s * e_(k);
      e_(k) = y;
      if (k + 1 < last) {
        z = s * e_(k + 1);
        e_(k + 1) *= c;
      }
      u_.applyOnTheRight(k, k + 1, left);
    }
  }

  /// The rotation that turns (y, z) to (r, 0).
  static Rotation annihilate(double y, double z, double* r) {
    Rotation rotation;
    rotation.makeGivens(y, z, r);
    return rotation;
  }

  Index n_;
  Matrix<Double> u_;  // n x n
  Matrix<Double> v_;  // n x n
  Vector<Double> d_;  // the diagonal
  Vector<Double> e_;  // above it, n - 1
};

/// The decomposition of a matrix, of at least as many rows as columns.
template <typename Double = double>
ThinSvd tall_svd(const Matrix<Double>& matrix) {
  const double scale = matrix.cwiseAbs().maxCoeff();  // lest squares overflow or vanish
  if (scale == 0) {
    const auto identity = Matrix<Double>::Identity(matrix.rows(), matrix.cols());
    return {identity, Vector<Double>::Zero(matrix.cols()), identity.topRows(matrix.cols())};
  }
  const ThinQr qr = thin_qr(matrix / scale);
  ThinSvd svd = BidiagonalSvd<Double>(qr.r).solve();
  return {qr.q * svd.u, scale * svd.s, std::move(svd.v)};
}

/// Accurate to rounding relative to the largest singular value. The sign of a pair of singular
/// vectors is arbitrary.
/// @param matrix out x in
/// @throws NonFiniteError if a coefficient is not finite
template <typename Double = double>
ThinSvd thin_svd(const Matrix<double>& matrix) {
  if (matrix.size() == 0) return {Matrix<double>(matrix.rows(), 0), {}, {matrix.cols(), 0}};
  require_finite("thin_svd", "the matrix", matrix);
  if (matrix.rows() >= matrix.cols()) return tall_svd<Double>(matrix);
  ThinSvd transposed = tall_svd<Double>(matrix.transpose());
  return {std::move(transposed.v), std::move(transposed.s), std::move(transposed.u)};
}

}  // namespace loraplus::detail
