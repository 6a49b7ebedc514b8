// SPDX-License-Identifier: MIT
//
// The two register-blocked loops in which the products of the library spend their time.
//
//   outer_tile   C = C0 + sum over k of a_k b_k'   C is Rows packets x Cols; a packet runs down a
//                                                  column of C, a coefficient of b is broadcast
//   dot_tile     C = s a' b                        C is Rows x Cols; a packet runs down a column of
//                                                  both factors, and is summed at the end
//
// A coefficient of C is made by the same chain of operations whatever the tile it falls in. So no
// result depends on the other samples of a batch, on the sizes of blocks or on threads, bit for
// bit.
#pragma once

#include <array>
#include <loraplus/kernels/packet.hpp>

namespace loraplus::inline v0_1::kernels {

// The sizes of the tiles: their sums, the column of a and one packet of b fill the registers. SSE2
// has no fused instruction, so a product takes one more. GCC 12 then reads the column from memory;
// clang 14 would keep a sum there, and lose a third of the speed.
#if defined(__clang__) && defined(EIGEN_VECTORIZE_SSE2) && !defined(EIGEN_VECTORIZE_FMA)
inline constexpr int small_rows = 2;
#else
inline constexpr int small_rows = 3;
#endif
inline constexpr int outer_rows = vector_registers >= 32 ? 3 : small_rows;
inline constexpr int outer_cols = vector_registers >= 32 ? 8 : 4;
inline constexpr int dot_rows = vector_registers >= 32 ? 4 : small_rows;
inline constexpr int dot_cols = vector_registers >= 32 ? 6 : 4;

/// Rows of the largest outer tile.
template <typename Scalar>
inline constexpr Index outer_height = outer_rows* packet_size<Scalar>;

/// `depth` terms a_k b_k' of a sum: packet i of a_k is at a + k * a_step + i * a_packet,
/// coefficient j of b_k at b[k * b_step + j].
template <typename Scalar>
struct Terms {
  /// Terms of the sum.
  Index depth = 0;
  /// Packets.
  const Scalar* a = nullptr;
  /// From a term to the next.
  Index a_step = 0;
  /// From a packet of a term to the next.
  Index a_packet = 0;
  /// Coefficients.
  const Scalar* b = nullptr;
  /// From a term to the next.
  Index b_step = 0;
};

/// A column-major matrix; with a stride of 0, one whose columns are all the same.
template <typename Scalar>
struct Columns {
  /// Coefficient (0, 0).
  Scalar* data;
  /// From a column to the next.
  Index stride;

