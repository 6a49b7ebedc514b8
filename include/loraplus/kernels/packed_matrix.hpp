// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/kernels/tile.hpp>

namespace loraplus::inline v0_1::kernels {

/// A matrix in the order in which the outer tile reads it: strips of packet_size rows, a strip
/// column by column, the rows of the last one filled up with zeros.
///
///       rows            in memory
///     0 .. 15   strip 0   |col 0 rows 0..15|col 1 rows 0..15| ...         here packet_size is 16
///     16 .. 31  strip 1   |col 0 rows 16..31|col 1 rows 16..31| ...
///
/// The distance between strips is an odd number of cache lines: rows of different strips, which
/// the transposed product reads together, do not compete for the same places in a cache.
template <RealScalar Scalar>
class PackedMatrix {
 public:
  /// @param matrix rows x cols, in any storage order
  template <typename Derived>
  explicit PackedMatrix(const Eigen::MatrixBase<Derived>& matrix)
      : rows_(matrix.rows()), cols_(matrix.cols()), stride_(strip_stride(matrix.cols())) {
    data_ = Vector<Scalar>::Zero(strips() * stride_);
    if (matrix.size() == 0) return;
    for (Index i = 0; i < strips(); ++i) {
      strip_map(data_.data(), i).topRows(strip_rows(i)) =
          matrix.middleRows(i * packet_size<Scalar>, strip_rows(i));
    }
  }

  /// Rows, filled up to whole packets.
  static Index padded(Index rows) { return packets_for<Scalar>(rows) * packet_size<Scalar>; }

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  /// The strips, the last one perhaps filled up.
  Index strips() const { return packets_for<Scalar>(rows_); }
  /// From the start of a strip to that of the next, in scalars.
  Index stride() const { return stride_; }
  /// The memory of the coefficients, gaps included.
  std::size_t bytes() const { return static_cast<std::size_t>(data_.size()) * sizeof(Scalar); }

  /// Strip i, packet_size x cols, column-major.
  const Scalar* strip(Index i) const { return data_.data() + i * stride_; }
  /// The same to write.
  Scalar* strip(Index i) { return data_.data() + i * stride_; }

  /// @param matrix rows x cols, in any storage order
  template <typename Derived>
  void copy_to(Eigen::MatrixBase<Derived>& matrix) const {
    if (matrix.size() == 0) return;
    for (Index i = 0; i < strips(); ++i) {
      matrix.middleRows(i * packet_size<Scalar>, strip_rows(i)) =
          strip_map(data_.data(), i).topRows(strip_rows(i));
    }
  }

 private:
  static Index strip_stride(Index cols) {
    constexpr Index line = std::max<Index>(1, 64 / static_cast<Index>(sizeof(Scalar)));
    const Index lines = (cols * packet_size<Scalar> + line - 1) / line;
    return (lines % 2 == 0 ? lines + 1 : lines) * line;
  }

  Index strip_rows(Index i) const {
    return std::min(packet_size<Scalar>, rows_ - i * packet_size<Scalar>);
  }

  template <typename Pointer>
  auto strip_map(Pointer data, Index i) const {
    using Strip = Eigen::Matrix<Scalar, packet_size<Scalar>, Eigen::Dynamic,
                                packet_size<Scalar> == 1 ? Eigen::RowMajor : Eigen::ColMajor>;
    using Map = Eigen::Map<
        std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const Strip, Strip>>;
    return Map(data + i * stride_, packet_size<Scalar>, cols_);
  }

  Index rows_;
  Index cols_;
  Index stride_;
  Vector<Scalar> data_;  // strips * stride
};

}  // namespace loraplus::kernels
