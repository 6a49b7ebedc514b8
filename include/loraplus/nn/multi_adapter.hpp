// SPDX-License-Identifier: MIT
//
// Many adapters over one frozen network: for each user, task or sample its own.
#pragma once

#include <loraplus/adapter/lora_set.hpp>
#include <loraplus/frozen/same_weight.hpp>
#include <loraplus/nn/adapt.hpp>
#include <map>
#include <mutex>

namespace loraplus::inline v0_1 {

/// A frozen network with any number of named adapters, each of which reaches over all of its layers
/// or some. It is a LoraSet for each layer, kept in agreement: an adapter is added, replaced,
/// erased, activated, scaled or merged in all layers at once, and a pass, which may run on many
/// threads at the same time, sees it in all or in none. Adapters are trained by themselves, as an
/// AdaptedMlp.
template <FrozenWeight Weight>
class MultiAdapterMlp {
  using Layers = Mlp<LoraSet<Weight>>;

 public:
  using Scalar = typename Weight::Scalar;
  /// Of the network; one for each thread.
  struct Cache {
    typename Layers::Cache layers;  ///< one of each layer
    Index largest_batch = 0;        ///< the samples that a pass may have
  };

  /// The frozen weights are shared with the network (and not copied if they are views or shared).
  explicit MultiAdapterMlp(const FrozenMlp<Weight>& base)
      : layers_(sets(base)), mutex_(std::make_unique<std::mutex>()) {}

  Index in_features() const { return layers_.in_features(); }
  Index out_features() const { return layers_.out_features(); }
  /// The layers; to be changed through this network only.
  const Layers& layers() const { return layers_; }

  /// The adapters of a network that was adapted from the same base; they are copied. A layer whose
  /// adapter is disabled counts as one without, as in `merged`. After an
  /// initialisation that changed the weights (PiSSA, ...) it is to_plain that gives such a network.
  /// @throws ArgumentError if the name is taken, the layers are called differently, or one is
  /// trained in full, has a trained bias, which belong to a network and not to an adapter, or
  /// stands on another frozen weight (its product with a vector differs by more than 1e-4 of its
  /// size); ShapeError. Nothing is changed then
  void add(const std::string& name, const AdaptedMlp<Weight>& adapted) {
    change(name, adapted, false);
  }

  /// The same in the place of the adapter of this name, of whatever ranks and layers. Its scale
  /// stays.
  /// @throws as add, ArgumentError if there is none, StateError if it is merged, or is active, has
  /// DoRA and comes before merged ones
  void replace(const std::string& name, const AdaptedMlp<Weight>& adapted) {
    change(name, adapted, true);
  }

  /// If it is the only active one, the first of those left, by name, becomes active.
  /// @throws ArgumentError if there is no such adapter, StateError if it is merged, or the one that
  /// would become active cannot, see merge; nothing is changed then
  void erase(const std::string& name) {
    const std::lock_guard lock(*mutex_);
    require_not_merged(name);
    Names active = active_;
    std::erase(active, name);
    if (active.empty() && !active_.empty() && scales_.size() > 1) {
      const auto first = scales_.begin();
      active = {first->first == name ? std::next(first)->first : first->first};
    }
    require_order(active, merged_);
    activate(std::move(active));
    scales_.erase(name);
    for (auto& stage : layers_.stages()) {
      if (stage.layer.contains(name)) stage.layer.erase(name);  // it is not active there any more
    }
  }

  /// A copy of one adapter as a network of its own over the same weights, without its scale here:
  /// to be trained on, and given back by `replace`, or to be saved.
  /// @throws ArgumentError if there is no such adapter
  AdaptedMlp<Weight> adapted(const std::string& name) const {
    const std::lock_guard lock(*mutex_);
    require_known(name);
    std::vector<typename AdaptedMlp<Weight>::Stage> stages;
    for (const auto& stage : layers_.stages()) {
      const Weight& weight = stage.layer.weight();
      if (stage.layer.contains(name)) {
        stages.push_back(
            {stage.name, LoraLinear<Weight>(weight, *stage.layer.at(name)), stage.activation});
      } else {
        stages.push_back({stage.name, FrozenLinear<Weight>(weight), stage.activation});
      }
    }
    return AdaptedMlp<Weight>(std::move(stages));
  }

  /// All adapters, sorted by name.
  std::vector<std::string> names() const {
    const std::lock_guard lock(*mutex_);
    Names names;
    for (const auto& [name, scale] : scales_) {
      names.push_back(name);
    }
    return names;
  }

  /// The active adapters, in the order in which they are applied.
  std::vector<std::string> active() const {
    const std::lock_guard lock(*mutex_);
    return active_;
  }

