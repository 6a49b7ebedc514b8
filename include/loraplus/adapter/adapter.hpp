// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/dropout.hpp>
#include <loraplus/adapter/low_rank.hpp>
#include <loraplus/adapter/magnitude.hpp>
#include <optional>

namespace loraplus::inline v0_1 {

/// All of an adapter but the frozen weight that it stands on: factors, dropout of their input and,
/// with DoRA, a magnitude. LoraLinear is a weight with one, LoraSet a weight with many.
///
/// A `scale` in the functions below multiplies the scaling s for this call.
template <RealScalar Scalar_>
class Adapter {
 public:
  using Scalar = Scalar_;

  /// What a forward pass keeps for the backward pass, and scratch; one for each thread.
  struct Cache {
    Matrix<Scalar> h;           ///< r x largest batch: s A d(x)
    Matrix<Scalar> z;           ///< r x largest batch: s B' dy
    Matrix<Scalar> mask;        ///< in x largest batch, with dropout only: 0 or 1 / (1 - p)
    Matrix<Scalar> dropped;     ///< in x largest batch, with dropout only: d(x)
    Matrix<Scalar> scratch;     ///< in x largest batch, with dropout only
    bool used_dropout = false;  ///< in the last forward pass
    std::optional<typename Magnitude<Scalar>::Cache> magnitude;  ///< with DoRA only
  };

  /// @throws ArgumentError if an option is out of its range
  template <FrozenWeight Frozen, RandomBits Generator>
  Adapter(const Frozen& weight, const LoraOptions& options, Generator& generator)
      : Adapter(weight,
                LowRank<Scalar>(weight.out_features(), weight.in_features(), options, generator),
                options) {}

  /// @param factors those of the adapter, as they are; only dropout and dora of the options are
  /// asked
  /// @throws ArgumentError if an option is out of its range, ShapeError if the factors do not fit
  template <FrozenWeight Frozen>
  Adapter(const Frozen& weight, LowRank<Scalar> factors, const LoraOptions& options)
      : factors_(std::move(factors)), dropout_(validate(options).dropout) {
    require_shape("Adapter", "A", factors_.a(), factors_.rank(), weight.in_features());
    if (factors_.out_features() != weight.out_features()) {
      raise<ShapeError>("Adapter: B must have " + std::to_string(weight.out_features()) +
                        " rows, found " + std::to_string(factors_.out_features()));
    }
    if (!options.dora) return;
    if (factors_.has_bias()) raise<ArgumentError>("Adapter: dora has no place for lora_bias");
    if (!factors_.blocks().reach_all()) {
      raise<ArgumentError>("Adapter: dora scales all outputs, not the enabled groups alone");
    }
    magnitude_.emplace(weight, factors_);
  }

  /// @throws ShapeError unless this is an adapter for a weight out x in
  void require_fits(std::string_view where, Index out, Index in) const {
    if (factors_.in_features() == in && factors_.out_features() == out) return;
    raise<ShapeError>(std::string(where) + ": the adapter is for " +
                      detail::shape_text(factors_.out_features(), factors_.in_features()) +
                      ", the weight is " + detail::shape_text(out, in));
  }

  /// @throws ArgumentError unless it keeps so many equal groups of outputs apart
  void require_groups(std::string_view where, Index groups) const {
    if (factors_.blocks() == OutputBlocks::grouped(factors_.out_features(), groups, rank())) return;
    raise<ArgumentError>(std::string(where) + ": the adapter does not keep " +
                         std::to_string(groups) + " groups of outputs apart");
  }

  Index rank() const { return factors_.rank(); }
  double dropout() const { return dropout_; }

  /// A, B and their gradients.
  LowRank<Scalar>& factors() { return factors_; }
  /// The same to read.
  const LowRank<Scalar>& factors() const { return factors_; }

  /// The magnitude of DoRA, or null.
  Magnitude<Scalar>* magnitude() { return magnitude_ ? &*magnitude_ : nullptr; }
  /// The same to read.
  const Magnitude<Scalar>* magnitude() const { return magnitude_ ? &*magnitude_ : nullptr; }

  Cache make_cache(Index largest_batch) const {
    Cache cache;
    if (magnitude_) cache.magnitude = magnitude_->make_cache(factors_);
    reserve(cache, largest_batch);
    return cache;
  }

  /// Room in a cache of this adapter for batches of so many samples; a norm that it has is kept.
  void reserve(Cache& cache, Index largest_batch) const {
    if (cache.h.rows() == rank() && cache.h.cols() >= largest_batch) return;
    cache.h.resize(rank(), largest_batch);
    cache.z.resize(rank(), largest_batch);
    if (dropout_ > 0) {
      cache.mask.resize(factors_.in_features(), largest_batch);
      cache.dropped.resize(factors_.in_features(), largest_batch);
      cache.scratch.resize(factors_.in_features(), largest_batch);
    }
    if (magnitude_) magnitude_->reserve(*cache.magnitude, largest_batch);
  }

  /// Whether the cache was made by an adapter of this kind and rank.
  bool fits(const Cache& cache) const {
    if (magnitude_ && !(cache.magnitude && magnitude_->fits(factors_, *cache.magnitude)))
      return false;
    return cache.h.rows() == rank() &&
           cache.mask.rows() == (dropout_ > 0 ? factors_.in_features() : 0) &&
           cache.magnitude.has_value() == magnitude_.has_value();
  }

