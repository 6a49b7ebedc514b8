// SPDX-License-Identifier: MIT
//
// G += X H', summed over the samples: the gradients of A, of B, and of a weight trained in full.
#pragma once

#include <loraplus/kernels/panel.hpp>
#include <loraplus/kernels/parallel.hpp>
#include <loraplus/kernels/split.hpp>

namespace loraplus::inline v0_1::kernels {

namespace detail {

/// Columns of G from which on copying a panel of X pays: the copy is read so often.
inline constexpr Index gradient_copy_cols = Index{4} * outer_cols;

/// Row tile `part` of G += X H'.
template <typename Scalar>
void gradient_rows(const ColumnMajorFactor<Scalar>& x, Columns<const Scalar> h, Columns<Scalar> g,
                   Index cols, Index part) {
  constexpr Index size = packet_size<Scalar>;
  PanelBuffer<Scalar> buffer;
  const Split rows(packets_for<Scalar>(x.rows()), outer_rows), tiles(cols, outer_cols);
  const Index packet = rows.begin(part), packets = rows.size(part), row = packet * size;
  const Index height = std::min(packets * size, x.rows() - row);
  const Index depth = copied_columns;
  for (Index sample = 0; sample < x.cols(); sample += depth) {
    const Index count = std::min(depth, x.cols() - sample);
    const Panel<Scalar> panel = x.panel({packet, packets, sample, count}, buffer.data());
    for (Index tile = 0; tile < tiles.parts; ++tile) {
      const Terms<Scalar> terms{
          count, panel.data, panel.step, panel.packet, h.at(tiles.begin(tile), sample), h.stride};
      const Columns<Scalar> c{g.at(row, tiles.begin(tile)), g.stride};
      add_tile<Scalar>({packets, height, tiles.size(tile)}, terms, {}, {c.data, c.stride}, c);
    }
  }
}

}  // namespace detail

/// G += X H'. @param x rows x n, @param h cols x n, @param g rows x cols
/// @throws ShapeError
template <typename Scalar>
void accumulate(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> h, MatrixView<Scalar> g) {
  const Index n = x.cols();
  require_shape("kernels::accumulate", "h", h, h.rows(), n);
  require_shape("kernels::accumulate", "g", g, x.rows(), h.rows());
  if (n == 0) return;
  const ColumnMajorFactor<Scalar> factor(x, g.cols() >= detail::gradient_copy_cols);
  const Team team(choose_threads(g.rows() * g.cols() * n));
  team.start([&] {
    team.share(Split(packets_for<Scalar>(g.rows()), outer_rows).parts, [&](Index part) {
      detail::gradient_rows<Scalar>(factor, {h.data(), h.outerStride()},
                                    {g.data(), g.outerStride()}, g.cols(), part);
    });
  });
}

}  // namespace loraplus::kernels