  /// From the next pass on these are active, in this order; none leaves the frozen network.
  /// @throws ArgumentError if one is unknown or stands twice, StateError if others are merged and
  /// the order counts, see merge; nothing is changed then
  void set_active(const std::vector<std::string>& names) {
    const std::lock_guard lock(*mutex_);
    for (auto name = names.begin(); name != names.end(); ++name) {
      require_known(*name);
      if (std::find(names.begin(), name, *name) != name) {
        raise<ArgumentError>("MultiAdapterMlp: '" + *name + "' cannot be active twice");
      }
    }
    require_order(names, merged_);
    activate(names);
  }

  bool enabled() const { return layers_.stages()[0].layer.enabled(); }
  /// Disabled, it computes as the frozen network.
  void set_enabled(bool enabled) {
    const std::lock_guard lock(*mutex_);
    for (auto& stage : layers_.stages()) {
      stage.layer.set_enabled(enabled);
    }
  }

  /// What multiplies the scaling of all adapters.
  double common_scale() const { return layers_.stages()[0].layer.common_scale(); }
  /// What multiplies the scaling of all adapters.
  /// @throws ArgumentError unless it is finite, StateError if an adapter is merged
  void set_common_scale(double scale) {
    const std::lock_guard lock(*mutex_);
    if (!merged_.empty() && scale != common_scale()) {
      raise<StateError>("MultiAdapterMlp: adapters that are merged cannot be scaled");
    }
    require_finite_scale(scale);
    for (auto& stage : layers_.stages()) {
      stage.layer.set_common_scale(scale);
    }
  }

  /// What multiplies the scaling of this adapter. @throws ArgumentError if there is none
  double scale(const std::string& name) const {
    const std::lock_guard lock(*mutex_);
    require_known(name);
    return scales_.at(name);
  }
  /// @param scale finite; 1 is that of construction, and it is not cumulative
  /// @throws ArgumentError, StateError if the adapter is merged
  void set_scale(const std::string& name, double scale) {
    const std::lock_guard lock(*mutex_);
    require_not_merged(name);
    require_finite_scale(scale);
    for (auto& stage : layers_.stages()) {
      if (stage.layer.contains(name)) stage.layer.set_scale(name, scale);
    }
    scales_.at(name) = scale;
  }

  /// From here on the weights have these adapters in them, in addition to those they have, whether
  /// active or not; active ones that are not among them are added by each pass. The frozen weights
  /// are left as they are, so `unmerge` is exact. Passes that begin meanwhile wait.
  ///
  /// If any that is active or merged has DoRA, the order counts: then only the first of the active
  /// adapters can be merged, in their order.
  /// @throws ArgumentError if one is unknown, NonFiniteError that names the layer and the first
  /// adapter by which its weight or bias would not be finite, StateError for another order with
  /// DoRA, or a common scale that is not 1; nothing is changed then, in any layer
  void merge(const std::vector<std::string>& names) requires DenseWeight<Weight> {
    const std::lock_guard lock(*mutex_);
    Names all = merged_;
    for (const std::string& name : names) {
      require_known(name);
      if (!detail::contains(all, name)) all.push_back(name);
    }
    if (common_scale() != 1) {
      raise<StateError>("MultiAdapterMlp: adapters with a common scale cannot be merged");
    }
    require_order(active_, all);
    merge_layers(all);
    merged_ = std::move(all);
  }

  /// Forgets what was merged: the weights are the frozen ones, bit for bit.
  void unmerge() {
    const std::lock_guard lock(*mutex_);
    for (auto& stage : layers_.stages()) {
      stage.layer.unmerge();
    }
    merged_.clear();
  }

  /// The names of the adapters that are merged, in their order.
  std::vector<std::string> merged() const {
    const std::lock_guard lock(*mutex_);
    return merged_;
  }

  Cache make_cache(Index largest_batch) const {
    return {layers_.make_cache(largest_batch), largest_batch};
  }

