// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/dropout.hpp>
#include <loraplus/adapter/low_rank.hpp>
#include <loraplus/adapter/plan.hpp>
#include <loraplus/frozen/frozen_linear.hpp>
#include <loraplus/frozen/shared_weight.hpp>
#include <memory>
#include <optional>

namespace loraplus {

namespace detail {

/// W + s B A for the merged plan, the factors that are in it, and the identity of the layer whose W
/// and s these are; nothing where W has no such copy.
template <FrozenWeight Frozen>
struct MergedCopy {};

template <MergesLowRank Frozen>
struct MergedCopy<Frozen> {
  typename Frozen::Merged weight;
  RowMajorMatrix<typename Frozen::Scalar> a;  // r x in
  Matrix<typename Frozen::Scalar> b;          // out x r
  std::shared_ptr<const char> identity;
};

}  // namespace detail

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
    Matrix<Scalar> h;            // r x largest batch: s A d(x)
    Matrix<Scalar> z;            // r x largest batch: s B' dy
    Matrix<Scalar> mask;         // in x largest batch, with dropout only: 0 or 1 / (1 - p)
    Matrix<Scalar> dropped;      // in x largest batch, with dropout only: d(x)
    Matrix<Scalar> scratch;      // in x largest batch, with dropout only
    Index samples = -1;          // of the last forward pass through the adapter
    bool used_dropout = false;   // in that pass
    Plan plan = Plan::unmerged;  // of that pass
    std::optional<detail::MergedCopy<Frozen>> merged;  // with the merged plan only
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
  double dropout() const { return dropout_; }
  bool trains_bias() const { return base_.trains_bias(); }
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

  /// How training steps are computed, from the next forward pass on; a cache that was made before
  /// the plan became merged has no merged copy, and is refused. The automatic plan is chosen for
  /// each batch by its samples, or once for all by `samples_per_update`, those from one update of
  /// the factors to the next: with gradient accumulation, the samples of several batches.
  /// @throws ArgumentError if the merged plan is asked for and the weight has no merged copies, or
  /// there is dropout, which W + s B A cannot express
  void set_plan(Plan plan, Index samples_per_update = 0) {
    if (plan == Plan::merged && !MergesLowRank<Frozen>) {
      throw ArgumentError("LoraLinear: the frozen weight makes no merged copies (MergesLowRank)");
    }
    if (plan == Plan::merged && dropout_ > 0) {
      throw ArgumentError("LoraLinear: the merged plan has no place for dropout");
    }
    require_argument(samples_per_update >= 0, "LoraLinear::set_plan",
                     "samples_per_update must be at least 0",
                     static_cast<double>(samples_per_update));
    plan_ = plan;
    samples_per_update_ = samples_per_update;
  }

  /// The plan for a batch of so many samples: unmerged or merged.
  Plan plan(Index samples) const {
    if constexpr (MergesLowRank<Frozen>) {
      if (plan_ != Plan::automatic) return plan_;
      if (dropout_ > 0) return Plan::unmerged;
      const auto counted =
          static_cast<double>(samples_per_update_ > 0 ? samples_per_update_ : samples);
      const double break_even =
          plan_break_even(in_features(), out_features(), weight().merge_cost());
      return counted > break_even ? Plan::merged : Plan::unmerged;
    }
    return Plan::unmerged;
  }

  Cache make_cache(Index largest_batch) const {
    Cache cache;
    if constexpr (MergesLowRank<Frozen>) {
      if (plan(largest_batch) == Plan::merged) {
        cache.merged = {weight().make_merged(), RowMajorMatrix<Scalar>::Zero(rank(), in_features()),
                        Matrix<Scalar>::Zero(out_features(), rank()), identity_};
      }
    }
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
    if (!begin_forward(x, y, cache)) return;
    cache.used_dropout = false;
    forward_adapted(x, x, y, cache);
  }

