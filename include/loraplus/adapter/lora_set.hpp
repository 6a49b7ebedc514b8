// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/set_input.hpp>
#include <loraplus/adapter/set_scopes.hpp>
#include <loraplus/adapter/set_terms.hpp>
#include <mutex>

namespace loraplus::inline v0_1 {

/// That the inputs of a LoraSet are patches of images, and how many groups the outputs have.
struct PatchGroups {
  Index groups = 1;  ///< of outputs, 1 if all see the same ranks
};

/// A frozen weight with any number of named adapters, of which some are active:
///
///     y_0 = W x + b0,   y_k = y_{k-1} + s_k (B_k A_k x + b_k),   y = y_n
///
/// over the active ones in their order; one with DoRA scales what is there then, y_k = f_k (y_k -
/// b0) + b0, with the norm of the frozen weight and itself alone, |W + s_k B_k A_k|. Training and
/// evaluation follow the one rule. Over a weight that looks up tokens it is an embedding too, see
/// LoraEmbeddingSet; on patches of images a convolution, see LoraConvSet.
///
/// `forward` is const and may run on many threads, each with a cache of its own, while others add,
/// replace, erase, activate or scale adapters: a pass computes with what there was when it began,
/// and keeps it alive. What is not safe is to train an adapter (backward, an optimizer's step)
/// while others compute with it: train a copy and `replace` it.
template <FrozenWeight Frozen>
class LoraSet {
 public:
  using Scalar = typename Frozen::Scalar;

  /// What a pass needs; it grows when other adapters come into use.
  struct Cache {
    std::shared_ptr<const char> owner;  ///< the identity of the set that made it
    Index largest_batch = 0;            ///< the samples that a pass may have
    detail::SetTerms<Scalar> terms;     ///< of the last pass, or by assignment
    std::shared_ptr<const detail::SetState<Scalar>> fixed;  ///< what the next pass sees, if any
    Index assigned = -1;        ///< samples with an adapter each; -1: the active ones are for all
    Index samples = -1;         ///< of the last forward pass that can be gone back through
    bool is_enabled = true;     ///< in that pass
    Matrix<Scalar> x;           ///< in x largest batch: the samples of one adapter
    Matrix<Scalar> y;           ///< out x largest batch
    std::vector<Index> tokens;  ///< the same of tokens
    bool has_x = true;          ///< false where all inputs are tokens
  };

  /// A merge that was prepared, and the state that it was prepared from.
  struct PreparedMerge {
    /// The adapters as they were.
    std::shared_ptr<const detail::SetState<Scalar>> from;
    /// The weight with some of them in it.
    std::shared_ptr<const detail::MergedAdapters<Scalar>> merged;
  };

  /// A weight without adapters yet.
  explicit LoraSet(Frozen weight)
      : weight_(std::move(weight)), shared_(std::make_unique<Shared>()) {}
  /// On patches of images: all adapters keep so many equal groups of outputs apart, and none is
  /// trained with dropout. See LoraConvSet.
  LoraSet(Frozen weight, PatchGroups patches) : LoraSet(std::move(weight)) {
    patch_groups_ = patches.groups;
  }
  /// The copy has adapters of its own; the frozen weight is shared if its copies share it.
  LoraSet(const LoraSet& other) : LoraSet(other.weight_) {
    patch_groups_ = other.patch_groups_;
    State copy = *other.state();
    copy.table.detach();
    shared_->state = std::make_shared<const State>(std::move(copy));
  }
  /// The same.
  LoraSet& operator=(const LoraSet& other) {
    if (this != &other) *this = LoraSet(other);
    return *this;
  }
  /// Caches made by the other are caches of this one.
  LoraSet(LoraSet&&) noexcept = default;
  /// The same.
  LoraSet& operator=(LoraSet&&) noexcept = default;
  ~LoraSet() = default;

  Index in_features() const { return weight_.in_features(); }
  Index out_features() const { return weight_.out_features(); }
  const Frozen& weight() const { return weight_; }

