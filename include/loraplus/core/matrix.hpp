// SPDX-License-Identifier: MIT
//
// The matrices of the library: a column is a sample, a batch of n samples with f features is an
// f x n column-major matrix. Functions take batches as views that never copy.
#pragma once

#include <Eigen/Core>
#if !EIGEN_VERSION_AT_LEAST(3, 4, 0)
#error "loraplus needs Eigen 3.4 or newer"
#endif

#include <type_traits>

namespace loraplus::inline v0_1 {

/// Sizes and indices, signed.
using Index = Eigen::Index;

/// A real number type that Eigen knows: float, double, or a user's own.
template <typename T>
concept RealScalar =
    !Eigen::NumTraits<T>::IsInteger && !Eigen::NumTraits<T>::IsComplex && requires(T a, T b) {
  a = a * b - a / b;
  a < b;
};

/// Column-major, the layout of batches, of B and of trained weights.
template <RealScalar Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;

/// Row-major, the layout of A.
template <RealScalar Scalar>
using RowMajorMatrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// A column: a bias, a magnitude.
template <RealScalar Scalar>
using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1, Eigen::ColMajor>;

/// A vector to read that somebody else owns; possibly empty.
template <RealScalar Scalar>
using ConstVectorView = Eigen::Map<const Vector<Scalar>>;

namespace detail {

template <typename Derived>
void accept_matrix(const Eigen::MatrixBase<Derived>&);

/// An Eigen matrix or matrix expression, or a class derived from one.
template <typename T>
concept EigenMatrix = requires(const T& matrix) {
  detail::accept_matrix(matrix);
};

template <typename Plain>
using StridedMap = Eigen::Map<Plain, Eigen::Unaligned, Eigen::OuterStride<>>;

/// A batch as a map, or a compile error that says what is wrong with it and nothing else.
/// @tparam Plain Matrix<Scalar>, const or not
template <typename Plain, typename Batch>
StridedMap<Plain> map_batch(Batch& batch) {
  constexpr bool same_scalar = std::is_same_v<typename Batch::Scalar, typename Plain::Scalar>;
  constexpr bool in_memory = static_cast<bool>(Batch::Flags & Eigen::DirectAccessBit);
  constexpr bool column_major = !Batch::IsRowMajor && Batch::InnerStrideAtCompileTime == 1;
  constexpr bool writable = std::is_const_v<Plain> || !std::is_const_v<Batch>;
  static_assert(same_scalar, "loraplus: the batch and the layer have different scalar types");
  static_assert(
      in_memory,
      "loraplus: a batch must lie in memory; evaluate the expression into a matrix first");
  static_assert(column_major || !in_memory,
                "loraplus: a batch is column-major, a column is a sample: pass the transpose of a "
                "row-major (sample x feature) matrix, which costs nothing");
  static_assert(writable, "loraplus: an output is const");
  if constexpr (same_scalar && in_memory && column_major && writable) {
    return {batch.data(), batch.rows(), batch.cols(), Eigen::OuterStride<>(batch.outerStride())};
  } else {
    return {nullptr, 0, 0, Eigen::OuterStride<>(0)};
  }
}

}  // namespace detail

/// A batch to read: any column-major Eigen object of this scalar, a block or a Map too, seen in
/// place. Another storage order or an unevaluated expression is refused at compile time, where
/// Eigen::Ref would copy silently.
template <RealScalar Scalar>
class ConstMatrixView : public detail::StridedMap<const Matrix<Scalar>> {
 public:
  /// The map that it is.
  using Base = detail::StridedMap<const Matrix<Scalar>>;

  /// A view of nothing, 0 x 0.
  ConstMatrixView() : Base(nullptr, 0, 0, Eigen::OuterStride<>(0)) {}

  /// Sees the batch, which must outlive the view.
  template <detail::EigenMatrix Derived>
  ConstMatrixView(const Derived& batch)  // NOLINT(google-explicit-constructor): a view
      : Base(detail::map_batch<const Matrix<Scalar>>(batch)) {}
};

/// A batch to write, under the conditions of ConstMatrixView. Its size is never changed.
template <RealScalar Scalar>
class MatrixView : public detail::StridedMap<Matrix<Scalar>> {
 public:
  /// The map that it is.
  using Base = detail::StridedMap<Matrix<Scalar>>;
  using Base::operator=;  // assigns the coefficients, as every Eigen object does

  /// Sees the batch, which must outlive the view.
  template <detail::EigenMatrix Batch>
  MatrixView(Batch&& batch)  // NOLINT(google-explicit-constructor): a view
      : Base(detail::map_batch<Matrix<Scalar>>(batch)) {}
};

}  // namespace loraplus