  /// h = s A d(x); d, dropout, is drawn from the generator if one is given, else there is none.
  /// @param x in x n @return d(x), in x n
  template <RandomBits... Generator>
  ConstMatrixView<Scalar> project(ConstMatrixView<Scalar> x, Scalar scale, Cache& cache,
                                  Generator&... generator) const {
    static_assert(sizeof...(Generator) <= 1);
    cache.used_dropout = sizeof...(Generator) == 1 && dropout_ > 0;
    if (cache.used_dropout) {
      (detail::draw_dropout_mask(dropout_, cache.mask.leftCols(x.cols()), generator), ...);
    }
    return project_input(x, scale, cache);
  }

  /// The same with a mask of the caller's, of 0 and 1 / (1 - p); there is dropout.
  /// @param x, mask in x n
  ConstMatrixView<Scalar> project_masked(ConstMatrixView<Scalar> x, Scalar scale,
                                         ConstMatrixView<Scalar> mask, Cache& cache) const {
    cache.used_dropout = true;
    cache.mask.leftCols(x.cols()) = mask;
    return project_input(x, scale, cache);
  }

  /// h = s A x for tokens, whose x has a single 1 each, in the row of the token.
  void project(std::span<const Index> tokens, Scalar scale, Cache& cache) const {
    cache.used_dropout = false;
    auto h = cache.h.leftCols(static_cast<Index>(tokens.size()));
    factors_.project(tokens, h, scale);
  }

  /// d(x) of the last forward pass.
  ConstMatrixView<Scalar> input(ConstMatrixView<Scalar> x, const Cache& cache) const {
    if (cache.used_dropout) return cache.dropped.leftCols(x.cols());
    return x;
  }

  /// The adapter on top of what y is, the output of the weight or of another adapter on it:
  /// y += B h + s b, and with DoRA y = f (y - b0) + b0 thereafter. @param y out x n
  template <FrozenWeight Frozen>
  void add(const Frozen& weight, MatrixView<Scalar> y, Scalar scale, Cache& cache) const {
    factors_.expand(cache.h.leftCols(y.cols()), y);
    factors_.add_bias(y, scale);
    if (!magnitude_) return;
    magnitude_->refresh(weight, factors_, scale, *cache.magnitude);
    auto v = cache.magnitude->direction.leftCols(y.cols());
    v = y;
    magnitude_->scale(v, y, *cache.magnitude);
  }

  /// The gradient of what came in on top, out x n: dy, or with DoRA f dy; the gradient of m is
  /// added.
  ConstMatrixView<Scalar> backward_magnitude(ConstMatrixView<Scalar> dy, Cache& cache) {
    if (!magnitude_) return dy;
    auto g = cache.magnitude->gradient.leftCols(dy.cols());
    magnitude_->backward(dy, cache.magnitude->direction.leftCols(dy.cols()), g, *cache.magnitude);
    return g;
  }

  /// z = s B' g, and the gradients of the factors are added. @param x in x n, as in project,
  /// @param g out x n, of backward_magnitude
  void backward_factors(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> g, Scalar scale,
                        Cache& cache) {
    auto z = cache.z.leftCols(x.cols());
    factors_.backward(input(x, cache), g, cache.h.leftCols(x.cols()), z, scale);
  }

  /// The same for tokens. @param padding a token that A learns nothing of, or -1
  void backward_factors(std::span<const Index> tokens, ConstMatrixView<Scalar> g, Scalar scale,
                        Cache& cache, Index padding = -1) {
    const auto n = static_cast<Index>(tokens.size());
    auto z = cache.z.leftCols(n);
    factors_.backward(tokens, g, cache.h.leftCols(n), z, scale, padding);
  }

  /// dx += the gradient through the adapter: A' z, behind dropout. @param dx in x n
  void backward_input(MatrixView<Scalar> dx, Cache& cache) const {
    const auto z = cache.z.leftCols(dx.cols());
    if (!cache.used_dropout) return factors_.expand_input(z, dx);
    auto through = cache.scratch.leftCols(dx.cols());
    through.setZero();
    factors_.expand_input(z, through);
    dx += cache.mask.leftCols(dx.cols()).cwiseProduct(through);
  }

  /// w = w + s B A and extra = extra + s b, and with DoRA both times f thereafter. The norms are
  /// those of the frozen weight with this adapter alone, whatever others are in w.
  /// @param w0 out x in: W, @param w out x in, @param extra out: what the bias is more than b0
  void merge_into(const Matrix<Scalar>& w0, Matrix<Scalar>& w, Vector<Scalar>& extra,
                  Scalar scale = Scalar(1)) const {
    factors_.add_to(w, scale);
    factors_.add_bias(extra, scale);
    if (!magnitude_) return;
    Matrix<Scalar> direction = w0;
    factors_.add_to(direction, scale);
    const Vector<Scalar> f = magnitude_->factor_of(direction);
    w = f.asDiagonal() * w;
    extra = f.cwiseProduct(extra);
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visit, const FactorNames& names = {}) {
    factors_.visit_parameters(visit, names);
    if (magnitude_) magnitude_->visit_parameters(visit);
  }

 private:
  ConstMatrixView<Scalar> project_input(ConstMatrixView<Scalar> x, Scalar scale,
                                        Cache& cache) const {
    if (cache.used_dropout) {
      cache.dropped.leftCols(x.cols()) = cache.mask.leftCols(x.cols()).cwiseProduct(x);
    }
    const ConstMatrixView<Scalar> dropped = input(x, cache);
    auto h = cache.h.leftCols(x.cols());
    factors_.project(dropped, h, scale);
    return dropped;
  }

  LowRank<Scalar> factors_;
  std::optional<Magnitude<Scalar>> magnitude_;
  double dropout_;
};

}  // namespace loraplus
