// SPDX-License-Identifier: MIT
//
// Many adapters over one frozen network: for each user, task or sample its own.
#pragma once

#include <loraplus/adapter/lora_set.hpp>
#include <loraplus/nn/adapt.hpp>
#include <mutex>

namespace loraplus {

/// A frozen network with any number of named adapters, each of which reaches over all of its layers
/// or some. It is a LoraSet for each layer, kept in agreement: an adapter is added, replaced,
/// erased or activated in all layers at once, and a pass, which may run on many threads at the same
/// time, sees it in all or in none. Adapters are trained by themselves, as an AdaptedMlp.
template <FrozenWeight Weight>
class MultiAdapterMlp {
  using Layers = Mlp<LoraSet<Weight>>;

 public:
  using Scalar = typename Weight::Scalar;
  /// Of the network; one for each thread.
  struct Cache {
    typename Layers::Cache layers;
    Index largest_batch = 0;
  };

  /// The frozen weights are shared with the network (and not copied if they are views or shared).
  explicit MultiAdapterMlp(const FrozenMlp<Weight>& base)
      : layers_(sets(base)), mutex_(std::make_unique<std::mutex>()) {}

  Index in_features() const { return layers_.in_features(); }
  Index out_features() const { return layers_.out_features(); }
  /// The layers; to be changed through this network only.
  const Layers& layers() const { return layers_; }

  /// The adapters of a network that was adapted from the same base; they are copied.
  /// @throws ArgumentError if the name is taken, the layers are called differently, or one is
  /// trained in full or has a trained bias, which belong to a network and not to an adapter;
  /// ShapeError. Nothing is changed then
  void add(const std::string& name, const AdaptedMlp<Weight>& adapted) {
    change(name, adapted, false);
  }

  /// The same in the place of the adapter of this name, of whatever ranks and layers.
  /// @throws as add, and ArgumentError if there is none
  void replace(const std::string& name, const AdaptedMlp<Weight>& adapted) {
    change(name, adapted, true);
  }

  /// If it is the only active one, the first of those left, by name, becomes active.
  /// @throws ArgumentError if there is no such adapter
  void erase(const std::string& name) {
    const std::lock_guard lock(*mutex_);
    require_known(name);
    std::vector<std::string> active = active_;
    std::erase(active, name);
    std::erase(names_, name);
    if (active.empty() && !active_.empty() && !names_.empty()) active = {names_.front()};
    activate(std::move(active));
    erase_everywhere(name);  // of layers in which it is not active any more
  }

  /// A copy of one adapter as a network of its own over the same weights: to be trained on, and
  /// given back by `replace`, or to be saved. @throws ArgumentError if there is no such adapter
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
    return names_;
  }

  std::vector<std::string> active() const {
    const std::lock_guard lock(*mutex_);
    return active_;
  }

  /// From the next pass on these are active, in this order; none leaves the frozen network.
  /// @throws ArgumentError if one is unknown or stands twice; nothing is changed then
  void set_active(const std::vector<std::string>& names) {
    const std::lock_guard lock(*mutex_);
    for (auto name = names.begin(); name != names.end(); ++name) {
      require_known(*name);
      if (std::find(names.begin(), name, *name) != name) {
        throw ArgumentError("MultiAdapterMlp: '" + *name + "' cannot be active twice");
      }
    }
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

  double common_scale() const { return layers_.stages()[0].layer.common_scale(); }
  /// What multiplies the scaling of all adapters. @throws ArgumentError unless it is finite
  void set_common_scale(double scale) {
    const std::lock_guard lock(*mutex_);
    for (auto& stage : layers_.stages()) {
      stage.layer.set_common_scale(scale);
    }
  }

  Cache make_cache(Index largest_batch) const {
    return {layers_.make_cache(largest_batch), largest_batch};
  }

  /// An adapter for each sample of the next batches with this cache, base_adapter for none; with no
  /// names the active ones are for all again. The adapters are resolved here: passes compute with
  /// them whatever is erased or replaced in between.
  /// @throws ArgumentError if a name is unknown, ShapeError if there are too many; nothing is
  /// changed then
  void assign(Cache& cache, std::span<const std::string> names) const {
    const std::lock_guard lock(*mutex_);
    require_cache(cache);
    require_batch_fits("MultiAdapterMlp::assign", static_cast<Index>(names.size()),
                       cache.largest_batch);
    for (const std::string& name : names) {
      if (name != base_adapter) require_known(name);
    }
    std::vector<std::string> here(names.begin(), names.end());
    for (std::size_t i = 0; i < layers_.stages().size(); ++i) {
      const LoraSet<Weight>& set = layers_.stages()[i].layer;
      for (std::size_t sample = 0; sample < names.size(); ++sample) {
        here[sample] = set.contains(names[sample]) ? names[sample] : std::string(base_adapter);
      }
      set.release(cache.layers[i].layer);
      set.assign(cache.layers[i].layer, here);
    }
  }

  /// @param x in x n, @param y out x n
  /// @throws ShapeError, StateError if the cache was made by another network
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache) const {
    fix(cache);
    layers_.forward(x, y, cache.layers);
  }

