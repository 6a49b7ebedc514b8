// SPDX-License-Identifier: MIT
//
// The six thin products of a low-rank adapter; reference.hpp has them as plain expressions.
//
//   A  r x in, row-major     x   in x n      h   r x n    s A x, the scaling included
//   B  out x r, column-major dy  out x n     z   r x n    s B' dy, the scaling included
//
// In memory A' and B are the same thing, a tall matrix F of r contiguous columns, so that there are
// three products, each of which serves both:
//
//   project      h = s A x      z = s B' dy      s F' x
//   expand       y += B h       dx += A' z       F h        (a frozen weight may do it by itself)
//   accumulate   dB += dy h'    dA += z x'       x h'       (gradient_product.hpp)
//
// The scaling is applied once, on the r-sized factor: with h and z scaled, the other products need
// none, and a step counts 3 n r (in + out) multiply-adds.
#pragma once

#include <loraplus/kernels/gradient_product.hpp>
#include <loraplus/kernels/product.hpp>
#include <loraplus/kernels/transposed_product.hpp>

namespace loraplus::inline v0_1::kernels {

/// h = s F' x. @param f rows x r, @param x rows x n, @param h r x n
/// @throws ShapeError
template <typename Scalar>
void project(Scalar s, ConstMatrixView<Scalar> f, ConstMatrixView<Scalar> x, MatrixView<Scalar> h) {
  multiply_transposed<Scalar>(DotFactor<Scalar>(f), s, x, h);
}

namespace detail {

/// Column tile `part` of y += F h: down the columns, F read in place.
template <typename Scalar>
void expand_columns(const ColumnMajorFactor<Scalar>& f, Columns<const Scalar> h, Columns<Scalar> y,
                    Index n, Index part) {
  constexpr Index size = packet_size<Scalar>;
  PanelBuffer<Scalar> edge;
  Scalar copy[copied_columns * outer_cols];
  const Split tiles(n, outer_cols), rows(packets_for<Scalar>(f.rows()), outer_rows);
  const Index sample = tiles.begin(part), width = tiles.size(part);
  for (Index first = 0; first < f.cols(); first += copied_columns) {
    const Index count = std::min(copied_columns, f.cols() - first);
    copy_inputs<Scalar>({h.at(first, sample), h.stride}, count, width, copy);
    for (Index tile = 0; tile < rows.parts; ++tile) {
      const Index packet = rows.begin(tile), packets = rows.size(tile), row = packet * size;
      const Panel<Scalar> panel = f.panel({packet, packets, first, count}, edge.data());
      const Columns<Scalar> c{y.at(row, sample), y.stride};
      add_tile<Scalar>({packets, std::min(packets * size, f.rows() - row), width},
                       {count, panel.data, panel.step, panel.packet, copy, width}, {},
                       {c.data, c.stride}, c);
    }
  }
}

}  // namespace detail

/// y += F h. @param f rows x r, @param h r x n, @param y rows x n
/// @throws ShapeError
template <typename Scalar>
void expand(ConstMatrixView<Scalar> f, ConstMatrixView<Scalar> h, MatrixView<Scalar> y) {
  require_shape("kernels::expand", "h", h, f.cols(), y.cols());
  require_shape("kernels::expand", "y", y, f.rows(), h.cols());
  const ColumnMajorFactor<Scalar> factor(f, false);
  const Team team(choose_threads(f.size() * h.cols()));
  team.start([&] {
    team.share(Split(h.cols(), outer_cols).parts, [&](Index part) {
      detail::expand_columns<Scalar>(factor, {h.data(), h.outerStride()},
                                     {y.data(), y.outerStride()}, h.cols(), part);
    });
  });
}

/// z = s F' dy and dF += dy h': dy, rows x n, is read from memory once, in groups of samples that
/// stay in the second cache between the two products.
/// @throws ShapeError
template <typename Scalar>
void project_and_accumulate(Scalar s, ConstMatrixView<Scalar> f, ConstMatrixView<Scalar> dy,
                            ConstMatrixView<Scalar> h, MatrixView<Scalar> z,
                            MatrixView<Scalar> grad_f) {
  require_shape("kernels::project_and_accumulate", "h", h, f.cols(), dy.cols());
  require_shape("kernels::project_and_accumulate", "z", z, f.cols(), dy.cols());
  require_shape("kernels::project_and_accumulate", "grad_f", grad_f, dy.rows(), f.cols());
  constexpr Index second_cache = (Index{512} << 10) / static_cast<Index>(sizeof(Scalar));
  const Index group =
      std::max<Index>(dot_cols * outer_cols, second_cache / std::max<Index>(1, dy.rows()));
  for (Index sample = 0; sample < dy.cols(); sample += group) {
    const Index count = std::min(group, dy.cols() - sample);
    const ConstMatrixView<Scalar> part = dy.middleCols(sample, count);
    project<Scalar>(s, f, part, z.middleCols(sample, count));
    accumulate<Scalar>(part, h.middleCols(sample, count), grad_f);
  }
}

}  // namespace loraplus::kernels
