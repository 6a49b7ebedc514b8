// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/adapter_table.hpp>
#include <loraplus/adapter/set_scopes.hpp>
#include <loraplus/frozen/shared_weight.hpp>
#include <mutex>
#include <span>

namespace loraplus {

/// A frozen weight with any number of named adapters, of which some are active:
///
///     y_0 = W x + b0,   y_k = y_{k-1} + s_k (B_k A_k x + b_k),   y = y_n
///
/// over the active ones in their order; one with DoRA scales what is there then, y_k = f_k (y_k -
/// b0) + b0, with the norm of the frozen weight and itself alone, |W + s_k B_k A_k|. Training and
/// evaluation follow the one rule.
///
/// `forward` is const and may run on many threads, each with a cache of its own, while others add,
/// replace, erase, activate or scale adapters: a pass computes with what there was when it began,
/// and keeps it alive. What is not safe is to train an adapter (backward, an optimizer's step)
/// while others compute with it: train a copy and `replace` it.
template <FrozenWeight Frozen>
class LoraSet {
  struct State;

 public:
  using Scalar = typename Frozen::Scalar;

  /// What a pass needs; it grows when other adapters come into use.
  struct Cache {
    const void* owner = nullptr;  // the set that made it
    struct Term {
      NamedAdapter<Scalar> entry;
      Scalar scale;
      typename Adapter<Scalar>::Cache cache;
      std::vector<Index> samples = {};  // of the batch, that have this adapter by assignment
    };
    Index largest_batch = 0;
    std::vector<Term> terms;             // of the last pass, or by assignment
    std::shared_ptr<const State> fixed;  // what the next passes see, if that was fixed
    Index assigned = -1;     // samples with an adapter each; -1: the active ones are for all
    Index samples = -1;      // of the last forward pass that can be gone back through
    bool is_enabled = true;  // in that pass
    Matrix<Scalar> x, y;     // in, out x largest batch: the samples of one adapter
  };