  /// A new adapter, drawn from the generator. The first one becomes active, later ones do not.
  /// @throws ArgumentError if the name is taken or an option is out of its range; the BiasMode must
  /// be none, for the bias belongs to the weight that all adapters share
  template <RandomBits Generator>
  void add(const std::string& name, const LoraOptions& options, Generator& generator) {
    if (options.bias != BiasMode::none) {
      raise<ArgumentError>("LoraSet: '" + name +
                           "' cannot train the bias of the weight, which all adapters share");
    }
    if (patch_groups_ == 0) return add(name, Adapter<Scalar>(weight_, options, generator));
    auto factors =
        LowRank<Scalar>::grouped(out_features(), in_features(), patch_groups_, options, generator);
    add(name, Adapter<Scalar>(weight_, std::move(factors), options));
  }

  /// An adapter that was made for this weight. @throws ArgumentError if the name is taken,
  /// ShapeError
  void add(const std::string& name, Adapter<Scalar> adapter) {
    auto made = checked(name, std::move(adapter));
    update([&](State& next) { next.table.add(name, std::move(made)); });
  }

  /// Another adapter under the name, of whatever rank: new passes use it, those under way go on
  /// with the old one. The scale stays.
  /// @throws ArgumentError if there is no such adapter, ShapeError, StateError if it is merged, or
  /// others are and the order counts, see merge
  void replace(const std::string& name, Adapter<Scalar> adapter) {
    auto made = checked(name, std::move(adapter));
    update([&](State& next) {
      next.require_not_merged(name);
      next.table.replace(name, std::move(made));
    });
  }

  /// If the adapter is the only active one, the first of those left, by name, becomes active.
  /// @throws ArgumentError if there is no such adapter, StateError if it is merged, or others are
  /// and the order counts, see merge
  void erase(const std::string& name) {
    update([&](State& next) {
      next.require_not_merged(name);
      next.table.erase(name);
    });
  }