  /// Training: dropout drawn from the generator. @param x in x n, @param y out x n
  /// @throws ShapeError, StateError if the layer is merged
  template <RandomBits Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator& generator) const {
    if (enabled_) require_unmerged("a training forward pass");
    if (dropout_ == 0) return forward(x, y, cache);
    if (!begin_forward(x, y, cache)) return;
    require_cache(cache.mask.rows() == in_features());
    auto mask = cache.mask.leftCols(x.cols());
    auto dropped = cache.dropped.leftCols(x.cols());
    detail::draw_dropout_mask(dropout_, mask, generator);
    dropped = mask.cwiseProduct(x);
    cache.used_dropout = true;
    forward_adapted(x, dropped, y, cache);
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
    if (!enabled_) return base_.weight().backward(dy, dx);
    const auto z = cache.z.leftCols(x.cols());
    const auto at = factors_.a().transpose();  // in x r, column-major
    if (cache.used_dropout) {
      auto through_adapter = cache.scratch.leftCols(x.cols());
      through_adapter.setZero();
      kernels::expand<Scalar>(at, z, through_adapter);
      base_.weight().backward(dy, dx);
      dx += cache.mask.leftCols(x.cols()).cwiseProduct(through_adapter);
    } else if (!backward_merged(dy, dx, cache)) {
      base_.backward_input(dy, dx, at, z);
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
  /// The forward pass of a layer that is disabled or merged, or else the checks of one that is not;
  /// whether it is still to be done. Until it is, the cache counts as that of no pass.
  bool begin_forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache) const {
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
    return true;
  }

  /// h = s A x' and y = W x + b + B h. @param x in x n, @param dropped in x n: d(x), @param y out x
  /// n
  void forward_adapted(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dropped,
                       MatrixView<Scalar> y, Cache& cache) const {
    auto h = cache.h.leftCols(x.cols());
    factors_.project(dropped, h);
    cache.plan = plan(x.cols());
    if (!forward_merged(x, y, cache)) base_.forward(x, y, factors_.b(), h);
    cache.samples = x.cols();
  }

  /// y = (W + s B A) x + b, if that is the plan of the pass.
  bool forward_merged(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache) const {
    if constexpr (MergesLowRank<Frozen>) {
      if (cache.plan != Plan::merged) return false;
      require_cache(cache.merged.has_value() && cache.merged->identity == identity_);
      refresh(*cache.merged);
      cache.merged->weight.forward(x, y);
      base_.add_trained_bias(y);
      return true;
    }
    return false;
  }

  /// dx = (W + s B A)' dy, if that was the plan of the forward pass.
  bool backward_merged(ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx, Cache& cache) const {
    if constexpr (MergesLowRank<Frozen>) {
      if (cache.plan != Plan::merged) return false;
      cache.merged->weight.backward(dy, dx);
      return true;
    }
    return false;
  }

  /// Merges the factors into the copy, unless it has them already. Comparing them costs little
  /// beside a product, and no change of theirs can be missed.
  void refresh(detail::MergedCopy<Frozen>& copy) const {
    if (copy.a == factors_.a() && copy.b == factors_.b()) return;
    weight().merge(scaling(), factors_.b(), factors_.a().transpose(), copy.weight);
    copy.a = factors_.a();
    copy.b = factors_.b();
  }

  void require_unmerged(const char* what) const {
    if (merged()) throw StateError(std::string("LoraLinear: ") + what + " needs unmerge() first");
  }

  static void require_cache(bool fits) {
    if (!fits) throw StateError("LoraLinear: the cache was made for another layer or plan");
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
  Plan plan_ = Plan::automatic;
  Index samples_per_update_ = 0;                // 0: those of each batch
  std::optional<SharedWeight<Scalar>> merged_;  // W + s B A
  // One for a layer and its copies, which have W and s in common.
  std::shared_ptr<const char> identity_ = std::make_shared<const char>();
};

}  // namespace loraplus