  /// Where a coefficient lies.
  Scalar* at(Index row, Index col) const { return data + col * stride + row; }
};

namespace detail {

/// sum += the terms, in registers.
template <int Rows, int Cols, typename Scalar>
LORAPLUS_ALWAYS_INLINE void add_terms(const Terms<Scalar>& terms,
                                      Packet<Scalar> (&sum)[Cols][Rows]) {
  const Scalar* a = terms.a;
  const Scalar* b = terms.b;
  const Index a_step = terms.a_step, a_packet = terms.a_packet, b_step = terms.b_step;
  for (Index k = terms.depth; k > 0; --k, a += a_step, b += b_step) {
    Packet<Scalar> column[Rows];
    LORAPLUS_UNROLL
    for (int i = 0; i < Rows; ++i) {
      column[i] = load(a + i * a_packet);
    }
    LORAPLUS_UNROLL
    for (int j = 0; j < Cols; ++j) {
      const Packet<Scalar> factor = broadcast(b[j]);
      LORAPLUS_UNROLL
      for (int i = 0; i < Rows; ++i) {
        sum[j][i] = multiply_add(column[i], factor, sum[j][i]);
      }
    }
  }
}

}  // namespace detail

/// C = C0 + the terms of `first` + those of `second`, added one after the other. C0 may be C.
template <int Rows, int Cols, typename Scalar>
void outer_tile(const Terms<Scalar>& first, const Terms<Scalar>& second, Columns<const Scalar> c0,
                Columns<Scalar> c) {
  constexpr Index size = packet_size<Scalar>;
  Packet<Scalar> sum[Cols][Rows];
  LORAPLUS_UNROLL
  for (int j = 0; j < Cols; ++j) {
    LORAPLUS_UNROLL
    for (int i = 0; i < Rows; ++i) {
      sum[j][i] = load(c0.at(i * size, j));
    }
  }
  detail::add_terms<Rows, Cols>(first, sum);
  detail::add_terms<Rows, Cols>(second, sum);
  LORAPLUS_UNROLL
  for (int j = 0; j < Cols; ++j) {
    LORAPLUS_UNROLL
    for (int i = 0; i < Rows; ++i) {
      store(c.at(i * size, j), sum[j][i]);
    }
  }
}

/// Packets: packet t of column i is at data + t * step + i * stride.
template <typename Scalar>
struct Strided {
  /// Packet 0 of column 0.
  Scalar* data;
  /// From a packet of a column to the next.
  Index step;
  /// From a column to the next.
  Index stride;
};

namespace detail {

/// sum += a' b over one packet of rows, in registers.
template <int Rows, int Cols, typename Scalar, typename Load>
LORAPLUS_ALWAYS_INLINE void add_dots(const Strided<const Scalar>& a, const Strided<const Scalar>& b,
                                     Load load_packet, Packet<Scalar> (&sum)[Cols][Rows]) {
  Packet<Scalar> column[Rows];
  LORAPLUS_UNROLL
  for (int i = 0; i < Rows; ++i) {
    column[i] = load_packet(a.data + i * a.stride);
  }
  LORAPLUS_UNROLL
  for (int j = 0; j < Cols; ++j) {
    Packet<Scalar> factor = load_packet(b.data + j * b.stride);
    keep_in_register<Scalar>(factor);
    LORAPLUS_UNROLL
    for (int i = 0; i < Rows; ++i) {
      sum[j][i] = multiply_add(column[i], factor, sum[j][i]);
    }
  }
}

}  // namespace detail

/// C = s a' b, or C += s a' b if `keep`: `packets` whole packets of rows, then `rest` rows, fewer
/// than a packet.
template <int Rows, int Cols, typename Scalar>
void dot_tile(Index packets, Index rest, Strided<const Scalar> a, Strided<const Scalar> b, Scalar s,
              bool keep, Columns<Scalar> c) {
  Packet<Scalar> sum[Cols][Rows];
  LORAPLUS_UNROLL
  for (int j = 0; j < Cols; ++j) {
    LORAPLUS_UNROLL
    for (int i = 0; i < Rows; ++i) {
      sum[j][i] = broadcast(Scalar(0));
    }
  }
  for (; packets > 0; --packets, a.data += a.step, b.data += b.step) {
    detail::add_dots<Rows, Cols>(
        a, b, [](const Scalar* from) { return load(from); }, sum);
  }
  if (rest > 0) {
    detail::add_dots<Rows, Cols>(
        a, b, [rest](const Scalar* from) { return load_part(from, rest); }, sum);
  }
  LORAPLUS_UNROLL
  for (int j = 0; j < Cols; ++j) {
    store_sums<Rows>(sum[j], s, keep, c.at(0, j));
  }
}

namespace detail {

template <typename Scalar, int Rows, int... J>
constexpr auto outer_tile_row(std::integer_sequence<int, J...> /*columns*/) {
  return std::array{&outer_tile<Rows, J + 1, Scalar>...};
}

template <typename Scalar, int... I>
constexpr auto outer_tile_table(std::integer_sequence<int, I...> /*rows*/) {
  return std::array{
      outer_tile_row<Scalar, I + 1>(std::make_integer_sequence<int, outer_cols>{})...};
}

template <typename Scalar, int Rows, int... J>
constexpr auto dot_tile_row(std::integer_sequence<int, J...> /*columns*/) {
  return std::array{&dot_tile<Rows, J + 1, Scalar>...};
}

template <typename Scalar, int... I>
constexpr auto dot_tile_table(std::integer_sequence<int, I...> /*rows*/) {
  return std::array{dot_tile_row<Scalar, I + 1>(std::make_integer_sequence<int, dot_cols>{})...};
}

}  // namespace detail

/// The outer tile of so many packets and columns.
template <typename Scalar>
auto find_outer_tile(Index packets, Index cols) {
  static constexpr auto table =
      detail::outer_tile_table<Scalar>(std::make_integer_sequence<int, outer_rows>{});
  return table[static_cast<std::size_t>(packets - 1)][static_cast<std::size_t>(cols - 1)];
}

/// The dot tile of so many rows and columns.
template <typename Scalar>
auto find_dot_tile(Index rows, Index cols) {
  static constexpr auto table =
      detail::dot_tile_table<Scalar>(std::make_integer_sequence<int, dot_rows>{});
  return table[static_cast<std::size_t>(rows - 1)][static_cast<std::size_t>(cols - 1)];
}

/// What of an outer tile is there.
struct TileShape {
  Index packets;  ///< 1 .. outer_rows
  Index rows;     ///< those of the packets, or fewer at the lower edge of C
  Index cols;     ///< 1 .. outer_cols
};

/// The outer tile of this shape. At the edge it works in a buffer of whole packets, and nothing
/// past the edge of C0 and C is touched.
template <typename Scalar>
void add_tile(const TileShape& shape, const Terms<Scalar>& first, const Terms<Scalar>& second,
              Columns<const Scalar> c0, Columns<Scalar> c) {
  const auto tile = find_outer_tile<Scalar>(shape.packets, shape.cols);
  const Index height = shape.packets * packet_size<Scalar>;
  if (shape.rows == height) return tile(first, second, c0, c);
  Scalar whole[outer_height<Scalar> * outer_cols];
  for (Index j = 0; j < shape.cols; ++j) {
    Scalar* column = whole + j * height;
    std::fill(std::copy_n(c0.at(0, j), shape.rows, column), column + height, Scalar(0));
  }
  tile(first, second, {whole, height}, {whole, height});
  for (Index j = 0; j < shape.cols; ++j) {
    std::copy_n(whole + j * height, shape.rows, c.at(0, j));
  }
}

}  // namespace loraplus::kernels
