// SPDX-License-Identifier: MIT
//
// The left factors of a product, as the outer tile takes them: panels of a few packets of rows
// over a range of columns. A packed matrix has them lying ready; from any other layout they are
// copied, a panel at a time, into a buffer.
#pragma once

#include <loraplus/kernels/packed_matrix.hpp>

namespace loraplus::inline v0_1::kernels {

/// Columns of a copied panel at most, which keeps it in the second cache.
inline constexpr Index copied_columns = 256;

/// Columns that are read in place together, each a stream through memory.
inline constexpr Index streamed_columns = 16;

/// Room for a copied panel.
template <typename Scalar>
using PanelBuffer =
    std::array<Scalar, static_cast<std::size_t>(outer_height<Scalar>* copied_columns)>;

/// The part of a left factor that a tile reads: rows of packets, columns of the range.
struct PanelRange {
  Index packet;   ///< the first
  Index packets;  ///< 1 .. outer_rows
  Index col;      ///< the first
  /// How many.
  Index cols;
};

/// Where packet i of column k lies: at data + k * step + i * packet.
template <typename Scalar>
struct Panel {
  /// Packet 0 of column 0.
  const Scalar* data;
  /// From a column to the next.
  Index step;
  /// From a packet of a column to the next.
  Index packet;
};

/// A packed matrix, read in place.
template <typename Scalar>
class PackedFactor {
 public:
  /// @param matrix must outlive this
  explicit PackedFactor(const PackedMatrix<Scalar>& matrix) : matrix_(matrix) {}

  Index rows() const { return matrix_.rows(); }
  Index cols() const { return matrix_.cols(); }
  /// The columns that a panel may have.
  Index largest_panel() const { return cols(); }

  /// The part of the matrix, where it lies.
  Panel<Scalar> panel(const PanelRange& range, Scalar* /*buffer*/) const {
    return {matrix_.strip(range.packet) + range.col * packet_size<Scalar>, packet_size<Scalar>,
            matrix_.stride()};
  }

 private:
  const PackedMatrix<Scalar>& matrix_;
};

/// A column-major matrix. A panel that is read often is copied, another one is read in place.
template <typename Scalar>
class ColumnMajorFactor {
 public:
  /// @param is_copied whether panels are copied before they are read
  ColumnMajorFactor(ConstMatrixView<Scalar> m, bool is_copied)
      : data_{m.data(), m.outerStride()}, rows_(m.rows()), cols_(m.cols()), is_copied_(is_copied) {}

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  /// The columns that a panel may have.
  Index largest_panel() const { return is_copied_ ? copied_columns : streamed_columns; }

  /// The part of the matrix, where it lies or copied to the buffer.
  Panel<Scalar> panel(const PanelRange& range, Scalar* buffer) const {
    constexpr Index size = packet_size<Scalar>;
    if (range.cols == 0) return {buffer, 0, 0};
    const Index row = range.packet * size;
    const Index whole = std::min(range.packets, (rows_ - row) / size);
    const Index rest = rows_ - row - whole * size;
    const Scalar* from = data_.at(row, range.col);
    if (!is_copied_ && whole == range.packets) return {from, data_.stride, size};
    Scalar* to = buffer;
    for (Index k = 0; k < range.cols; ++k, from += data_.stride, to += range.packets * size) {
      for (Index i = 0; i < whole; ++i) {
        store(to + i * size, load(from + i * size));
      }
      if (whole < range.packets) store(to + whole * size, load_part(from + whole * size, rest));
    }
    return {buffer, range.packets * size, size};
  }

 private:
  Columns<const Scalar> data_;
  Index rows_;
  Index cols_;
  bool is_copied_;
};

}  // namespace loraplus::kernels
