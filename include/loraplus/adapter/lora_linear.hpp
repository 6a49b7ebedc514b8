// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/dropout.hpp>
#include <loraplus/adapter/low_rank.hpp>
#include <loraplus/frozen/frozen_linear.hpp>
#include <loraplus/frozen/shared_weight.hpp>
#include <optional>

namespace loraplus {

/// A frozen weight with a low-rank adapter (Hu et al., "LoRA", equation 3):
///
///     y = W x + b + s B A d(x)        d: dropout, while training
///
/// `forward` is const and may run on many threads at once, each with a cache of its own. The
/// frozen weight is never written. Values that are not finite propagate as IEEE 754 says; an
/// empty batch does nothing.
template <FrozenWeight Frozen>
class LoraLinear {
 public:
  using Scalar = typename Frozen::Scalar;

  /// What a forward pass keeps for the backward pass, and scratch; one for each thread.
  struct Cache {
    Matrix<Scalar> h;           // r x largest batch: s A d(x)
    Matrix<Scalar> z;           // r x largest batch: s B' dy
    Matrix<Scalar> mask;        // in x largest batch, with dropout only: 0 or 1 / (1 - p)
    Matrix<Scalar> dropped;     // in x largest batch, with dropout only: d(x)
    Matrix<Scalar> scratch;     // in x largest batch, with dropout only
    Index samples = -1;         // of the last forward pass through the adapter
    bool used_dropout = false;  // in that pass
    typename FrozenLinear<Frozen>::Cache base;
  };

  /// @throws ArgumentError if an option is out of its range
  template <RandomBits Generator>
  LoraLinear(Frozen weight, const LoraOptions& options, Generator& generator)
      : base_(std::move(weight), options.bias != BiasMode::none),
        factors_(base_.out_features(), base_.in_features(), options, generator),
        dropout_(options.dropout) {}

  Index in_features() const { return base_.in_features(); }
  Index out_features() const { return base_.out_features(); }
  Index rank() const { return factors_.rank(); }
  Scalar scaling() const { return factors_.scaling(); }
  const Frozen& weight() const { return base_.weight(); }
  /// The bias that is trained, or else that of the weight; empty if there is none.
  ConstVectorView<Scalar> bias() const { return base_.bias(); }

  /// A, B and their gradients.
  const LowRank<Scalar>& factors() const { return factors_; }

  /// Replaces both factors. @param a r x in, @param b out x r
  /// @throws ShapeError, StateError if the layer is merged
  template <typename DerivedA, typename DerivedB>
  void set_factors(const Eigen::MatrixBase<DerivedA>& a, const Eigen::MatrixBase<DerivedB>& b) {
    require_unmerged("set_factors");
    factors_.set_factors(a, b);
  }

  /// A disabled adapter leaves y = W x + b0, the frozen weight with its own bias.
  void set_enabled(bool enabled) { enabled_ = enabled; }
  bool enabled() const { return enabled_; }

  Cache make_cache(Index largest_batch) const {
    Cache cache;
    cache.h.resize(rank(), largest_batch);
    cache.z.resize(rank(), largest_batch);
    if (dropout_ > 0) {
      cache.mask.resize(in_features(), largest_batch);
      cache.dropped.resize(in_features(), largest_batch);
      cache.scratch.resize(in_features(), largest_batch);
    }
    return cache;
  }

  /// Evaluation: no dropout. @param x in x n, @param y out x n
  /// @throws ShapeError
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache) const {
    if (!forward_base(x, y, cache)) return;
    factors_.forward(x, y, cache.h.leftCols(x.cols()));
    cache.used_dropout = false;
    cache.samples = x.cols();
  }

