// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/error.hpp>
#include <loraplus/frozen/frozen_weight.hpp>
#include <loraplus/kernels/low_rank.hpp>
#include <loraplus/kernels/merge.hpp>
#include <memory>
#include <optional>
#include <utility>

namespace loraplus::inline v0_1 {

/// How many times a PackedWeight holds its matrix.
enum class Copies {
  one,  ///< one layout for both directions: about the memory of the matrix, one of them slower
  two,  ///< a layout for each direction: twice the memory, both at full speed
};

/// How much memory a PackedWeight takes, and what for.
struct PackOptions {
  /// The layouts.
  Copies copies = Copies::two;
  bool keep_original = false;  ///< also keep the matrix as it was, for original()
};

namespace detail {

/// W and W' in packed form, or one of them for both directions.
template <RealScalar Scalar>
class PackedDirections {
 public:
  using Packed = kernels::PackedMatrix<Scalar>;

  /// One copy packs the side that needs less filling up. @param w in memory: it is read twice
  template <typename W>
  PackedDirections(const W& w, Copies copies) {
    const bool both = copies == Copies::two;
    const bool rows = Packed::padded(w.rows()) * w.cols() <= Packed::padded(w.cols()) * w.rows();
    if (both || rows) w_.emplace(w);
    if (both || !rows) wt_.emplace(w.transpose());
  }

  bool both() const { return w_ && wt_; }
  std::size_t bytes() const { return (w_ ? w_->bytes() : 0) + (wt_ ? wt_->bytes() : 0); }

  /// y = b + W x + F h. @param b empty for none, @param f of no columns for none
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, ConstVectorView<Scalar> b,
               ConstMatrixView<Scalar> f, ConstMatrixView<Scalar> h) const {
    multiply(w_, wt_, x, y, b, f, h);
  }

  /// dx = W' dy + F z.
  void backward(ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx, ConstMatrixView<Scalar> f,
                ConstMatrixView<Scalar> z) const {
    multiply(wt_, w_, dy, dx, {nullptr, 0}, f, z);
  }

  /// to = W + s B A. @param b out x r, @param at in x r: A', @param to a copy of this
  void merge(Scalar s, ConstMatrixView<Scalar> b, ConstMatrixView<Scalar> at,
             PackedDirections& to) const {
    if (w_) kernels::merge<Scalar>(*w_, s, b, at, *to.w_);
    if (wt_) kernels::merge<Scalar>(*wt_, s, at, b, *to.wt_);
  }

  void copy_to(MatrixView<Scalar> w) const {
    if (w_) return w_->copy_to(w);
    auto transposed = w.transpose();
    wt_->copy_to(transposed);
  }

 private:
  /// y = b + M x + F h, from M or else from its transpose.
  static void multiply(const std::optional<Packed>& m, const std::optional<Packed>& transposed,
                       ConstMatrixView<Scalar> x, MatrixView<Scalar> y, ConstVectorView<Scalar> b,
                       ConstMatrixView<Scalar> f, ConstMatrixView<Scalar> h) {
    using Term = kernels::LowRankTerm<Scalar>;
    const bool is_fused = m && f.cols() <= kernels::fused_rank;
    if (!is_fused && f.cols() > 0) {  // before anything is written
      require_shape("PackedWeight", "f", f, y.rows(), f.cols());
      require_shape("PackedWeight", "h", h, f.cols(), y.cols());
    }
    if (m) {
      kernels::multiply<Scalar>(kernels::PackedFactor(*m), x, y, b, is_fused ? Term{f, h} : Term{});
    } else {
      kernels::multiply_transposed<Scalar>(kernels::DotFactor<Scalar>(*transposed), Scalar(1), x, y,
                                           b);
    }
    if (!is_fused && f.cols() > 0) kernels::expand<Scalar>(f, h, y);
  }

  std::optional<Packed> w_;   // out x in
  std::optional<Packed> wt_;  // in x out
};

}  // namespace detail

/// A frozen weight packed once into the layout that the product wants, where a plain matrix is
/// packed anew by every product. Its copies share the memory, so many adapters and many threads can
/// stand on it; nobody can write it.
///
/// A product computes every sample by itself: its result does not depend on the other samples of
/// the batch nor on the number of threads, bit for bit.
template <RealScalar Scalar_>
class PackedWeight {
  struct Data;

 public:
  using Scalar = Scalar_;

