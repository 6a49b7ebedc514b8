// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/error.hpp>
#include <loraplus/frozen/frozen_weight.hpp>
#include <loraplus/kernels/affine.hpp>
#include <type_traits>

namespace loraplus::inline v0_1 {

namespace detail {

template <typename T>
inline constexpr bool is_map = false;
template <typename Plain, int Options, typename Stride>
inline constexpr bool is_map<Eigen::Map<Plain, Options, Stride>> = true;

}  // namespace detail

/// An argument that can be viewed after the call: a named Eigen object that lies in memory, or a
/// Map, which owns nothing. A temporary matrix cannot; it would be gone before the first use.
template <typename Argument>
concept OutlivesTheCall = (std::is_lvalue_reference_v<Argument> ||
                           detail::is_map<std::remove_cvref_t<Argument>>)&&  //
    detail::EigenMatrix<std::remove_cvref_t<Argument>>&& static_cast<bool>(
        std::remove_cvref_t<Argument>::Flags& Eigen::DirectAccessBit);

/// A frozen weight that views the user's own matrix: row- or column-major, a Map, a block; never
/// copied, never written. The matrix and the bias must live as long as the view and its copies.
/// @tparam Order Eigen::ColMajor or Eigen::RowMajor, the storage order of the matrix
template <RealScalar Scalar_, int Order = Eigen::ColMajor>
class WeightView {
 public:
  using Scalar = Scalar_;

  /// y = W x. @param w out x in
  template <OutlivesTheCall W>
  explicit WeightView(W&& w) : WeightView(map(w), nullptr) {}

  /// y = W x + b. @param w out x in, @param b out coefficients
  /// @throws ShapeError if b does not have out coefficients
  template <OutlivesTheCall W, OutlivesTheCall B>
  WeightView(W&& w, B&& b) : WeightView(map(w), bias_data(b, w.rows())) {}

  Index in_features() const { return cols_; }
  Index out_features() const { return rows_; }

  /// y = W x + b. @param x in x n, @param y out x n
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y) const {
    kernels::affine<Scalar>(weight(), bias(), x, y);
  }

  /// dx = W' dy. @param dy out x n, @param dx in x n
  void backward(ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx) const {
    kernels::affine_backward<Scalar>(weight(), dy, dx);
  }

  /// y = the columns of W of these tokens, with the bias. @param y out x tokens
  void lookup(std::span<const Index> tokens, MatrixView<Scalar> y) const {
    kernels::lookup<Scalar>(weight(), bias(), tokens, y);
  }

  /// Whether the two view the same memory.
  bool is_same_object(const WeightView& other) const {
    return w_ == other.w_ && rows_ == other.rows_ && cols_ == other.cols_ &&
           stride_ == other.stride_ && b_ == other.b_;
  }

  /// w = W. @param w out x in
  /// @throws ShapeError
  void copy_to(MatrixView<Scalar> w) const {
    require_shape("WeightView::copy_to", "w", w, out_features(), in_features());
    w = weight();
  }
  ConstVectorView<Scalar> bias() const { return {b_, b_ == nullptr ? 0 : rows_}; }

 private:
  using Map =
      detail::StridedMap<const Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Order>>;

  WeightView(const Map& w, const Scalar* b)
      : w_(w.data()), rows_(w.rows()), cols_(w.cols()), stride_(w.outerStride()), b_(b) {}

  template <typename W>
  static Map map(const W& w) {
    static_assert(std::is_same_v<typename W::Scalar, Scalar>,
                  "loraplus: the weight and its view have different scalar types");
    static_assert(W::InnerStrideAtCompileTime == 1,
                  "loraplus: the columns (row-major: the rows) of a weight must be contiguous");
    static_assert(W::IsRowMajor == (Order == Eigen::RowMajor),
                  "loraplus: the storage order of the view is not that of the matrix");
    return Map(w.data(), w.rows(), w.cols(), Eigen::OuterStride<>(w.outerStride()));
  }

  template <typename B>
  static const Scalar* bias_data(const B& b, Index out) {
    static_assert(std::is_same_v<typename B::Scalar, Scalar>,
                  "loraplus: the weight and the bias have different scalar types");
    static_assert(B::InnerStrideAtCompileTime == 1 && B::IsVectorAtCompileTime,
                  "loraplus: a bias is a contiguous vector");
    require_shape("WeightView", "b", ConstVectorView<Scalar>(b.data(), b.size()), out, 1);
    return b.data();
  }

  Map weight() const { return Map(w_, rows_, cols_, Eigen::OuterStride<>(stride_)); }

  const Scalar* w_;  // out x in
  Index rows_;
  Index cols_;
  Index stride_;     // from a column (row-major: a row) to the next
  const Scalar* b_;  // out, or null
};

template <OutlivesTheCall W>
WeightView(W&&)
    -> WeightView<typename std::remove_cvref_t<W>::Scalar,
                  std::remove_cvref_t<W>::IsRowMajor ? Eigen::RowMajor : Eigen::ColMajor>;
template <OutlivesTheCall W, OutlivesTheCall B>
WeightView(W&&, B&&)
    -> WeightView<typename std::remove_cvref_t<W>::Scalar,
                  std::remove_cvref_t<W>::IsRowMajor ? Eigen::RowMajor : Eigen::ColMajor>;

}  // namespace loraplus
