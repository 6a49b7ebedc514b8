// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/adapter.hpp>
#include <loraplus/adapter/plan.hpp>
#include <loraplus/frozen/frozen_linear.hpp>
#include <loraplus/frozen/shared_weight.hpp>
#include <memory>
#include <optional>

namespace loraplus::inline v0_1 {

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
/// with `dora` and `lora_bias` of the options as Magnitude and LowRank tell. (While training, DoRA
/// lets W d(x) instead of W x through the scaling, as PEFT: y = W x + b + (f - 1) W d(x) + f s B A
/// d(x).)
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
    /// That of the adapter.
    typename Adapter<Scalar>::Cache adapter;
    Index samples = -1;                 ///< of the last forward pass through the adapter
    Plan plan = Plan::unmerged;         ///< of that pass
    std::shared_ptr<const char> owner;  ///< the identity of the layer of that pass
    std::optional<detail::MergedCopy<Frozen>> merged;  ///< with the merged plan only
    /// That of the frozen weight.
    typename FrozenLinear<Frozen>::Cache base;
  };

  /// @throws ArgumentError if an option is out of its range
  template <RandomBits Generator>
  LoraLinear(Frozen weight, const LoraOptions& options, Generator& generator)
      : base_(std::move(weight), options.bias != BiasMode::none),
        adapter_(base_.weight(), options, generator) {}

  /// With factors from elsewhere: trained, combined, or made of the weight.
  /// @param options of which dropout, bias and dora are asked
  /// @throws ArgumentError if an option is out of its range, ShapeError if the factors do not fit
  LoraLinear(Frozen weight, LowRank<Scalar> factors, const LoraOptions& options = {})
      : base_(std::move(weight), options.bias != BiasMode::none),
        adapter_(base_.weight(), std::move(factors), options) {}
  /// The same from plain factors.
  LoraLinear(Frozen weight, const Factors<Scalar>& factors, const LoraOptions& options = {})
      : LoraLinear(std::move(weight), LowRank<Scalar>(factors), options) {}

  /// With an adapter that was made for a weight of this shape, as a LoraSet has them. With DoRA the
  /// weight must be the same: its norms are in the adapter.
  /// @throws ShapeError
  LoraLinear(Frozen weight, Adapter<Scalar> adapter)
      : base_(std::move(weight)), adapter_(std::move(adapter)) {
    adapter_.require_fits("LoraLinear", out_features(), in_features());
    adapter_.factors().hold_gradients();
  }

  Index in_features() const { return base_.in_features(); }
  Index out_features() const { return base_.out_features(); }
  Index rank() const { return adapter_.rank(); }
  Scalar scaling() const { return factors().scaling(); }
  double dropout() const { return adapter_.dropout(); }
  /// Whether the bias is a parameter.
  bool trains_bias() const { return base_.trains_bias(); }
  const Frozen& weight() const { return base_.weight(); }
  /// The bias that is trained, or else that of the weight; empty if there is none.
  ConstVectorView<Scalar> bias() const { return base_.bias(); }

  /// A, B and their gradients.
  const LowRank<Scalar>& factors() const { return adapter_.factors(); }
  /// The magnitude of DoRA, or null.
  const Magnitude<Scalar>* magnitude() const { return adapter_.magnitude(); }
  /// The factors, dropout and, with DoRA, the magnitude.
  const Adapter<Scalar>& adapter() const { return adapter_; }

  /// Replaces both factors. @param a r x in, @param b out x r
  /// @throws ShapeError, StateError if the layer is merged
  template <typename DerivedA, typename DerivedB>
  void set_factors(const Eigen::MatrixBase<DerivedA>& a, const Eigen::MatrixBase<DerivedB>& b) {
    require_unmerged("set_factors");
    adapter_.factors().set_factors(a, b);
  }
  /// Replaces A, B and the bias of B, not the scaling. @throws as above
  void set_factors(const Factors<Scalar>& trained) {
    require_unmerged("set_factors");
    adapter_.factors().set_factors(trained);
  }

  /// Replaces the magnitude of DoRA. @param m out
  /// @throws ShapeError, StateError if the layer is merged or has none
  void set_magnitude(const Vector<Scalar>& m) {
    require_unmerged("set_magnitude");
    if (magnitude() == nullptr) raise<StateError>("LoraLinear::set_magnitude: there is no DoRA");
    adapter_.magnitude()->set_values(m);
  }

  /// A disabled adapter leaves y = W x + b0, the frozen weight with its own bias.
  void set_enabled(bool enabled) { enabled_ = enabled; }
  bool enabled() const { return enabled_; }

  /// How training steps are computed, from the next forward pass on; a cache that was made before
  /// the plan became merged has no merged copy, and is refused. The automatic plan is chosen for
  /// each batch by its samples, or once for all by `samples_per_update`, those from one update of
  /// the factors to the next: with gradient accumulation, the samples of several batches.
  /// @throws ArgumentError if the merged plan is asked for and the weight has no merged copies, or
  /// there is dropout, DoRA or several blocks of outputs, for which no copy is kept
  void set_plan(Plan plan, Index samples_per_update = 0) {
    if (plan == Plan::merged) {
      if (!MergesLowRank<Frozen>) {
        raise<ArgumentError>(
            "LoraLinear: the frozen weight makes no merged copies (MergesLowRank)");
      }
      if (const char* reason = unmergeable()) {
        raise<ArgumentError>(std::string("LoraLinear: the merged plan has no place for ") + reason);
      }
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
      if (unmergeable() != nullptr) return Plan::unmerged;
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
    cache.adapter = adapter_.make_cache(largest_batch);
    return cache;
  }

  /// Evaluation without a generator, training with one: dropout is drawn from it.
  /// @param x in x n, @param y out x n
  /// @throws ShapeError, StateError if the layer is merged and to be trained
  template <RandomBits... Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator&... generator) const requires(sizeof...(Generator) <= 1) {
    if (sizeof...(Generator) == 1 && enabled_) require_unmerged("a training forward pass");
    if (!begin_forward(x, y, cache)) return;
    finish_forward(x, adapter_.project(x, Scalar(1), cache.adapter, generator...), y, cache);
  }

  /// Training with a dropout mask of the caller's, of 0 and 1 / (1 - p).
  /// @param x, mask in x n, @param y out x n @throws as forward, and StateError without dropout
  void forward_masked(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, ConstMatrixView<Scalar> mask,
                      Cache& cache) const {
    require_shape("LoraLinear::forward_masked", "mask", mask, in_features(), x.cols());
    if (dropout() == 0) raise<StateError>("LoraLinear::forward_masked: there is no dropout");
    if (enabled_) require_unmerged("a training forward pass");
    if (!begin_forward(x, y, cache)) return;
    finish_forward(x, adapter_.project_masked(x, Scalar(1), mask, cache.adapter), y, cache);
  }

  /// Adds the gradients of A, B, m and a trained bias; `x` and `cache` are those of the forward
  /// pass. @param x in x n, @param dy out x n
  /// @throws ShapeError, StateError if the layer is merged, or the forward pass was of another
  /// layer or another n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& cache) {
    backward_parameters(x, dy, cache);
  }

  /// The same, and dx = W' dy + A' z, z = s B' dy. @param dx in x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx,
                Cache& cache) {
    require_shape("LoraLinear::backward", "dx", dx, in_features(), x.cols());
    require_distinct("LoraLinear::backward", dy, dx);
    const ConstMatrixView<Scalar> g = backward_parameters(x, dy, cache);
    if (!enabled_) return base_.weight().backward(dy, dx);
    if (cache.adapter.used_dropout) return backward_dropped(dy, dx, cache);
    if (backward_merged(dy, dx, cache)) return;
    base_.backward_input(g, dx, factors().a().transpose(), cache.adapter.z.leftCols(x.cols()));
  }

  /// W + s B A, out x in, its rows scaled with DoRA: what a program without adapters needs,
  /// together with merged_bias().
  /// @throws NonFiniteError if it is not finite
  Matrix<Scalar> merged_weight() const requires DenseWeight<Frozen> {
    const Matrix<Scalar> w0 = loraplus::to_matrix(weight());
    Matrix<Scalar> w = w0;
    Vector<Scalar> extra = Vector<Scalar>::Zero(out_features());
    adapter_.merge_into(w0, w, extra);
    if (!w.allFinite()) raise<NonFiniteError>("LoraLinear: the merged weight is not finite");
    return w;
  }

  /// The bias that goes with merged_weight(): bias(), or with lora_bias bias() + s b. Empty if
  /// there is none. @throws NonFiniteError if it is not finite
  Vector<Scalar> merged_bias() const {
    Vector<Scalar> merged = bias();
    if (factors().has_bias() && merged.size() == 0) merged.setZero(out_features());
    factors().add_bias(merged);
    if (!merged.allFinite()) raise<NonFiniteError>("LoraLinear: the merged bias is not finite");
    return merged;
  }

  /// From here on `forward` costs one product, y = (W + s B A) x + b. The frozen weight is left
  /// as it is, so `unmerge` is exact: it forgets the merged copy. A second call does nothing.
  /// @throws NonFiniteError if the merged weight or bias is not finite; nothing is changed then
  void merge() requires DenseWeight<Frozen> {
    if (!merged()) merged_.emplace(merged_weight(), merged_bias());
  }

  /// Forgets the merged weight: `forward` computes with the adapter again.
  void unmerge() { merged_.reset(); }
  /// Whether `forward` is the product with a merged weight.
  bool merged() const { return merged_.has_value(); }

  /// @throws StateError if the layer is merged: an update would pass by the merged weight
  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    require_unmerged("visit_parameters");
    adapter_.visit_parameters(visit);
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
    require_cache(adapter_.fits(cache.adapter));
    require_batch_fits("LoraLinear::forward", x.cols(), cache.adapter.h.cols());
    return true;
  }

  /// y, after h. @param x, dropped in x n: d(x), @param y out x n
  void finish_forward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dropped,
                      MatrixView<Scalar> y, Cache& cache) const {
    cache.plan = plan(x.cols());
    if (magnitude() != nullptr) {
      forward_decomposed(x, dropped, y, cache);
    } else {
      if (!forward_merged(x, y, cache)) product(x, y, cache);
      factors().add_bias(y);
    }
    base_.add_trained_bias(y);
    if (cache.owner != identity_) cache.owner = identity_;
    cache.samples = x.cols();
  }

  /// y = W x + b0 + B h. @param x in x n, @param y out x n
  void product(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, const Cache& cache) const {
    const auto h = cache.adapter.h.leftCols(x.cols());
    if (factors().blocks().is_whole()) return base_.product(x, y, factors().b(), h);
    weight().forward(x, y);
    factors().expand(h, y);
  }

  /// y = f (W + s B A) x + b0, or with dropout y = W x + b0 + (f - 1) W d(x) + f s B A d(x).
  /// @param x, dropped in x n: d(x), @param y out x n
  void forward_decomposed(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dropped,
                          MatrixView<Scalar> y, Cache& cache) const {
    auto& kept = *cache.adapter.magnitude;
    magnitude()->refresh(weight(), factors(), Scalar(1), kept);
    auto v = kept.direction.leftCols(x.cols());  // out x n
    product(dropped, v, cache);
    if (!cache.adapter.used_dropout) return magnitude()->scale(v, y, kept);
    weight().forward(x, y);
    magnitude()->add_scaled(v, y, kept);
    factors().expand(cache.adapter.h.leftCols(x.cols()), y);
  }

  /// y = (W + s B A) x + b0, if that is the plan of the pass.
  bool forward_merged(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache) const {
    if constexpr (MergesLowRank<Frozen>) {
      if (cache.plan != Plan::merged) return false;
      require_cache(cache.merged.has_value() && cache.merged->identity == identity_);
      refresh(*cache.merged);
      cache.merged->weight.forward(x, y);
      return true;
    }
    return false;
  }

  /// Adds all gradients. @return the gradient behind the magnitude, out x n: dy, or with DoRA f dy
  ConstMatrixView<Scalar> backward_parameters(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy,
                                              Cache& cache) {
    require_shape("LoraLinear::backward", "x", x, in_features(), x.cols());
    require_shape("LoraLinear::backward", "dy", dy, out_features(), x.cols());
    if (!enabled_) return dy;
    require_unmerged("backward");
    require_forward_pass(x.cols(), cache);
    base_.backward(x, dy, cache.base);
    const ConstMatrixView<Scalar> g = adapter_.backward_magnitude(dy, cache.adapter);
    adapter_.backward_factors(x, g, Scalar(1), cache.adapter);
    return g;
  }

  /// dx = W' dy + mask (A' z), and with DoRA + mask (W' (f - 1) dy).
  void backward_dropped(ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx, Cache& cache) const {
    auto& kept = cache.adapter;
    if (magnitude() == nullptr) {
      weight().backward(dy, dx);
      return adapter_.backward_input(dx, kept);
    }
    auto g = kept.magnitude->gradient.leftCols(dy.cols());  // out x n: f dy, from here (f - 1) dy
    g -= dy;
    weight().backward(g, dx);
    factors().expand_input(kept.z.leftCols(dy.cols()), dx);
    auto through = kept.scratch.leftCols(dy.cols());  // in x n
    through = kept.mask.leftCols(dy.cols()).cwiseProduct(dx);
    weight().backward(dy, dx);
    dx += through;
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
    if (copy.a == factors().a() && copy.b == factors().b()) return;
    weight().merge(scaling(), factors().b(), factors().a().transpose(), copy.weight);
    copy.a = factors().a();
    copy.b = factors().b();
  }

  void require_unmerged(const char* what) const {
    if (merged()) raise<StateError>(std::string("LoraLinear: ") + what + " needs unmerge() first");
  }

  static void require_cache(bool fits) {
    if (!fits) raise<StateError>("LoraLinear: the cache was made for another layer or plan");
  }

  void require_forward_pass(Index samples, const Cache& cache) const {
    if (cache.samples != samples || cache.owner != identity_) {
      raise<StateError>("LoraLinear::backward: a batch of " + std::to_string(samples) +
                        " samples does not follow a forward pass of as many through this layer "
                        "with this cache");
    }
  }

  /// What the merged plan has no place for; null if there is nothing.
  const char* unmergeable() const {
    if (dropout() > 0) return "dropout";
    if (magnitude() != nullptr) return "dora";
    return factors().blocks().is_whole() ? nullptr : "several blocks of outputs";
  }

  FrozenLinear<Frozen> base_;
  Adapter<Scalar> adapter_;
  bool enabled_ = true;
  Plan plan_ = Plan::automatic;
  Index samples_per_update_ = 0;                // 0: those of each batch
  std::optional<SharedWeight<Scalar>> merged_;  // W + s B A
  // One for a layer and its copies, which have W, s and all shapes in common.
  std::shared_ptr<const char> identity_ = std::make_shared<const char>();
};

template <FrozenWeight Frozen, RandomBits Generator>
LoraLinear(Frozen, const LoraOptions&, Generator&) -> LoraLinear<Frozen>;

}  // namespace loraplus
