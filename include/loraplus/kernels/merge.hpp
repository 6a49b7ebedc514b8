// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/kernels/panel.hpp>
#include <loraplus/kernels/parallel.hpp>
#include <loraplus/kernels/split.hpp>

namespace loraplus::inline v0_1::kernels {

namespace detail {

/// Strip `strip` of M + s F G', written over that of `to`.
template <typename Scalar>
void merge_strip(const PackedMatrix<Scalar>& m, Scalar s, ConstMatrixView<Scalar> f,
                 ConstMatrixView<Scalar> g, PackedMatrix<Scalar>& to, Index strip) {
  constexpr Index size = packet_size<Scalar>;
  PanelBuffer<Scalar> buffer;
  const ColumnMajorFactor<Scalar> factor(f, true);
  Columns<const Scalar> c0{m.strip(strip), size};
  const Columns<Scalar> c{to.strip(strip), size};
  const Split tiles(m.cols(), outer_cols);
  for (Index first = 0; first < f.cols(); first += copied_columns) {
    const Index count = std::min(copied_columns, f.cols() - first);
    factor.panel({strip, 1, first, count}, buffer.data());  // size x count
    std::transform(buffer.data(), buffer.data() + count * size, buffer.data(),
                   [s](Scalar value) { return s * value; });
    for (Index tile = 0; tile < tiles.parts; ++tile) {
      const Index col = tiles.begin(tile);
      const Terms<Scalar> terms{count, buffer.data(),           size,
                                size,  &g.coeffRef(col, first), g.outerStride()};
      add_tile<Scalar>({1, size, tiles.size(tile)}, terms, {}, {c0.at(0, col), size},
                       {c.at(0, col), size});
    }
    c0 = {c.data, size};
  }
}

}  // namespace detail

/// to = M + s F G', all in packed form.
/// @param m, to rows x cols, @param f rows x r, @param g cols x r
/// @throws ShapeError
template <typename Scalar>
void merge(const PackedMatrix<Scalar>& m, Scalar s, ConstMatrixView<Scalar> f,
           ConstMatrixView<Scalar> g, PackedMatrix<Scalar>& to) {
  require_shape("kernels::merge", "f", f, m.rows(), f.cols());
  require_shape("kernels::merge", "g", g, m.cols(), f.cols());
  require_shape("kernels::merge", "to", to, m.rows(), m.cols());
  if (f.cols() == 0) {
    to = m;
    return;
  }
  const Team team(choose_threads(m.rows() * m.cols() * f.cols()));
  team.start([&] {
    team.share(m.strips(),
               [&](Index strip) { detail::merge_strip<Scalar>(m, s, f, g, to, strip); });
  });
}

}  // namespace loraplus::kernels