  explicit LoraSet(Frozen weight)
      : weight_(std::move(weight)), shared_(std::make_unique<Shared>()) {}
  /// The copy has adapters of its own; the frozen weight is shared if its copies share it.
  LoraSet(const LoraSet& other) : LoraSet(other.weight_) {
    State copy = *other.state();
    copy.table.detach();
    shared_->state = std::make_shared<const State>(std::move(copy));
  }
  LoraSet& operator=(const LoraSet& other) {
    if (this != &other) *this = LoraSet(other);
    return *this;
  }
  LoraSet(LoraSet&&) noexcept = default;
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
      throw ArgumentError("LoraSet: '" + name +
                          "' cannot train the bias of the weight, which all adapters share");
    }
    add(name, Adapter<Scalar>(weight_, options, generator));
  }

  /// An adapter that was made for this weight. @throws ArgumentError if the name is taken,
  /// ShapeError
  void add(const std::string& name, Adapter<Scalar> adapter) {
    auto made = checked(name, std::move(adapter));
    update([&](State& next) { next.table.add(name, std::move(made)); });
  }

  /// Another adapter under the name, of whatever rank: new passes use it, those under way go on
  /// with the old one. The scale stays.
  /// @throws ArgumentError if there is no such adapter, StateError if it is merged, ShapeError
  void replace(const std::string& name, Adapter<Scalar> adapter) {
    auto made = checked(name, std::move(adapter));
    update([&](State& next) {
      next.require_not_merged(name);
      next.table.replace(name, std::move(made));
    });
  }

  /// If the adapter is the only active one, the first of those left, by name, becomes active.
  /// @throws ArgumentError if there is no such adapter, StateError if it is merged
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

  bool contains(std::string_view name) const { return state()->table.contains(name); }

  /// The adapter of this name, to be looked at, or trained while no other thread computes with it.
  /// @throws ArgumentError that lists the names there are
  std::shared_ptr<Adapter<Scalar>> at(std::string_view name) const {
    return state()->table.at(name).adapter;
  }

  std::vector<std::string> active() const { return state()->table.active(); }

  /// From the next pass on these are active, in this order; none leaves the frozen weight.
  /// @throws ArgumentError if one is unknown or stands twice, StateError if others are merged and
  /// the order counts, see merge; nothing is changed then
  void set_active(std::vector<std::string> names) {
    update([&](State& next) {
      next.table.set_active(std::move(names));
      if (next.merged) require_order(next.table, next.merged->names);
    });
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
        throw StateError("LoraSet: adapters that are merged cannot be scaled");
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
      std::vector<std::string> all = next.merged ? next.merged->names : std::vector<std::string>();
      for (const std::string& name : names) {
        if (std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
      }
      if (next.table.common_scale() != 1) {
        throw StateError("LoraSet: adapters with a common scale cannot be merged");
      }
      require_order(next.table, all);
      next.merged = make_merged(next.table, std::move(all));
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
    cache.owner = shared_.get();
    cache.largest_batch = largest_batch;
    return cache;
  }

  /// An adapter for each sample of the next batches with this cache, base_adapter for none; with no
  /// names the active ones are for all again. The names are resolved here: the passes compute with
  /// these adapters and their scales, whatever is erased, replaced or scaled in between; the common
  /// scale, and whether the set is enabled, are those of the pass.
  /// @throws ArgumentError if a name is unknown, ShapeError if there are too many, StateError if
  /// adapters are merged; the active ones are for all then
  void assign(Cache& cache, std::span<const std::string> names) const {
    require_cache(cache);
    cache.assigned = -1;
    cache.terms.clear();
    if (names.empty()) return;
    const auto now = cache.fixed ? cache.fixed : state();
    if (now->merged) {
      throw StateError("LoraSet: samples cannot have adapters of their own while some are merged");
    }
    require_batch_fits("LoraSet::assign", static_cast<Index>(names.size()), cache.largest_batch);
    cache.terms = assigned_terms(now->table, names);
    cache.assigned = static_cast<Index>(names.size());
    cache.x.resize(in_features(), cache.largest_batch);
    cache.y.resize(out_features(), cache.largest_batch);
  }

  /// What there is now is what the next passes with this cache see, until `release`: several sets
  /// can so be made to agree.
  void fix(Cache& cache) const { cache.fixed = state(); }
  void release(Cache& cache) const { cache.fixed.reset(); }

  /// Evaluation without a generator, training with one. @param x in x n, @param y out x n
  /// @throws ShapeError; StateError for training while merged, with an adapter for each sample, or
  /// with dropout and DoRA in one adapter, which LoraLinear trains
  template <RandomBits... Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator&... generator) const requires(sizeof...(Generator) <= 1) {
    constexpr bool is_training = sizeof...(Generator) == 1;
    require_shape("LoraSet::forward", "x", x, in_features(), x.cols());
    require_shape("LoraSet::forward", "y", y, out_features(), x.cols());
    require_distinct("LoraSet::forward", x, y);
    require_cache(cache);
    require_batch_fits("LoraSet::forward", x.cols(), cache.largest_batch);
    const auto now = cache.fixed ? cache.fixed : state();
    cache.samples = -1;
    cache.is_enabled = now->table.enabled();
    if (!cache.is_enabled) return weight_.forward(x, y);
    if (is_training) require_trainable(*now, cache);
    if (cache.assigned >= 0) return forward_assigned(*now, x, y, cache);
    use_active(*now, cache);
    forward_weight(*now, x, y);
    for (auto& term : cache.terms) {
      term.entry.adapter->project(x, term.scale, term.cache, generator...);
      term.entry.adapter->add(weight_, y, term.scale, term.cache);
    }
    if (!now->merged) cache.samples = x.cols();
  }

  /// Adds the gradients of the adapters of the forward pass. @param x in x n, @param dy out x n
  /// @throws ShapeError, StateError if n is not that of a forward pass without merged adapters and
  /// without assignment
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& cache) {
    backward_parameters(x, dy, cache);
  }

  /// The same, and dx. @param dx in x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx,
                Cache& cache) {
    require_shape("LoraSet::backward", "dx", dx, in_features(), x.cols());
    require_distinct("LoraSet::backward", dy, dx);
    weight_.backward(backward_parameters(x, dy, cache), dx);
    if (!cache.is_enabled) return;
    for (auto& term : cache.terms) {
      term.entry.adapter->backward_input(dx, term.cache);
    }
  }

  /// Shows the parameters of the active adapters, <adapter>.lora_A, ...
  /// @throws StateError if one is merged
  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    const auto now = state();
    if (now->merged) throw StateError("LoraSet: visit_parameters needs unmerge() first");
    for (const std::string& name : now->table.active()) {
      visit_part(name, *now->table.at(name).adapter, visit);
    }
  }

 private:
  struct Merged {
    SharedWeight<Scalar> weight;
    std::vector<std::string> names;
  };

  /// Never changed once it is shared: who has it sees one state of all.
  struct State {
    AdapterTable<Scalar> table;
    std::shared_ptr<const Merged> merged;

    bool is_merged(const std::string& name) const {
      return merged &&
             std::find(merged->names.begin(), merged->names.end(), name) != merged->names.end();
    }
    void require_not_merged(const std::string& name) const {
      if (is_merged(name)) {
        throw StateError("LoraSet: '" + name + "' is merged and cannot be changed");
      }
    }
  };

  struct Shared {
    std::mutex writing;   // held while a change is made
    std::mutex pointing;  // held while `state` is read or set: a pass never waits for a merge
    std::shared_ptr<const State> state = std::make_shared<const State>();
  };

  std::shared_ptr<const State> state() const {
    const std::lock_guard lock(shared_->pointing);
    return shared_->state;
  }

  /// Puts a changed copy in the place of the state, if `change` does not throw.
  template <typename Change>
  void update(Change&& change) {
    const std::lock_guard one_at_a_time(shared_->writing);
    auto next = std::make_shared<State>(*state());
    change(*next);
    const std::lock_guard lock(shared_->pointing);
    shared_->state = std::move(next);
  }

  std::shared_ptr<Adapter<Scalar>> checked(const std::string& name, Adapter<Scalar> adapter) const {
    const LowRank<Scalar>& factors = adapter.factors();
    if (factors.in_features() != in_features() || factors.out_features() != out_features()) {
      throw ShapeError("LoraSet: '" + name + "' is an adapter for " +
                       detail::shape_text(factors.out_features(), factors.in_features()) +
                       ", the weight is " + detail::shape_text(out_features(), in_features()));
    }
    adapter.factors().release_gradients();
    return std::make_shared<Adapter<Scalar>>(std::move(adapter));
  }

  std::shared_ptr<const Merged> make_merged(const AdapterTable<Scalar>& table,
                                            std::vector<std::string> names) const {
    const Matrix<Scalar> w0 = loraplus::to_matrix(weight_);
    Matrix<Scalar> w = w0;
    Vector<Scalar> extra = Vector<Scalar>::Zero(out_features());
    for (const std::string& name : names) {
      const auto& entry = table.at(name);
      entry.adapter->merge_into(w0, w, extra, static_cast<Scalar>(table.scale_of(entry)));
      if (!w.allFinite() || !extra.allFinite()) {
        throw NonFiniteError("LoraSet: with '" + name + "' the merged weight is not finite");
      }
    }
    extra += loraplus::bias_of(weight_);
    return std::make_shared<const Merged>(
        Merged{SharedWeight<Scalar>(std::move(w), std::move(extra)), std::move(names)});
  }

  void require_cache(const Cache& cache) const {
    if (cache.owner != shared_.get()) {
      throw StateError("LoraSet: the cache was made by another set");
    }
  }

  /// Where DoRA is among them, what is merged comes first among the active adapters.
  static void require_order(const AdapterTable<Scalar>& table,
                            const std::vector<std::string>& merged) {
    const auto has_dora = [&](const std::string& name) {
      return table.at(name).adapter->magnitude() != nullptr;
    };
    const std::vector<std::string>& active = table.active();
    if (std::none_of(merged.begin(), merged.end(), has_dora) &&
        std::none_of(active.begin(), active.end(), has_dora)) {
      return;
    }
    if (merged.size() <= active.size() &&
        std::equal(merged.begin(), merged.end(), active.begin())) {
      return;
    }
    throw StateError(
        "LoraSet: with DoRA the order counts, only the first of the active adapters can be merged");
  }

  static void require_trainable(const State& now, const Cache& cache) {
    if (cache.assigned >= 0) {
      throw StateError("LoraSet: samples with adapters of their own are for evaluation only");
    }
    if (now.merged) throw StateError("LoraSet: a training forward pass needs unmerge() first");
    for (const std::string& name : now.table.active()) {
      const Adapter<Scalar>& adapter = *now.table.at(name).adapter;
      if (adapter.dropout() > 0 && adapter.magnitude() != nullptr) {
        throw StateError("LoraSet: '" + name +
                         "' has dropout and DoRA, which LoraLinear trains, not a set");
      }
    }
  }

  void forward_weight(const State& now, ConstMatrixView<Scalar> x, MatrixView<Scalar> y) const {
    if (now.merged) return now.merged->weight.forward(x, y);
    weight_.forward(x, y);
  }

  /// The terms of the cache are the active adapters that are not merged; what fits is kept.
  void use_active(const State& now, Cache& cache) const {
    std::size_t count = 0;
    for (const std::string& name : now.table.active()) {
      if (now.is_merged(name)) continue;
      const auto& entry = now.table.at(name);
      if (count == cache.terms.size()) cache.terms.push_back({});
      auto& term = cache.terms[count++];
      term.scale = static_cast<Scalar>(now.table.scale_of(entry));
      if (term.entry.adapter == entry.adapter) continue;
      term.entry = entry;
      term.cache = entry.adapter->make_cache(cache.largest_batch);
    }
    cache.terms.resize(count);
  }

  /// One term for each adapter that is named, with its samples.
  static std::vector<typename Cache::Term> assigned_terms(const AdapterTable<Scalar>& table,
                                                          std::span<const std::string> names) {
    std::vector<std::pair<const NamedAdapter<Scalar>*, Index>> chosen;
    for (std::size_t sample = 0; sample < names.size(); ++sample) {
      if (names[sample] == base_adapter) continue;
      chosen.emplace_back(&table.at(names[sample]), static_cast<Index>(sample));
    }
    std::sort(chosen.begin(), chosen.end());
    std::vector<typename Cache::Term> terms;
    for (const auto& [entry, sample] : chosen) {
      if (terms.empty() || terms.back().entry.adapter != entry->adapter) {
        terms.push_back({*entry, Scalar(1), {}, {}});  // each pass scales it
      }
      terms.back().samples.push_back(sample);
    }
    for (auto& term : terms) {
      term.cache = term.entry.adapter->make_cache(static_cast<Index>(term.samples.size()));
    }
    return terms;
  }

  /// The product of the weight for all samples at once, then each adapter for its own.
  void forward_assigned(const State& now, ConstMatrixView<Scalar> x, MatrixView<Scalar> y,
                        Cache& cache) const {
    if (x.cols() != cache.assigned) {
      throw ShapeError("LoraSet::forward: a batch of " + std::to_string(x.cols()) +
                       " samples, but adapters were assigned to " + std::to_string(cache.assigned));
    }
    weight_.forward(x, y);
    for (auto& term : cache.terms) {
      const auto count = static_cast<Index>(term.samples.size());
      auto x_part = cache.x.leftCols(count);  // in x samples of the adapter
      auto y_part = cache.y.leftCols(count);  // out x samples of the adapter
      for (Index i = 0; i < count; ++i) {
        x_part.col(i) = x.col(term.samples[static_cast<std::size_t>(i)]);
        y_part.col(i) = y.col(term.samples[static_cast<std::size_t>(i)]);
      }
      term.scale = static_cast<Scalar>(now.table.scale_of(term.entry));
      term.entry.adapter->project(x_part, term.scale, term.cache);
      term.entry.adapter->add(weight_, y_part, term.scale, term.cache);
      for (Index i = 0; i < count; ++i) {
        y.col(term.samples[static_cast<std::size_t>(i)]) = y_part.col(i);
      }
    }
  }

  /// From the last adapter to the first. @return the gradient of W x + b0, out x n
  ConstMatrixView<Scalar> backward_parameters(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy,
                                              Cache& cache) {
    require_shape("LoraSet::backward", "x", x, in_features(), x.cols());
    require_shape("LoraSet::backward", "dy", dy, out_features(), x.cols());
    if (!cache.is_enabled) return dy;
    if (cache.samples != x.cols()) {
      throw StateError(
          "LoraSet::backward: a batch of " + std::to_string(x.cols()) +
          " samples does not follow a forward pass of as many with this cache, without "
          "merged adapters and without assignment");
    }
    return backward_terms(x, dy, cache, cache.terms.size());
  }

  /// The last of so many terms, and then those before it.
  ConstMatrixView<Scalar> backward_terms(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy,
                                         Cache& cache, std::size_t count) {
    if (count == 0) return dy;
    auto& [entry, scale, kept, samples] = cache.terms[count - 1];
    const ConstMatrixView<Scalar> g = entry.adapter->backward_magnitude(dy, kept);
    entry.adapter->backward_factors(x, g, scale, kept);
    return backward_terms(x, g, cache, count - 1);
  }

  Frozen weight_;
  std::unique_ptr<Shared> shared_;
};

}  // namespace loraplus