  /// An adapter for each sample of the next batches with this cache, base_adapter for none; with no
  /// names the active ones are for all again. The adapters are resolved here: passes compute with
  /// them whatever is erased or replaced in between.
  /// @throws ArgumentError if a name is unknown, ShapeError if there are too many, StateError if
  /// adapters are merged; nothing is changed then
  void assign(Cache& cache, std::span<const std::string> names) const {
    const std::lock_guard lock(*mutex_);
    require_cache(cache);
    require_batch_fits("MultiAdapterMlp::assign", static_cast<Index>(names.size()),
                       cache.largest_batch);
    for (const std::string& name : names) {
      if (name != base_adapter) require_known(name);
    }
    if (!names.empty() && !merged_.empty()) {
      raise<StateError>("MultiAdapterMlp: samples cannot have adapters of their own while '" +
                        merged_.front() + "' is merged");
    }
    std::vector<std::string> here(names.begin(), names.end());
    for (std::size_t i = 0; i < layers_.stages().size(); ++i) {
      const LoraSet<Weight>& set = layers_.stages()[i].layer;
      for (std::size_t sample = 0; sample < names.size(); ++sample) {
        here[sample] = set.contains(names[sample]) ? names[sample] : std::string(base_adapter);
      }
      set.assign(cache.layers[i].layer, here);
    }
  }

  /// @param x in x n, @param y out x n
  /// @throws ShapeError, StateError if the cache was made by another network, NonFiniteError if the
  /// scalings of an active adapter have a product that is not finite
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache) const {
    fix(cache);
    layers_.forward(x, y, cache.layers);
  }

 private:
  using Names = std::vector<std::string>;

  static std::vector<typename Layers::Stage> sets(const FrozenMlp<Weight>& base) {
    std::vector<typename Layers::Stage> stages;
    for (const auto& stage : base.stages()) {
      if (stage.layer.trains_bias()) {
        raise<ArgumentError>("MultiAdapterMlp: the bias of '" + stage.name +
                             "' is being trained, it would go back to that of the frozen weight");
      }
      stages.push_back({stage.name, LoraSet<Weight>(stage.layer.weight()), stage.activation});
    }
    return stages;
  }

  /// What there is now in all layers is what the pass computes with, and keeps no longer.
  void fix(Cache& cache) const {
    const std::lock_guard lock(*mutex_);
    require_cache(cache);
    for (std::size_t i = 0; i < layers_.stages().size(); ++i) {
      layers_.stages()[i].layer.fix(cache.layers[i].layer);
    }
  }

  void require_cache(const Cache& cache) const {
    if (cache.layers.size() == layers_.stages().size()) return;
    raise<StateError>("MultiAdapterMlp: the cache was made by another network");
  }

  void require_known(const std::string& name) const {
    if (scales_.find(name) != scales_.end()) return;
    std::string known;
    for (const auto& [each, scale] : scales_) {
      known += (known.empty() ? "" : ", ") + each;
    }
    raise<ArgumentError>("MultiAdapterMlp: no adapter is called '" + name + "'; there are " +
                         (known.empty() ? "none" : known));
  }

  /// The adapters of a network, a place for each layer, empty where there is none.
  std::vector<std::optional<Adapter<Scalar>>> adapters_of(const std::string& name,
                                                          const AdaptedMlp<Weight>& adapted) const {
    const auto stages = adapted.stages();
    std::vector<std::optional<Adapter<Scalar>>> adapters(layers_.stages().size());
    if (stages.size() != adapters.size()) {
      raise<ArgumentError>("MultiAdapterMlp: the network of '" + name + "' has " +
                           std::to_string(stages.size()) + " layers, this one has " +
                           std::to_string(adapters.size()));
    }
    for (std::size_t i = 0; i < adapters.size(); ++i) {
      require_stage(name, stages[i], layers_.stages()[i]);
      const auto* layer = stages[i].layer.template get_if<LoraLinear<Weight>>();
      if (layer != nullptr && layer->enabled()) adapters[i] = layer->adapter();
    }
    return adapters;
  }