  /// All adapters, sorted by name.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : state()->table.entries()) {
      names.push_back(entry.name);
    }
    return names;
  }

  /// Whether there is an adapter of this name.
  bool contains(std::string_view name) const { return state()->table.contains(name); }

  /// The adapter of this name, to be looked at, or trained while no other thread computes with it
  /// and it is not merged. Another one in its place is for `replace`.
  /// @throws ArgumentError that lists the names there are
  std::shared_ptr<Adapter<Scalar>> at(std::string_view name) const {
    return state()->table.at(name).adapter;
  }

  /// The active adapters, in the order in which they are applied.
  std::vector<std::string> active() const { return state()->table.active(); }

  /// From the next pass on these are active, in this order; none leaves the frozen weight.
  /// @throws ArgumentError if one is unknown or stands twice, StateError if others are merged and
  /// the order counts, see merge; nothing is changed then
  void set_active(std::vector<std::string> names) {
    update([&](State& next) { next.table.set_active(std::move(names)); });
  }

  /// Disabled, y = W x + b0, whatever is active or merged.
  void set_enabled(bool enabled) {
    update([&](State& next) { next.table.set_enabled(enabled); });
  }
  bool enabled() const { return state()->table.enabled(); }

  /// What multiplies alpha / r of this adapter. @throws ArgumentError if there is no such adapter
  double scale(std::string_view name) const { return state()->table.at(name).scale; }
  /// @param scale finite; 1 is that of construction @throws ArgumentError, StateError if it is
  /// merged
  void set_scale(const std::string& name, double scale) {
    update([&](State& next) {
      next.require_not_merged(name);
      next.table.set_scale(name, scale);
    });
  }

  /// What multiplies the scaling of all.
  double common_scale() const { return state()->table.common_scale(); }
  /// @throws ArgumentError unless it is finite, StateError if an adapter is merged
  void set_common_scale(double scale) {
    update([&](State& next) {
      if (next.merged && scale != next.table.common_scale()) {
        raise<StateError>("LoraSet: adapters that are merged cannot be scaled");
      }
      next.table.set_common_scale(scale);
    });
  }

  /// From here on the weight has these adapters in it, in addition to those it has. They count
  /// whether they are active or not; active ones that are not among them are added by each pass.
  /// The frozen weight is left as it is, so `unmerge` is exact.
  ///
  /// With DoRA the order counts, for it scales what is there before it: then only the first of the
  /// active adapters can be merged, in their order.
  /// @throws ArgumentError if one is unknown, NonFiniteError that names the first by which the
  /// weight or the bias would not be finite, StateError for another order with DoRA, or a common
  /// scale that is not 1; nothing is changed then
  void merge(const std::vector<std::string>& names) requires DenseWeight<Frozen> {
    update([&](State& next) {
      if (auto made = detail::merged_with(weight_, next, names, "LoraSet"))
        next.merged = std::move(made);
    });
  }

  /// What `merge` would put in its place: to let several sets merge together or not at all.
  /// @param where begins the message of an error @throws as merge, but for the order
  PreparedMerge prepare_merge(const std::vector<std::string>& names,
                              std::string_view where) const requires DenseWeight<Frozen> {
    PreparedMerge prepared{state(), nullptr};
    prepared.merged = detail::merged_with(weight_, *prepared.from, names, where);
    return prepared;
  }
  /// Puts in its place what was prepared.
  /// @throws StateError if the set was changed since, or for another order with DoRA
  void commit_merge(PreparedMerge prepared) {
    update([&](State& next) {
      if (prepared.from != state()) {
        raise<StateError>("LoraSet: the set was changed after this merge was prepared");
      }
      next.merged = std::move(prepared.merged);
    });
  }

  /// Forgets what was merged: the weight is the frozen one, bit for bit.
  void unmerge() {
    update([](State& next) { next.merged.reset(); });
  }

  /// The names of the adapters that are merged.
  std::vector<std::string> merged() const {
    const auto now = state();
    return now->merged ? now->merged->names : std::vector<std::string>();
  }

  Cache make_cache(Index largest_batch) const {
    Cache cache;
    cache.owner = shared_->identity;
    cache.largest_batch = largest_batch;
    return cache;
  }

  /// An adapter for each sample of the next batches with this cache, base_adapter for none, or for
  /// each so many columns of them; with no names the active ones are for all again. The names are
  /// resolved here: the passes compute with these adapters and their scales, whatever is erased,
  /// replaced or scaled in between; the common scale, and whether the set is enabled, are those of
  /// the pass.
  /// @throws ArgumentError if a name is unknown, ShapeError if there are too many, StateError if
  /// adapters are merged; the active ones are for all then
  void assign(Cache& cache, std::span<const std::string> names, Index columns = 1) const {
    require_cache(cache);
    cache.samples = -1;
    cache.assigned = -1;
    require_argument(columns >= 1, "LoraSet::assign", "columns must be at least 1",
                     static_cast<double>(columns));
    if (names.empty()) return;
    const auto now = state();
    if (now->merged) {
      raise<StateError>("LoraSet: samples cannot have adapters of their own while some are merged");
    }
    const Index samples = columns * static_cast<Index>(names.size());
    require_batch_fits("LoraSet::assign", samples, cache.largest_batch);
    detail::use_assigned(now->table, names, columns, cache.terms);
    cache.assigned = samples;
    cache.y.resize(out_features(), cache.largest_batch);
    if (cache.has_x) cache.x.resize(in_features(), cache.largest_batch);
    cache.tokens.reserve(static_cast<std::size_t>(cache.largest_batch));
  }

  /// What there is now is what the next pass with this cache sees: several sets can so be made to
  /// agree.
  /// @throws StateError if the cache was made by another set
  void fix(Cache& cache) const {
    require_cache(cache);
    cache.fixed = state();
  }

  /// Evaluation without a generator, training with one. @param x in x n, @param y out x n
  /// @throws ShapeError; NonFiniteError if the scalings of an adapter have a product that is not
  /// finite; StateError for training while merged, with an adapter for each sample, or
  /// with dropout and DoRA in one adapter, which LoraLinear trains
  template <RandomBits... Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator&... generator) const requires(sizeof...(Generator) <= 1) {
    require_distinct("LoraSet::forward", x, y);
    forward_batch(x, y, cache, generator...);
  }

  /// The set as an embedding: x has a single 1 in each column, in the row of a token.
  /// @param tokens n of them, @param y out x n
  /// @throws ArgumentError that names a token that is not in the vocabulary, ShapeError
  void forward(std::span<const Index> tokens, MatrixView<Scalar> y,
               Cache& cache) const requires LookupWeight<Frozen> {
    forward_batch(tokens, y, cache);
  }

  /// Adds the gradients of the adapters of the forward pass. @param x in x n, @param dy out x n
  /// @throws ShapeError, StateError if n is not that of a forward pass without merged adapters and
  /// without assignment
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& cache) {
    backward_batch(x, dy, cache);
  }

  /// The same, and dx. @param dx in x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx,
                Cache& cache) {
    require_shape("LoraSet::backward", "dx", dx, in_features(), x.cols());
    require_distinct("LoraSet::backward", dy, dx);
    weight_.backward(backward_batch(x, dy, cache), dx);
    if (!cache.is_enabled) return;
    for (auto& term : cache.terms) {
      term.entry.adapter->backward_input(dx, term.cache);
    }
  }

  /// Adds the gradients of an embedding. @param tokens n of them, @param dy out x n,
  /// @param padding a token that the adapters learn nothing of in A, or -1
  void backward(std::span<const Index> tokens, ConstMatrixView<Scalar> dy, Cache& cache,
                Index padding = -1) requires LookupWeight<Frozen> {
    backward_batch(tokens, dy, cache, padding);
  }

  /// Shows the parameters of the active adapters, as anna.lora_A.
  /// @param factors by which names and roles it shows A and B @throws StateError if one is merged
  template <typename Visitor>
  void visit_parameters(Visitor&& visit, const FactorNames& factors = {}) {
    const auto now = state();
    if (now->merged) raise<StateError>("LoraSet: visit_parameters needs unmerge() first");
    for (const std::string& name : now->table.active()) {
      now->table.at(name).adapter->visit_parameters(detail::visitor_of_part<Scalar>(name, visit),
                                                    factors);
    }
  }

 private:
  using State = detail::SetState<Scalar>;

  struct Shared {
    std::mutex writing;   // held while a change is made
    std::mutex pointing;  // held while `state` is read or set: a pass never waits for a merge
    std::shared_ptr<const State> state = std::make_shared<const State>();
    std::shared_ptr<const char> identity = std::make_shared<const char>();  // caches keep it
  };

  std::shared_ptr<const State> state() const {
    const std::lock_guard lock(shared_->pointing);
    return shared_->state;
  }

  /// Puts a changed copy in the place of the state, if `change` does not throw and what is merged
  /// still comes first where the order counts.
  template <typename Change>
  void update(Change&& change) {
    const std::lock_guard one_at_a_time(shared_->writing);
    auto next = std::make_shared<State>(*state());
    change(*next);
    next->require_order();
    const std::lock_guard lock(shared_->pointing);
    shared_->state = std::move(next);
  }

  std::shared_ptr<Adapter<Scalar>> checked(const std::string& name, Adapter<Scalar> adapter) const {
    adapter.require_fits("LoraSet: '" + name + "'", out_features(), in_features());
    if (patch_groups_ > 0) {
      adapter.require_groups("LoraSet: '" + name + "'", patch_groups_);
    }
    adapter.factors().release_gradients();
    return std::make_shared<Adapter<Scalar>>(std::move(adapter));
  }

  void require_cache(const Cache& cache) const {
    if (cache.owner != shared_->identity) {
      raise<StateError>("LoraSet: the cache was made by another set");
    }
  }

  void require_input(const char* where, ConstMatrixView<Scalar> x) const {
    require_shape(where, "x", x, in_features(), x.cols());
  }
  void require_input(const char* where, std::span<const Index> tokens) const {
    require_tokens(where, tokens, in_features());
  }

  /// @param input x in x n, or n tokens
  template <typename Input, RandomBits... Generator>
  void forward_batch(Input input, MatrixView<Scalar> y, Cache& cache,
                     Generator&... generator) const {
    constexpr bool is_training = sizeof...(Generator) == 1;
    const Index n = detail::samples_of(input);
    require_input("LoraSet::forward", input);
    require_shape("LoraSet::forward", "y", y, out_features(), n);
    require_cache(cache);
    require_batch_fits("LoraSet::forward", n, cache.largest_batch);
    const auto now = cache.fixed ? std::move(cache.fixed) : state();
    cache.samples = -1;
    cache.is_enabled = now->table.enabled();
    if (!cache.is_enabled) return detail::product(weight_, input, y);
    if (is_training && cache.assigned >= 0) {
      raise<StateError>("LoraSet: samples with adapters of their own are for evaluation only");
    }
    if (is_training) now->require_trainable(patch_groups_ > 0);
    if (cache.assigned >= 0) return forward_assigned(*now, input, y, cache);
    detail::use_active(*now, cache.largest_batch, cache.terms);
    if (now->merged) {
      detail::product(now->merged->weight, input, y);
    } else {
      detail::product(weight_, input, y);
      cache.samples = n;
    }
    for (auto& term : cache.terms) {
      term.entry.adapter->project(input, term.scale, term.cache, generator...);
      term.entry.adapter->add(weight_, y, term.scale, term.cache);
    }
  }

  /// The product of the weight for all samples at once, then each adapter for its own.
  template <typename Input>
  void forward_assigned(const State& now, Input input, MatrixView<Scalar> y, Cache& cache) const {
    if (detail::samples_of(input) != cache.assigned) {
      raise<ShapeError>(
          "LoraSet::forward: a batch of " + std::to_string(detail::samples_of(input)) +
          " samples, but adapters were assigned to " + std::to_string(cache.assigned));
    }
    detail::product(weight_, input, y);
    for (auto& term : cache.terms) {
      const Input part = detail::gather(input, term.samples, cache);
      auto y_part = cache.y.leftCols(detail::samples_of(part));  // out x samples of the adapter
      for (std::size_t i = 0; i < term.samples.size(); ++i) {
        y_part.col(static_cast<Index>(i)) = y.col(term.samples[i]);
      }
      term.scale = now.table.scale_of(term.entry);
      term.entry.adapter->project(part, term.scale, term.cache);
      term.entry.adapter->add(weight_, y_part, term.scale, term.cache);
      for (std::size_t i = 0; i < term.samples.size(); ++i) {
        y.col(term.samples[i]) = y_part.col(static_cast<Index>(i));
      }
    }
  }

  /// From the last adapter to the first. @param input x in x n, or n tokens
  /// @return the gradient of W x + b0, out x n
  template <typename Input, typename... Padding>
  ConstMatrixView<Scalar> backward_batch(Input input, ConstMatrixView<Scalar> dy, Cache& cache,
                                         Padding... padding) {
    const Index n = detail::samples_of(input);
    require_input("LoraSet::backward", input);
    require_shape("LoraSet::backward", "dy", dy, out_features(), n);
    require_cache(cache);
    if (!cache.is_enabled) return dy;
    if (cache.samples != n) {
      raise<StateError>(
          "LoraSet::backward: a batch of " + std::to_string(n) +
          " samples does not follow a forward pass of as many with this cache, without "
          "merged adapters and without assignment");
    }
    return backward_terms(input, dy, cache, cache.terms.size(), padding...);
  }

  /// The last of so many terms, and then those before it.
  template <typename Input, typename... Padding>
  ConstMatrixView<Scalar> backward_terms(Input input, ConstMatrixView<Scalar> dy, Cache& cache,
                                         std::size_t count, Padding... padding) {
    if (count == 0) return dy;
    auto& term = cache.terms[count - 1];
    const ConstMatrixView<Scalar> g = term.entry.adapter->backward_magnitude(dy, term.cache);
    term.entry.adapter->backward_factors(input, g, term.scale, term.cache, padding...);
    return backward_terms(input, g, cache, count - 1, padding...);
  }

  Frozen weight_;
  Index patch_groups_ = 0;  // of outputs, on patches; 0: the inputs are no patches
  std::unique_ptr<Shared> shared_;
};

template <FrozenWeight Frozen>
LoraSet(Frozen) -> LoraSet<Frozen>;

}  // namespace loraplus
