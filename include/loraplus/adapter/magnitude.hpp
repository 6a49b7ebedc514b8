// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/low_rank.hpp>
#include <loraplus/frozen/row_norms.hpp>
#include <memory>

namespace loraplus::inline v0_1 {

/// The magnitude m of a weight-decomposed adapter (Liu et al., "DoRA", 2024, equation 5):
///
///     y = f (W + s B A) x + b0,   f = m / n,   n = |W + s B A| row by row
///
/// n is a constant to the gradients (section 4.3 there). W + s B A is never formed:
///
///     n^2 = |W|^2 + 2 s rowsum((W A') * B) + s^2 rowsum((B (A A')) * B)
///
/// Before training m = n, so f = 1. A row of norm zero has no direction: its f is 0, where PEFT's
/// is NaN.
template <RealScalar Scalar_>
class Magnitude {
 public:
  using Scalar = Scalar_;

  /// What a pass keeps, and scratch; one for each thread.
  struct Cache {
    Matrix<Scalar> direction;  ///< out x largest batch: v = (W + s B A) x + b0
    Matrix<Scalar> gradient;   ///< out x largest batch: f dy
    Vector<Scalar> norm;       ///< out: n
    Vector<Scalar> factor;     ///< out: f
    Matrix<Scalar> wa;         ///< out x r: W A'
    Matrix<Scalar> gram;       ///< r x r: s^2 A A'
    Vector<double> squares;    ///< out: n^2
    // What `norm` was computed from: an unchanged adapter keeps it.
    /// The weight whose norms they were.
    std::shared_ptr<const void> rows;
    /// A, r x in.
    RowMajorMatrix<Scalar> a;
    /// B, a block each.
    std::vector<Matrix<Scalar>> b;
    /// s.
    Scalar scaling = 0;
  };

  /// m = |W + s B A|. Reads W once.
  template <FrozenWeight Frozen>
  Magnitude(const Frozen& weight, const LowRank<Scalar>& factors)
      : rows_(std::make_shared<const Rows>(
            Rows{loraplus::squared_row_norms(weight), loraplus::bias_of(weight)})) {
    Cache cache = make_cache(factors);
    update_norm(weight, factors, factors.scaling(), cache);
    m_ = cache.norm;
    gradient_ = Vector<Scalar>::Zero(m_.size());
  }

  /// m, out coefficients.
  const Vector<Scalar>& values() const { return m_; }
  /// The gradient of m, out.
  const Vector<Scalar>& gradient() const { return gradient_; }

  /// @param m out @throws ShapeError
  void set_values(const Vector<Scalar>& m) {
    require_shape("Magnitude::set_values", "m", m, m_.size(), 1);
    m_ = m;
  }

  /// A cache without room for samples, see reserve.
  Cache make_cache(const LowRank<Scalar>& factors) const {
    const Index out = factors.out_features(), rank = factors.rank();
    Cache cache;
    cache.norm.setZero(out);
    reserve(cache, 0);
    cache.squares.setZero(out);
    cache.factor.setZero(out);
    cache.wa.resize(out, rank);
    cache.gram.resize(rank, rank);
    cache.a.setZero(rank, factors.in_features());
    factors.for_each_block([&](std::size_t k, Index, const OutputBlock&, Index) {
      cache.b.push_back(Matrix<Scalar>::Zero(factors.b(k).rows(), factors.b(k).cols()));
    });
    return cache;
  }

  /// Room in the cache for batches of so many samples; the norm is kept.
  void reserve(Cache& cache, Index largest_batch) const {
    cache.direction.resize(cache.norm.size(), largest_batch);
    cache.gradient.resize(cache.norm.size(), largest_batch);
  }

  /// Whether the cache was made for factors of these shapes.
  bool fits(const LowRank<Scalar>& factors, const Cache& cache) const {
    bool same = cache.direction.rows() == factors.out_features() &&
                cache.a.rows() == factors.rank() && cache.a.cols() == factors.in_features() &&
                cache.b.size() == factors.blocks().blocks().size();
    factors.for_each_block([&](std::size_t k, Index, const OutputBlock& block, Index) {
      same = same && cache.b[k].rows() == block.size;
    });
    return same;
  }

  /// n and f for the factors as they are, their scaling multiplied by `scale`.
  template <FrozenWeight Frozen>
  void refresh(const Frozen& weight, const LowRank<Scalar>& factors, Scalar scale,
               Cache& cache) const {
    const Scalar scaling = scale * factors.scaling();
    if (!is_current(factors, scaling, cache)) update_norm(weight, factors, scaling, cache);
    cache.factor = (cache.norm.array() == 0).select(Scalar(0), m_.cwiseQuotient(cache.norm));
  }

