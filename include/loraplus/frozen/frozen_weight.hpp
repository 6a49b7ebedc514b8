// SPDX-License-Identifier: MIT
//
// What a frozen weight is: a concept, not a class. Everything that adapts a weight is a template
// over it, so a sparse, quantised or memory-mapped weight of your own works as ours do:
//
//   struct SparseWeight {                              // a frozen weight of a user
//     using Scalar = float;
//     Eigen::SparseMatrix<float> w;                    // out x in
//     Eigen::Index in_features() const { return w.cols(); }
//     Eigen::Index out_features() const { return w.rows(); }
//     void forward(loraplus::ConstMatrixView<float> x, loraplus::MatrixView<float> y) const {
//       y.noalias() = w * x;                           // y = W x (+ b)
//     }
//     void backward(loraplus::ConstMatrixView<float> dy, loraplus::MatrixView<float> dx) const {
//       dx.noalias() = w.transpose() * dy;             // dx = W' dy
//     }
//   };
#pragma once

#include <concepts>
#include <loraplus/core/matrix.hpp>
#include <span>

namespace loraplus::inline v0_1 {

/// A linear map that training never writes: in_features() and out_features(),
/// forward(x, y): y = W x (+ b), and backward(dy, dx): dx = W' dy, both const and overwriting
/// their second argument. x, dx: in x n; y, dy: out x n.
template <typename W>
concept FrozenWeight = RealScalar<typename W::Scalar> &&
    requires(const W& weight, ConstMatrixView<typename W::Scalar> read,
             MatrixView<typename W::Scalar> written) {
  { weight.in_features() } -> std::convertible_to<Index>;
  { weight.out_features() } -> std::convertible_to<Index>;
  weight.forward(read, written);
  weight.backward(read, written);
};

/// A frozen weight that can also be read as a matrix, which merging and training in full need:
/// copy_to(w) writes the out x in coefficients, bias() gives a ConstVectorView of out, or empty.
template <typename W>
concept DenseWeight = FrozenWeight<W> &&
    requires(const W& weight, MatrixView<typename W::Scalar> written) {
  weight.copy_to(written);
  { weight.bias() } -> std::convertible_to<ConstVectorView<typename W::Scalar>>;
};

/// A frozen weight that adds a low-rank term while it computes, which spares a pass over the
/// output: forward(x, y, f, h): y = W x (+ b) + F h, and backward(dy, dx, f, z): dx = W' dy + F z.
template <typename W>
concept AddsLowRank = FrozenWeight<W> &&
    requires(const W& weight, ConstMatrixView<typename W::Scalar> read,
             MatrixView<typename W::Scalar> written) {
  weight.forward(read, written, read, read);
  weight.backward(read, written, read, read);
};

/// A frozen weight with copies that follow an adapter, for a training step that merges the adapter
/// once and then computes with W + s B A: make_merged() gives a copy of W with the two products of
/// a frozen weight, merge(s, b, at, copy) writes it (B is out x r, A' is in x r) and allocates
/// nothing, merge_cost() tells the multiply-adds of that, in units of r x in x out.
template <typename W>
concept MergesLowRank = FrozenWeight<W> &&
    requires(const W& weight, typename W::Merged& merged, typename W::Scalar s,
             ConstMatrixView<typename W::Scalar> read, MatrixView<typename W::Scalar> written) {
  { weight.make_merged() } -> std::same_as<typename W::Merged>;
  { weight.merge_cost() } -> std::convertible_to<Index>;
  weight.merge(s, read, read, merged);
  merged.forward(read, written);
  merged.backward(read, written);
};

/// A frozen weight that is an embedding of in_features() tokens in out_features() dimensions:
/// lookup(tokens, y) writes the columns of W of these tokens, out x tokens.
template <typename W>
concept LookupWeight = FrozenWeight<W> && requires(const W& weight, std::span<const Index> tokens,
                                                   MatrixView<typename W::Scalar> written) {
  weight.lookup(tokens, written);
};

/// W as a matrix of its own, out x in.
template <DenseWeight W>
Matrix<typename W::Scalar> to_matrix(const W& weight) {
  Matrix<typename W::Scalar> w(weight.out_features(), weight.in_features());
  weight.copy_to(w);
  return w;
}

}  // namespace loraplus