  /// @param w out x in, in any storage order; it is copied
  /// @param b out coefficients, or empty for y = W x
  /// @throws ShapeError if b is neither
  template <typename Derived>
  explicit PackedWeight(const Eigen::MatrixBase<Derived>& w, Vector<Scalar> b = {},
                        const PackOptions& options = {}) {
    if (b.size() != 0) require_shape("PackedWeight", "b", b, w.rows(), 1);
    using InMemory = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic,
                                   Derived::IsRowMajor ? Eigen::RowMajor : Eigen::ColMajor>;
    const Eigen::Ref<const InMemory> once(w.derived());  // an expression is evaluated once
    data_ = std::make_shared<const Data>(
        Data{w.rows(), w.cols(), detail::PackedDirections<Scalar>(once, options.copies),
             std::move(b), options.keep_original ? Matrix<Scalar>(once) : Matrix<Scalar>()});
  }

  Index in_features() const { return data_->in; }
  Index out_features() const { return data_->out; }
  /// The layouts that are held.
  Copies copies() const { return data_->packed.both() ? Copies::two : Copies::one; }

  /// How it was packed.
  PackOptions options() const { return {copies(), keeps_original()}; }
  /// Whether the two share their memory.
  bool is_same_object(const PackedWeight& other) const { return data_ == other.data_; }

  /// The bytes held for W, the original included.
  std::size_t bytes() const {
    return data_->packed.bytes() +
           static_cast<std::size_t>(data_->original.size()) * sizeof(Scalar);
  }

  /// The matrix as it was given, out x in.
  /// @throws StateError if it was not kept; copy_to gives the same coefficients
  const Matrix<Scalar>& original() const {
    if (!keeps_original()) {
      raise<StateError>("PackedWeight: the original was not kept, see PackOptions");
    }
    return data_->original;
  }

  /// y = W x + b. @param x in x n, @param y out x n
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y) const {
    data_->packed.forward(x, y, bias(), {}, {});
  }

  /// dx = W' dy. @param dy out x n, @param dx in x n
  void backward(ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx) const {
    data_->packed.backward(dy, dx, {}, {});
  }

  /// y = W x + b + F h. @param x in x n, @param y out x n, @param f out x r, @param h r x n
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, ConstMatrixView<Scalar> f,
               ConstMatrixView<Scalar> h) const {
    data_->packed.forward(x, y, bias(), f, h);
  }

  /// dx = W' dy + F z. @param dy out x n, @param dx in x n, @param f in x r, @param z r x n
  void backward(ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx, ConstMatrixView<Scalar> f,
                ConstMatrixView<Scalar> z) const {
    data_->packed.backward(dy, dx, f, z);
  }

  /// A copy of W that follows the factors of an adapter: W + s B A, in packed form.
  class Merged {
   public:
    /// y = (W + s B A) x + b. @param x in x n, @param y out x n
    void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y) const {
      packed_.forward(x, y, {made_from_->b.data(), made_from_->b.size()}, {}, {});
    }

    /// dx = (W + s B A)' dy. @param dy out x n, @param dx in x n
    void backward(ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx) const {
      packed_.backward(dy, dx, {}, {});
    }

   private:
    friend PackedWeight;
    explicit Merged(std::shared_ptr<const Data> data)
        : packed_(data->packed), made_from_(std::move(data)) {}

    detail::PackedDirections<Scalar> packed_;
    std::shared_ptr<const Data> made_from_;
  };

  /// A copy of W for `merge` to write.
  Merged make_merged() const { return Merged(data_); }

  /// merged = W + s B A. Allocates nothing. @param b out x r, @param at in x r: A'
  /// @throws ShapeError, StateError if `merged` was made by another weight
  void merge(Scalar s, ConstMatrixView<Scalar> b, ConstMatrixView<Scalar> at,
             Merged& merged) const {
    if (merged.made_from_ != data_) {
      raise<StateError>("PackedWeight::merge: the copy was made by another weight");
    }
    data_->packed.merge(s, b, at, merged.packed_);
  }

  /// The multiply-adds of `merge` for a rank of 1, in units of in x out.
  Index merge_cost() const { return data_->packed.both() ? 2 : 1; }

  /// w = W. @param w out x in
  /// @throws ShapeError
  void copy_to(MatrixView<Scalar> w) const {
    require_shape("PackedWeight::copy_to", "w", w, out_features(), in_features());
    data_->packed.copy_to(w);
  }
  ConstVectorView<Scalar> bias() const { return {data_->b.data(), data_->b.size()}; }

 private:
  struct Data {
    Index out;
    Index in;
    detail::PackedDirections<Scalar> packed;
    Vector<Scalar> b;         // out, or empty
    Matrix<Scalar> original;  // out x in, or empty
  };

  bool keeps_original() const {
    return data_->original.rows() == out_features() && data_->original.cols() == in_features();
  }

  std::shared_ptr<const Data> data_;
};

template <typename Derived, typename... More>
PackedWeight(const Eigen::MatrixBase<Derived>&, More&&...)
    -> PackedWeight<typename Derived::Scalar>;

}  // namespace loraplus
