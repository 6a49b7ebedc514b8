// SPDX-License-Identifier: MIT
//
// y = b + M x + F h, the product behind everything that is not thin: M is a weight or its
// transpose in any layout (panel.hpp), F h an optional low-rank term that is added while the sums
// are in registers. The layout of M changes no bit of y.
#pragma once

#include <loraplus/kernels/panel.hpp>
#include <loraplus/kernels/parallel.hpp>
#include <loraplus/kernels/split.hpp>

namespace loraplus::inline v0_1::kernels {

/// F h, or nothing.
template <typename Scalar>
struct LowRankTerm {
  ConstMatrixView<Scalar> f = {};  ///< out x r
  ConstMatrixView<Scalar> h = {};  ///< r x n

  /// 0 for nothing.
  Index rank() const { return f.cols(); }
};

/// The largest rank of a term that the product adds itself.
inline constexpr Index fused_rank = 32;

namespace detail {

/// Scalars of the copy of x that one pass works on: 128 KiB, which fits the second cache beside a
/// panel of M and may lie on the stack.
template <typename Scalar>
inline constexpr Index copied_inputs = (Index{128} << 10) / static_cast<Index>(sizeof(Scalar));

/// Samples of one pass at most.
inline constexpr Index pass_samples = 128;

/// How the product is cut; no cut changes a result. A pass takes `cols` columns of M and `samples`
/// samples over `packets` packets of rows. x is copied for each pass, a tile of its columns for the
/// first cache; where there are several passes over the samples, the rows are few enough to stay in
/// the last cache until the next one reads them again.
template <typename Scalar>
struct Blocks {
  Index cols;
  Index samples;
  Index packets;

  Blocks(Index rows, Index depth, Index n, Index largest_panel) {
    constexpr Index scalar_bytes = sizeof(Scalar);
    const Index first_cache = Eigen::l1CacheSize() / (outer_cols * scalar_bytes);
    const Index few = std::min(Split(n, outer_cols).parts * outer_cols, pass_samples);
    const Index most = std::min({largest_panel, copied_inputs<Scalar> / outer_cols,
                                 std::max(first_cache, copied_inputs<Scalar> / few)});
    cols = Split(std::max<Index>(depth, 1), std::max<Index>(most, 1)).largest();
    samples = std::min(pass_samples, copied_inputs<Scalar> / cols / outer_cols * outer_cols);
    // The last cache is shared by cores, and what a virtual machine says of it may be too much.
    const Index last_cache =
        std::clamp<Index>(Eigen::l3CacheSize() / 8, Index{1} << 20, Index{4} << 20);
    const Index kept = last_cache / (cols * packet_size<Scalar> * scalar_bytes);
    packets = n <= samples ? packets_for<Scalar>(rows) : std::max<Index>(outer_rows, kept);
  }
};

/// Copies rows of x, those of one column tile one after the other: to[k * cols + j] = x(k, j).
template <typename Scalar>
void copy_inputs(Columns<const Scalar> x, Index rows, Index cols, Scalar* to) {
  if (cols == outer_cols && square_size<Scalar, outer_cols> == outer_cols) {
    constexpr Index side = square_size<Scalar, outer_cols>;
    Index k = 0;
    for (; k + side <= rows; k += side) {
      transpose<outer_cols>(x.at(k, 0), x.stride, to + k * cols, cols);
    }
    for (; k < rows; ++k) {
      for (Index j = 0; j < cols; ++j) {
        to[k * cols + j] = *x.at(k, j);
      }
    }
    return;
  }
  for (Index j = 0; j < cols; ++j) {
    for (Index k = 0; k < rows; ++k) {
      to[k * cols + j] = *x.at(k, j);
    }
  }
}

template <typename Scalar>
struct ProductBuffers {
  alignas(64) Scalar inputs[copied_inputs<Scalar>];
  alignas(64) Scalar h[fused_rank * pass_samples];
};

/// Not constexpr, for scalars that are no literals.
template <typename Scalar>
inline const Scalar no_bias[outer_height<Scalar>] = {};

/// One pass over ranges of rows, of columns and of samples.
template <typename Scalar, typename Factor>
class Pass {
 public:
  Pass(const Factor& m, ConstVectorView<Scalar> b, const LowRankTerm<Scalar>& term,
       ProductBuffers<Scalar>& buffers)
      : m_(m), bias_(b.size() == 0 ? nullptr : b.data()), term_(term), buffers_(buffers) {}

  Index col = 0, cols = 0;               // of M
  Index packet = 0, packets = 0;         // of the rows of M
  Index sample = 0, samples = 0;         // of x
  bool is_first = true, is_last = true;  // over the columns of M

  /// Copies the inputs of column tile `part` of the samples.
  void copy_tile(Columns<const Scalar> x, Index part) const {
    const Split tiles(samples, outer_cols);
    const Index begin = tiles.begin(part), count = tiles.size(part);
    copy_inputs<Scalar>({x.at(col, sample + begin), x.stride}, cols, count,
                        buffers_.inputs + begin * cols);
    if (rank() > 0) {
      const Columns<const Scalar> h{term_.h.data(), term_.h.outerStride()};
      copy_inputs<Scalar>({h.at(0, sample + begin), h.stride}, rank(), count,
                          buffers_.h + begin * rank());
    }
  }