 private:
  static std::vector<typename Layers::Stage> sets(const FrozenMlp<Weight>& base) {
    std::vector<typename Layers::Stage> stages;
    for (const auto& stage : base.stages()) {
      if (stage.layer.trains_bias()) {
        throw ArgumentError("MultiAdapterMlp: the bias of '" + stage.name +
                            "' is being trained, it would go back to that of the frozen weight");
      }
      stages.push_back({stage.name, LoraSet<Weight>(stage.layer.weight()), stage.activation});
    }
    return stages;
  }

  /// What there is now in all layers is what the pass computes with.
  void fix(Cache& cache) const {
    const std::lock_guard lock(*mutex_);
    require_cache(cache);
    for (std::size_t i = 0; i < layers_.stages().size(); ++i) {
      layers_.stages()[i].layer.fix(cache.layers[i].layer);
    }
  }

  void require_cache(const Cache& cache) const {
    if (cache.layers.size() == layers_.stages().size()) return;
    throw StateError("MultiAdapterMlp: the cache was made by another network");
  }

  void require_known(const std::string& name) const {
    if (std::binary_search(names_.begin(), names_.end(), name)) return;
    std::string known;
    for (const std::string& each : names_) {
      known += (known.empty() ? "" : ", ") + each;
    }
    throw ArgumentError("MultiAdapterMlp: no adapter is called '" + name + "'; there are " +
                        (known.empty() ? "none" : known));
  }

  /// The adapters of a network, a place for each layer, empty where there is none.
  std::vector<std::optional<Adapter<Scalar>>> adapters_of(const std::string& name,
                                                          const AdaptedMlp<Weight>& adapted) const {
    const auto stages = adapted.stages();
    std::vector<std::optional<Adapter<Scalar>>> adapters(layers_.stages().size());
    if (stages.size() != adapters.size()) {
      throw ArgumentError("MultiAdapterMlp: the network of '" + name + "' has " +
                          std::to_string(stages.size()) + " layers, this one has " +
                          std::to_string(adapters.size()));
    }
    for (std::size_t i = 0; i < adapters.size(); ++i) {
      require_stage(name, stages[i], layers_.stages()[i]);
      const auto* layer = stages[i].layer.template get_if<LoraLinear<Weight>>();
      if (layer != nullptr) adapters[i] = layer->adapter();
    }
    return adapters;
  }

  template <typename Stage, typename Own>
  static void require_stage(const std::string& name, const Stage& stage, const Own& own) {
    const auto require = [&](bool valid, const std::string& what) {
      if (!valid)
        throw ArgumentError("MultiAdapterMlp: '" + stage.name + "' of '" + name + "' " + what);
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
      throw ShapeError("MultiAdapterMlp: '" + stage.name + "' of '" + name + "' is " +
                       detail::shape_text(stage.layer.out_features(), stage.layer.in_features()) +
                       ", here it is " +
                       detail::shape_text(own.layer.out_features(), own.layer.in_features()));
    }
  }

  void change(const std::string& name, const AdaptedMlp<Weight>& adapted, bool is_replacement) {
    auto adapters = adapters_of(name, adapted);
    const std::lock_guard lock(*mutex_);
    const auto at = std::lower_bound(names_.begin(), names_.end(), name);
    if (is_replacement) {
      require_known(name);
    } else if (at != names_.end() && *at == name) {
      throw ArgumentError("MultiAdapterMlp: there is an adapter '" + name + "' already");
    } else if (name.empty() || name == base_adapter) {
      throw ArgumentError("MultiAdapterMlp: '" + name + "' cannot be the name of an adapter");
    }
    for (std::size_t i = 0; i < adapters.size(); ++i) {
      LoraSet<Weight>& set = layers_.stages()[i].layer;
      if (set.contains(name)) set.set_active({});  // lest another one takes its place
      if (set.contains(name)) set.erase(name);
      if (adapters[i]) set.add(name, std::move(*adapters[i]));
    }
    if (!is_replacement) names_.insert(at, name);
    if (!is_replacement && names_.size() == 1) active_ = names_;
    activate(active_);
  }

  void erase_everywhere(const std::string& name) {
    for (auto& stage : layers_.stages()) {
      if (stage.layer.contains(name)) stage.layer.erase(name);
    }
  }

  /// In each layer those that it has.
  void activate(std::vector<std::string> names) {
    for (auto& stage : layers_.stages()) {
      std::vector<std::string> here;
      for (const std::string& name : names) {
        if (stage.layer.contains(name)) here.push_back(name);
      }
      stage.layer.set_active(std::move(here));
    }
    active_ = std::move(names);
  }

  Layers layers_;
  std::unique_ptr<std::mutex> mutex_;  // of all that follows, and of agreement between the layers
  std::vector<std::string> names_;     // sorted
  std::vector<std::string> active_;
};

}  // namespace loraplus