  /// y = f (v - b0) + b0. @param v, y out x n, may be the same memory
  void scale(ConstMatrixView<Scalar> v, MatrixView<Scalar> y, const Cache& cache) const {
    const Vector<Scalar>& b0 = rows_->bias;
    for (Index sample = 0; sample < v.cols(); ++sample) {
      y.col(sample) = cache.factor.cwiseProduct(v.col(sample) - b0) + b0;
    }
  }

  /// y += (f - 1) (v - b0): what the scaling adds. @param v, y out x n
  void add_scaled(ConstMatrixView<Scalar> v, MatrixView<Scalar> y, const Cache& cache) const {
    for (Index sample = 0; sample < v.cols(); ++sample) {
      y.col(sample).array() += (cache.factor.array() - 1) * (v.col(sample) - rows_->bias).array();
    }
  }

  /// g = f dy, and dm += rowsum(dy (v - b0)) / n. @param dy, v, g out x n; dy and g may be the same
  void backward(ConstMatrixView<Scalar> dy, ConstMatrixView<Scalar> v, MatrixView<Scalar> g,
                const Cache& cache) {
    for (Index sample = 0; sample < dy.cols(); ++sample) {
      gradient_.array() +=
          (cache.norm.array() == 0)
              .select(Scalar(0), dy.col(sample).array() * (v.col(sample) - rows_->bias).array() /
                                     cache.norm.array());
      g.col(sample) = cache.factor.cwiseProduct(dy.col(sample));
    }
  }

  /// f, out coefficients. @param direction out x in: W + s B A, whose norms are n
  Vector<Scalar> factor_of(const Matrix<Scalar>& direction) const {
    const Vector<Scalar> norm =
        direction.template cast<double>().rowwise().norm().template cast<Scalar>();
    return (norm.array() == 0).select(Scalar(0), m_.cwiseQuotient(norm));
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(Parameter<Scalar>("lora_magnitude_vector", Role::magnitude, m_, gradient_));
  }

 private:
  /// Of the frozen weight; shared by copies.
  struct Rows {
    Vector<double> squared_norms;  // out
    Vector<Scalar> bias;           // out: b0
  };

  bool is_current(const LowRank<Scalar>& factors, Scalar scaling, const Cache& cache) const {
    if (cache.rows != rows_ || scaling != cache.scaling || cache.a != factors.a()) return false;
    for (std::size_t k = 0; k < cache.b.size(); ++k) {
      if (cache.b[k] != factors.b(k)) return false;
    }
    return true;
  }

  /// `wa` becomes 2 s W A' + s^2 B (A A') on its way.
  template <FrozenWeight Frozen>
  void update_norm(const Frozen& weight, const LowRank<Scalar>& factors, Scalar scaling,
                   Cache& cache) const {
    weight.forward(factors.a().transpose(), cache.wa);
    cache.wa = 2 * scaling * (cache.wa.colwise() - rows_->bias);
    update_gram(factors.a(), static_cast<double>(scaling), cache.gram);
    cache.squares = rows_->squared_norms;
    const Index r = factors.blocks().block_rank();
    factors.for_each_block([&](std::size_t k, Index, const OutputBlock& block, Index rank) {
      const Matrix<Scalar>& b = factors.b(k);                      // size x r
      auto wa = cache.wa.block(block.first, rank, block.size, r);  // size x r
      kernels::expand<Scalar>(b, cache.gram.block(rank, rank, r, r), wa);
      for (Index j = 0; j < r; ++j) {
        cache.squares.segment(block.first, block.size) +=
            wa.col(j).template cast<double>().cwiseProduct(b.col(j).template cast<double>());
      }
      cache.b[k] = b;
    });
    // What rounding has made negative is zero; NaN stays NaN.
    cache.norm =
        (cache.squares.array() < 0).select(0.0, cache.squares.cwiseSqrt()).template cast<Scalar>();
    cache.a = factors.a();
    cache.scaling = scaling;
    cache.rows = rows_;
  }

  /// gram = s^2 A A'
  static void update_gram(const RowMajorMatrix<Scalar>& a, double s, Matrix<Scalar>& gram) {
    for (Index i = 0; i < a.rows(); ++i) {
      for (Index j = 0; j <= i; ++j) {
        gram(i, j) = static_cast<Scalar>(
            s * s * a.row(i).template cast<double>().dot(a.row(j).template cast<double>()));
        gram(j, i) = gram(i, j);
      }
    }
  }

  std::shared_ptr<const Rows> rows_;
  Vector<Scalar> m_;         // out
  Vector<Scalar> gradient_;  // out
};

}  // namespace loraplus
