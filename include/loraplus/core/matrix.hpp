// SPDX-License-Identifier: MIT
//
// The matrices of the library: a column is a sample, a batch of n samples with f features is an
// f x n column-major matrix. Functions take batches as views that never copy.
#pragma once

#include <Eigen/Core>
#include <type_traits>

namespace loraplus {

using Index = Eigen::Index;

/// A real number type that Eigen knows: float, double, or a user's own.
template <typename T>
concept RealScalar = !Eigen::NumTraits<T>::IsInteger && !Eigen::NumTraits<T>::IsComplex;

/// Column-major, the layout of batches, of B and of trained weights.
template <RealScalar Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

/// Row-major, the layout of A.
template <RealScalar Scalar>
using RowMajorMatrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <RealScalar Scalar>
using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;

/// A vector to read that somebody else owns; possibly empty.
template <RealScalar Scalar>
using ConstVectorView = Eigen::Map<const Vector<Scalar>>;

namespace detail {

template <typename Derived, typename Scalar>
constexpr void require_column_major_batch() {
  static_assert(std::is_same_v<typename Derived::Scalar, Scalar>,
                "loraplus: the batch and the layer have different scalar types");
  static_assert(
      static_cast<bool>(Derived::Flags & Eigen::DirectAccessBit),
      "loraplus: a batch must lie in memory; evaluate the expression into a matrix first");
  static_assert(!Derived::IsRowMajor && Derived::InnerStrideAtCompileTime == 1,
                "loraplus: a batch is column-major, a column is a sample: pass the transpose of a "
                "row-major (sample x feature) matrix, which costs nothing");
}

template <typename Derived>
void accept_matrix(const Eigen::MatrixBase<Derived>&);

/// An Eigen matrix or matrix expression, or a class derived from one.
template <typename T>
concept EigenMatrix = requires(const T& matrix) {
  detail::accept_matrix(matrix);
};

template <typename Plain>
using StridedMap = Eigen::Map<Plain, Eigen::Unaligned, Eigen::OuterStride<>>;

}  // namespace detail

/// A batch to read: any column-major Eigen object of this scalar, a block or a Map too, seen in
/// place. Another storage order or an unevaluated expression is refused at compile time, where
/// Eigen::Ref would copy silently.
template <RealScalar Scalar>
class ConstMatrixView : public detail::StridedMap<const Matrix<Scalar>> {
 public:
  using Base = detail::StridedMap<const Matrix<Scalar>>;

  template <detail::EigenMatrix Derived>
  ConstMatrixView(const Derived& batch)  // NOLINT(google-explicit-constructor): a view
      : Base(batch.data(), batch.rows(), batch.cols(), Eigen::OuterStride<>(batch.outerStride())) {
    detail::require_column_major_batch<Derived, Scalar>();
  }
};

/// A batch to write, under the conditions of ConstMatrixView. Its size is never changed.
template <RealScalar Scalar>
class MatrixView : public detail::StridedMap<Matrix<Scalar>> {
 public:
  using Base = detail::StridedMap<Matrix<Scalar>>;
  using Base::operator=;

  MatrixView(const MatrixView&) = default;

  template <detail::EigenMatrix Batch>
  MatrixView(Batch&& batch)  // NOLINT(google-explicit-constructor): a view
      : Base(batch.data(), batch.rows(), batch.cols(), Eigen::OuterStride<>(batch.outerStride())) {
    detail::require_column_major_batch<std::remove_reference_t<Batch>, Scalar>();
  }

  /// Assigns the coefficients, as every Eigen object does; the view itself is never rebound.
  MatrixView& operator=(const MatrixView& other) {
    Base::operator=(other);
    return *this;
  }
};

}  // namespace loraplus