  template <typename Stage, typename Own>
  static void require_stage(const std::string& name, const Stage& stage, const Own& own) {
    const auto require = [&](bool valid, const std::string& what) {
      if (!valid)
        raise<ArgumentError>("MultiAdapterMlp: '" + stage.name + "' of '" + name + "' " + what);
    };
    require(stage.name == own.name, "is called '" + own.name + "' here");
    require(stage.activation == own.activation, "has another activation here");
    require(stage.layer.template get_if<Linear<Scalar>>() == nullptr,
            "is trained in full, which all other adapters would have to share");
    const bool trains_bias = stage.layer.visit([](const auto& layer) {
      if constexpr (requires { layer.trains_bias(); }) return layer.trains_bias();
      return false;
    });
    require(!trains_bias, "has a trained bias, which all other adapters would have to share");
    if (stage.layer.in_features() != own.layer.in_features() ||
        stage.layer.out_features() != own.layer.out_features()) {
      raise<ShapeError>("MultiAdapterMlp: '" + stage.name + "' of '" + name + "' is " +
                        detail::shape_text(stage.layer.out_features(), stage.layer.in_features()) +
                        ", here it is " +
                        detail::shape_text(own.layer.out_features(), own.layer.in_features()));
    }
    const bool has_same_weight = stage.layer.visit([&](const auto& layer) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(layer.weight())>, Weight>) {
        return detail::is_same_weight(own.layer.weight(), layer.weight());
      }
      return false;
    });
    require(has_same_weight,
            "stands on another frozen weight than here: if an initialisation changed it (PiSSA, "
            "...), give what to_plain makes of the network");
  }

  void change(const std::string& name, const AdaptedMlp<Weight>& adapted, bool is_replacement) {
    auto adapters = adapters_of(name, adapted);
    const std::lock_guard lock(*mutex_);
    if (is_replacement) {
      require_not_merged(name);
      const bool has_dora = std::any_of(adapters.begin(), adapters.end(), [](const auto& made) {
        return made && made->magnitude() != nullptr;
      });
      detail::require_merge_order("MultiAdapterMlp", active_, merged_,
                                  [&](const auto& each) { return has_dora && each == name; });
    } else if (scales_.find(name) != scales_.end()) {
      raise<ArgumentError>("MultiAdapterMlp: there is an adapter '" + name + "' already");
    } else if (name.empty() || name == base_adapter) {
      raise<ArgumentError>("MultiAdapterMlp: '" + name + "' cannot be the name of an adapter");
    }
    const double scale = scales_.try_emplace(name, 1).first->second;
    Names others = active_;
    std::erase(others, name);
    for (std::size_t i = 0; i < adapters.size(); ++i) {
      LoraSet<Weight>& set = layers_.stages()[i].layer;
      const bool was_there = set.contains(name);
      if (was_there && adapters[i]) {
        set.replace(name, std::move(*adapters[i]));
      } else if (adapters[i]) {
        set.add(name, std::move(*adapters[i]));
        set.set_scale(name, scale);
      } else if (was_there) {
        set.set_active(those_of(set, others));  // or it would choose another, which may be refused
        set.erase(name);
      }
    }
    if (scales_.size() == 1 && !is_replacement) active_ = {name};
    activate(active_);  // a set chooses for itself who is active after its first addition
  }

  void require_not_merged(const std::string& name) const {
    require_known(name);
    if (detail::contains(merged_, name)) {
      raise<StateError>("MultiAdapterMlp: '" + name + "' is merged and cannot be changed");
    }
  }

  static void require_finite_scale(double scale) {
    require_argument(std::isfinite(static_cast<Scalar>(scale)), "MultiAdapterMlp",
                     "a scale must be finite", scale);
  }

  bool has_dora(const std::string& name) const {
    const auto stages = layers_.stages();
    return std::any_of(stages.begin(), stages.end(), [&](const auto& stage) {
      return stage.layer.contains(name) && stage.layer.at(name)->magnitude() != nullptr;
    });
  }

  /// Where DoRA is among them, what is merged comes first among the active adapters. Then it does
  /// so in each layer, too, and no set refuses what others have done already.
  void require_order(const Names& active, const Names& merged) const {
    detail::require_merge_order("MultiAdapterMlp", active, merged,
                                [&](const std::string& name) { return has_dora(name); });
  }

  /// Of these names those that a layer has.
  static Names those_of(const LoraSet<Weight>& set, const Names& names) {
    Names here;
    std::copy_if(names.begin(), names.end(), std::back_inserter(here),
                 [&](const std::string& name) { return set.contains(name); });
    return here;
  }

  /// Merges in each layer those that it has, or in none.
  void merge_layers(const Names& names) {
    std::vector<std::pair<LoraSet<Weight>*, typename LoraSet<Weight>::PreparedMerge>> prepared;
    for (auto& stage : layers_.stages()) {
      const Names here = those_of(stage.layer, names);
      if (here.size() == stage.layer.merged().size()) continue;
      prepared.emplace_back(
          &stage.layer, stage.layer.prepare_merge(here, "MultiAdapterMlp: '" + stage.name + "'"));
    }
    for (auto& [set, merge] : prepared) {
      set->commit_merge(std::move(merge));
    }
  }

  /// In each layer those that it has.
  void activate(Names names) {
    for (auto& stage : layers_.stages()) {
      stage.layer.set_active(those_of(stage.layer, names));
    }
    active_ = std::move(names);
  }

  Layers layers_;
  std::unique_ptr<std::mutex> mutex_;  // of all that follows, and of agreement between the layers
  std::map<std::string, double> scales_;  // of all adapters, by name
  Names active_;
  Names merged_;
};

template <FrozenWeight Weight>
MultiAdapterMlp(const FrozenMlp<Weight>&) -> MultiAdapterMlp<Weight>;

}  // namespace loraplus