  /// Training: dropout drawn from the generator. @param x in x n, @param y out x n
  /// @throws ShapeError, StateError if the layer is merged
  template <RandomBits Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator& generator) const {
    if (enabled_) require_unmerged("a training forward pass");
    if (dropout_ == 0) return forward(x, y, cache);
    if (!forward_base(x, y, cache)) return;
    require_cache(cache.mask.rows() == in_features());
    auto mask = cache.mask.leftCols(x.cols());
    auto dropped = cache.dropped.leftCols(x.cols());
    detail::draw_dropout_mask(dropout_, mask, generator);
    dropped = mask.cwiseProduct(x);
    factors_.forward(dropped, y, cache.h.leftCols(x.cols()));
    cache.used_dropout = true;
    cache.samples = x.cols();
  }

  /// Adds the gradients of A, B and a trained bias; `x` and `cache` are those of the forward pass.
  /// @param x in x n, @param dy out x n
  /// @throws ShapeError, StateError if the layer is merged or n is not that of the forward pass
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& cache) {
    require_shape("LoraLinear::backward", "x", x, in_features(), x.cols());
    require_shape("LoraLinear::backward", "dy", dy, out_features(), x.cols());
    if (!enabled_) return;
    require_unmerged("backward");
    require_forward_pass(x.cols(), cache);
    base_.backward(x, dy, cache.base);
    const auto h = cache.h.leftCols(x.cols());
    auto z = cache.z.leftCols(x.cols());
    if (cache.used_dropout) {
      factors_.backward(cache.dropped.leftCols(x.cols()), dy, h, z);
    } else {
      factors_.backward(x, dy, h, z);
    }
  }

  /// The same, and dx = W' dy + A' z, z = s B' dy. @param dx in x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx,
                Cache& cache) {
    require_shape("LoraLinear::backward", "dx", dx, in_features(), x.cols());
    require_distinct("LoraLinear::backward", dy, dx);
    backward(x, dy, cache);
    base_.weight().backward(dy, dx);
    if (!enabled_) return;
    const auto z = cache.z.leftCols(x.cols());
    if (cache.used_dropout) {
      auto through_adapter = cache.scratch.leftCols(x.cols());
      through_adapter.setZero();
      factors_.backward_input(z, through_adapter);
      dx += cache.mask.leftCols(x.cols()).cwiseProduct(through_adapter);
    } else {
      factors_.backward_input(z, dx);
    }
  }

  /// W + s B A, out x in: what a program without adapters needs, together with bias().
  /// @throws NonFiniteError if it is not finite
  Matrix<Scalar> merged_weight() const requires DenseWeight<Frozen> {
    Matrix<Scalar> w = loraplus::to_matrix(weight());
    factors_.add_to(w);
    if (!w.allFinite()) throw NonFiniteError("LoraLinear: the merged weight is not finite");
    return w;
  }

  /// From here on `forward` costs one product, y = (W + s B A) x + b. The frozen weight is left
  /// as it is, so `unmerge` is exact: it forgets the merged copy. A second call does nothing.
  /// @throws NonFiniteError if the merged weight is not finite; nothing is changed then
  void merge() requires DenseWeight<Frozen> {
    if (!merged()) merged_.emplace(merged_weight(), bias());
  }

  void unmerge() { merged_.reset(); }
  bool merged() const { return merged_.has_value(); }

  /// @throws StateError if the layer is merged: an update would pass by the merged weight
  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    require_unmerged("visit_parameters");
    factors_.visit_parameters(visit);
    base_.visit_parameters(visit);
  }

 private:
  /// y without the adapter, or with the merged one; whether the adapter is still to be added. Until
  /// it is, the cache counts as that of no pass.
  bool forward_base(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache) const {
    require_shape("LoraLinear::forward", "x", x, in_features(), x.cols());
    require_shape("LoraLinear::forward", "y", y, out_features(), x.cols());
    require_distinct("LoraLinear::forward", x, y);
    cache.samples = -1;
    if (!enabled_) {
      base_.weight().forward(x, y);
      return false;
    }
    if (merged()) {
      merged_->forward(x, y);
      return false;
    }
    require_cache(cache.h.rows() == rank());
    require_batch_fits("LoraLinear::forward", x.cols(), cache.h.cols());
    base_.forward(x, y, cache.base);
    return true;
  }

  void require_unmerged(const char* what) const {
    if (merged()) throw StateError(std::string("LoraLinear: ") + what + " needs unmerge() first");
  }

  static void require_cache(bool fits) {
    if (!fits) throw StateError("LoraLinear: the cache was made for another layer");
  }

  void require_forward_pass(Index samples, const Cache& cache) const {
    if (cache.samples != samples) {
      throw StateError("LoraLinear::backward: a batch of " + std::to_string(samples) +
                       " samples does not follow a forward pass of as many with this cache");
    }
  }

  FrozenLinear<Frozen> base_;
  LowRank<Scalar> factors_;
  double dropout_;
  bool enabled_ = true;
  std::optional<SharedWeight<Scalar>> merged_;  // W + s B A
};

}  // namespace loraplus
