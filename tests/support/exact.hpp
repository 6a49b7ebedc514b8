// Sums of products in a wider type, and how far rounding may take a computed one from them.
#pragma once

#include <cmath>
#include <limits>

#include "support/matrices.hpp"

namespace test {

/// A type in which the products of two Scalars are exact, or nearly so.
template <typename Scalar>
using Wide = std::conditional_t<std::is_same_v<Scalar, float>, double, long double>;

/// Whether two matrices have the same shape and coefficients, NaN and the signs of zeros included:
/// same_bits for a long double too, which has bits that mean nothing.
template <typename A, typename B>
bool same_values(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  for (Index j = 0; j < a.cols(); ++j) {
    for (Index i = 0; i < a.rows(); ++i) {
      const auto left = a(i, j), right = b(i, j);
      const bool same = std::isnan(left)
                            ? std::isnan(right)
                            : left == right && std::signbit(left) == std::signbit(right);
      if (!same) return false;
    }
  }
  return true;
}

/// A matrix that is a sum of products, added up in the wider type.
template <typename Scalar>
class Exact {
 public:
  using WideMatrix = loraplus::Matrix<Wide<Scalar>>;

  Exact(Index rows, Index cols)
      : value_(WideMatrix::Zero(rows, cols)), squares_(WideMatrix::Zero(rows, cols)) {}

  /// Adds s a b.
  template <typename A, typename B>
  Exact& add(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, Scalar s = Scalar(1)) {
    const WideMatrix left = Wide<Scalar>(s) * a.template cast<Wide<Scalar>>();
    const WideMatrix right = b.template cast<Wide<Scalar>>();
    if (left.cols() == 0) return *this;
    value_ += left * right;
    squares_ += left.cwiseAbs2() * right.cwiseAbs2();
    terms_ += a.cols();
    return *this;
  }

  /// Adds a matrix, or the same column to every column.
  template <typename A>
  Exact& add(const Eigen::MatrixBase<A>& a) {
    const WideMatrix wide =
        a.template cast<Wide<Scalar>>().replicate(1, A::ColsAtCompileTime == 1 ? value_.cols() : 1);
    value_ += wide;
    squares_ += wide.cwiseAbs2();
    ++terms_;
    return *this;
  }

  const WideMatrix& value() const { return value_; }

  /// The furthest that a coefficient of `found` is off, where 1 is what adding up random terms in
  /// any order may do; a single term that is missing or wrong is far above. NaN is infinitely far.
  template <typename Found>
  double error(const Eigen::MatrixBase<Found>& found) const {
    if (found.rows() != value_.rows() || found.cols() != value_.cols()) {
      return std::numeric_limits<double>::infinity();
    }
    const double unit = static_cast<double>(std::numeric_limits<Scalar>::epsilon()) *
                        (8 + 2 * std::sqrt(static_cast<double>(terms_)));
    double largest = 0;
    for (Index j = 0; j < found.cols(); ++j) {
      for (Index i = 0; i < found.rows(); ++i) {
        const auto distance =
            static_cast<double>(std::abs(Wide<Scalar>(found(i, j)) - value_(i, j)));
        if (distance == 0) continue;
        const double error = distance / (unit * std::sqrt(static_cast<double>(squares_(i, j))));
        if (!(error <= largest)) largest = error;
        if (std::isnan(error)) return std::numeric_limits<double>::infinity();
      }
    }
    return largest;
  }

  /// Whether `found` has NaN and the infinities where the exact sums have them, and only there.
  template <typename Found>
  bool same_specials(const Eigen::MatrixBase<Found>& found) const {
    for (Index j = 0; j < value_.cols(); ++j) {
      for (Index i = 0; i < value_.rows(); ++i) {
        const Wide<Scalar> exact = value_(i, j), value = found(i, j);
        const bool same = std::isnan(exact)   ? std::isnan(value)
                          : std::isinf(exact) ? value == exact
                                              : std::isfinite(value);
        if (!same) return false;
      }
    }
    return true;
  }

 private:
  WideMatrix value_;
  WideMatrix squares_;  // sums of the squares of the terms
  Index terms_ = 0;
};

}  // namespace test
