// SPDX-License-Identifier: MIT
//
// y = s M' x by dot products down the columns of M: for a weight that lies column-major or packed,
// and for h = s A x and z = s B' dy, whose factors are A' and B.
#pragma once

#include <loraplus/kernels/packed_matrix.hpp>
#include <loraplus/kernels/parallel.hpp>
#include <loraplus/kernels/split.hpp>

namespace loraplus::inline v0_1::kernels {

/// M, rows x cols, as dot products read it: packet t of column i is at data + t * step + i *
/// stride.
template <typename Scalar>
struct DotFactor {
  /// Where they lie.
  Strided<const Scalar> packets;
  /// Of M.
  Index rows;
  /// Of M.
  Index cols;

  /// A column-major matrix.
  explicit DotFactor(ConstMatrixView<Scalar> matrix)
      : packets{matrix.data(), packet_size<Scalar>, matrix.outerStride()},
        rows(matrix.rows()),
        cols(matrix.cols()) {}

  /// A packed matrix, whose strips are the packets of rows.
  explicit DotFactor(const PackedMatrix<Scalar>& matrix)
      : packets{matrix.strip(0), matrix.stride(), packet_size<Scalar>},
        rows(matrix.rows()),
        cols(matrix.cols()) {}
};

namespace detail {

/// Packets of one dot product at a time: what a tile reads of M and x stays in the first caches.
/// A constant, since it is where sums are cut.
inline constexpr Index dot_packets = 64;

/// Samples whose x is copied at a time: 128 KiB on the stack with packets of 64 bytes.
inline constexpr Index dot_samples = 32;

/// Columns of M from which on copying x, packet by packet, pays: each copy is read so often.
inline constexpr Index dot_copy_cols = Index{8} * dot_rows;

/// One pass: packets [packet, packet + packets) of the rows, and samples.
template <typename Scalar>
class DotPass {
 public:
  DotPass(const DotFactor<Scalar>& m, Scalar s, Columns<const Scalar> x, Columns<Scalar> y,
          Scalar* copy)
      : m_(m), s_(s), x_(x), y_(y), copy_(copy) {}

  void select(Index first_row, Index first_sample, Index count, bool keep) {
    row_ = first_row;
    rows_ = std::min(m_.rows - row_, dot_packets * packet_size<Scalar>);
    sample_ = first_sample;
    samples_ = Split(count, dot_cols);
    keep_ = keep;
  }

  Index sample_tiles() const { return samples_.parts; }
  Index tiles() const { return Split(m_.cols, dot_rows).parts * samples_.parts; }

  /// Copies the packets of x of one tile of samples, the last one filled up with zeros.
  void copy_tile(Index part) const {
    constexpr Index size = packet_size<Scalar>;
    const Index begin = samples_.begin(part), width = samples_.size(part);
    Scalar* to = copy_ + begin * dot_packets * size;
    for (Index row = 0; row < rows_; row += size) {
      for (Index j = 0; j < width; ++j, to += size) {
        const Scalar* from = x_.at(row_ + row, sample_ + begin + j);
        store(to, rows_ - row >= size ? load(from) : load_part(from, rows_ - row));
      }
    }
  }

  void tile(Index index) const {
    constexpr Index size = packet_size<Scalar>;
    const Split columns(m_.cols, dot_rows);
    const Index part = index % samples_.parts;
    const Index col = columns.begin(index / samples_.parts);
    const Index height = columns.size(index / samples_.parts);
    const Index begin = samples_.begin(part), width = samples_.size(part);
    const Strided<const Scalar> a{
        m_.packets.data + row_ / size * m_.packets.step + col * m_.packets.stride, m_.packets.step,
        m_.packets.stride};
    const Strided<const Scalar> b =
        copy_ == nullptr
            ? Strided<const Scalar>{x_.at(row_, sample_ + begin), size, x_.stride}
            : Strided<const Scalar>{copy_ + begin * dot_packets * size, width * size, size};
    find_dot_tile<Scalar>(height, width)(rows_ / size, rows_ % size, a, b, s_, keep_,
                                         {y_.at(col, sample_ + begin), y_.stride});
  }

 private:
  const DotFactor<Scalar>& m_;
  Scalar s_;
  Columns<const Scalar> x_;
  Columns<Scalar> y_;
  Scalar* copy_;  // null: x is read in place
  Index row_ = 0;
  Index rows_ = 0;
  Index sample_ = 0;
  Split samples_{0, 1};
  bool keep_ = false;
};

}  // namespace detail

/// y = b + s M' x.
/// @param m rows x cols, @param x rows x n, @param y cols x n, not the memory of x
/// @param b cols coefficients, or empty for none
/// @throws ShapeError
template <typename Scalar>
void multiply_transposed(const DotFactor<Scalar>& m, Scalar s, ConstMatrixView<Scalar> x,
                         MatrixView<Scalar> y, ConstVectorView<Scalar> b = {nullptr, 0}) {
  require_shape("kernels::multiply_transposed", "x", x, m.rows, x.cols());
  require_shape("kernels::multiply_transposed", "y", y, m.cols, x.cols());
  require_distinct("kernels::multiply_transposed", x, y);
  constexpr Index rows = detail::dot_packets * packet_size<Scalar>;
  const bool has_bias = b.size() != 0;
  if (has_bias) {
    require_shape("kernels::multiply_transposed", "b", b, m.cols, 1);
    y.colwise() = b;
  } else if (m.rows == 0) {
    y.setZero();
  }
  const bool is_copied = m.cols >= detail::dot_copy_cols;
  alignas(64) Scalar copy[rows * detail::dot_samples];
  const Team team(choose_threads(m.rows * m.cols * x.cols()));
  team.start([&] {
    detail::DotPass<Scalar> pass(m, s, {x.data(), x.outerStride()}, {y.data(), y.outerStride()},
                                 is_copied ? copy : nullptr);
    const Split passes(x.cols(), is_copied ? detail::dot_samples : std::max<Index>(1, x.cols()));
    for (Index row = 0; row < m.rows; row += rows) {
      for (Index i = 0; i < passes.parts; ++i) {
        pass.select(row, passes.begin(i), passes.size(i), has_bias || row > 0);
        if (is_copied) {
          team.share(pass.sample_tiles(), [&](Index part) { pass.copy_tile(part); });
        }
        team.share(pass.tiles(), [&](Index index) { pass.tile(index); });
      }
    }
  });
}

}  // namespace loraplus::kernels