  /// Computes row tile `part` of the rows, all samples.
  void row_tile(Columns<Scalar> y, Index part) const {
    constexpr Index size = packet_size<Scalar>;
    PanelBuffer<Scalar> buffer;
    std::array<Scalar, static_cast<std::size_t>(outer_height<Scalar> * fused_rank)> factor_buffer;
    const Split split(packets, outer_rows);
    const Index first = packet + split.begin(part), count = split.size(part);
    const Panel<Scalar> panel = m_.panel({first, count, col, cols}, buffer.data());
    Terms<Scalar> main{cols, panel.data, panel.step, panel.packet};
    Terms<Scalar> low_rank{rank()};
    if (rank() > 0) {
      const ColumnMajorFactor<Scalar> factor(term_.f, true);
      const Panel<Scalar> copy = factor.panel({first, count, 0, rank()}, factor_buffer.data());
      low_rank.a = copy.data;
      low_rank.a_step = copy.step;
      low_rank.a_packet = copy.packet;
    }
    const Index row = first * size, rows = std::min(count * size, m_.rows() - row);
    const Split tiles(samples, outer_cols);
    for (Index tile = 0; tile < tiles.parts; ++tile) {
      const Index begin = tiles.begin(tile), width = tiles.size(tile);
      main.b = buffers_.inputs + begin * cols;
      main.b_step = width;
      low_rank.b = buffers_.h + begin * rank();
      low_rank.b_step = width;
      const Columns<Scalar> c{y.at(row, sample + begin), y.stride};
      add_tile<Scalar>({count, rows, width}, main, low_rank, initial(c, row), c);
    }
  }

 private:
  Index rank() const { return is_last ? term_.rank() : 0; }

  Columns<const Scalar> initial(Columns<Scalar> c, Index row) const {
    if (!is_first) return {c.data, c.stride};
    return {bias_ == nullptr ? no_bias<Scalar> : bias_ + row, 0};
  }

  const Factor& m_;
  const Scalar* bias_;  // rows of M, or null for none
  const LowRankTerm<Scalar>& term_;
  ProductBuffers<Scalar>& buffers_;
};

template <typename Scalar>
void require_product_shapes(Index out, Index in, ConstMatrixView<Scalar> x,
                            ConstMatrixView<Scalar> y, ConstVectorView<Scalar> b,
                            const LowRankTerm<Scalar>& term) {
  require_shape("kernels::multiply", "x", x, in, x.cols());
  require_shape("kernels::multiply", "y", y, out, x.cols());
  if (b.size() != 0) require_shape("kernels::multiply", "b", b, out, 1);
  if (term.rank() == 0) return;
  require_argument(term.rank() <= fused_rank, "kernels::multiply",
                   "the rank of a term must be at most fused_rank",
                   static_cast<double>(term.rank()));
  require_distinct("kernels::multiply", x, y);
  require_shape("kernels::multiply", "f", term.f, out, term.rank());
  require_shape("kernels::multiply", "h", term.h, term.rank(), x.cols());
}

}  // namespace detail

/// y = b + M x + F h.
/// @param m out x in, @param x in x n, @param y out x n, which is neither x nor h
/// @param b out coefficients, or empty for none, @param term of a rank of at most fused_rank
/// @throws ShapeError
template <typename Scalar, typename Factor>
void multiply(const Factor& m, ConstMatrixView<Scalar> x, MatrixView<Scalar> y,
              ConstVectorView<Scalar> b = {nullptr, 0}, const LowRankTerm<Scalar>& term = {}) {
  detail::require_product_shapes<Scalar>(m.rows(), m.cols(), x, y, b, term);
  const Index n = x.cols(), depth = m.cols(), packets = packets_for<Scalar>(m.rows());
  if (n == 0) return;
  const detail::Blocks<Scalar> blocks(m.rows(), depth, n, m.largest_panel());
  const Team team(choose_threads(m.rows() * depth * n));
  const Columns<const Scalar> from{x.data(), x.outerStride()};
  const Columns<Scalar> to{y.data(), y.outerStride()};
  detail::ProductBuffers<Scalar> buffers;
  team.start([&] {
    detail::Pass<Scalar, Factor> pass(m, b, term, buffers);
    for (Index col = 0; col == 0 || col < depth; col += blocks.cols) {
      pass.col = col;
      pass.cols = std::min(blocks.cols, depth - col);
      pass.is_first = col == 0;
      pass.is_last = col + blocks.cols >= depth;
      for (Index packet = 0; packet < packets; packet += blocks.packets) {
        pass.packet = packet;
        pass.packets = std::min(blocks.packets, packets - packet);
        for (Index sample = 0; sample < n; sample += blocks.samples) {
          pass.sample = sample;
          pass.samples = std::min(blocks.samples, n - sample);
          team.share(Split(pass.samples, outer_cols).parts,
                     [&](Index part) { pass.copy_tile(from, part); });
          team.share(Split(pass.packets, outer_rows).parts,
                     [&](Index part) { pass.row_tile(to, part); });
        }
      }
    }
  });
}

}  // namespace loraplus::kernels
