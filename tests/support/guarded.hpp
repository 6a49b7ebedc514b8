// A matrix inside a larger one, for tests that nothing outside is read or written.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "support/matrices.hpp"

namespace test {

/// A column-major matrix with other coefficients above, below, before and behind, all NaN or of
/// one value.
template <typename Scalar>
class Guarded {
 public:
  explicit Guarded(const loraplus::Matrix<Scalar>& inside,
                   Scalar guard = std::numeric_limits<Scalar>::quiet_NaN())
      : whole_(loraplus::Matrix<Scalar>::Constant(inside.rows() + 8, inside.cols() + 3, guard)),
        rows_(inside.rows()),
        cols_(inside.cols()) {
    view() = inside;
    before_ = whole_;
  }

  auto view() { return whole_.block(3, 2, rows_, cols_); }
  auto view() const { return whole_.block(3, 2, rows_, cols_); }
  loraplus::Matrix<Scalar> inside() const { return view(); }

  /// Whether all that is outside is as it was.
  bool is_intact() const {
    loraplus::Matrix<Scalar> now = whole_;
    now.block(3, 2, rows_, cols_) = before_.block(3, 2, rows_, cols_);
    return std::equal(now.reshaped().begin(), now.reshaped().end(), before_.reshaped().begin(),
                      [](Scalar a, Scalar b) { return a == b || (a != a && b != b); });
  }

 private:
  loraplus::Matrix<Scalar> whole_;
  loraplus::Matrix<Scalar> before_;
  Index rows_;
  Index cols_;
};

/// A copy of a matrix in memory that ends with its last coefficient, where Eigen leaves room to
/// align: there the address sanitizer sees a read too far.
template <typename Scalar>
class Tight {
 public:
  explicit Tight(const loraplus::Matrix<Scalar>& matrix)
      : values_(matrix.data(), matrix.data() + matrix.size()),
        rows_(matrix.rows()),
        cols_(matrix.cols()) {}

  Eigen::Map<loraplus::Matrix<Scalar>> view() { return {values_.data(), rows_, cols_}; }

 private:
  std::vector<Scalar> values_;
  Index rows_;
  Index cols_;
};

}  // namespace test
