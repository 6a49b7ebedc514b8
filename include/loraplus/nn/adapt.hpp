// SPDX-License-Identifier: MIT
//
// From a trained network to a frozen one with adapters on it, and back to a plain one.
#pragma once

#include <algorithm>
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/frozen/frozen_linear.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/nn/linear.hpp>
#include <loraplus/nn/mlp.hpp>
#include <loraplus/nn/one_of.hpp>

namespace loraplus::inline v0_1 {

/// A layer of an adapted network: frozen, adapted, or trained in full.
template <FrozenWeight Weight>
using AdaptedLayer =
    OneOf<FrozenLinear<Weight>, LoraLinear<Weight>, Linear<typename Weight::Scalar>>;

/// A frozen network.
template <FrozenWeight Weight>
using FrozenMlp = Mlp<FrozenLinear<Weight>>;

/// A network with some layers adapted, some trained in full, some frozen.
template <FrozenWeight Weight>
using AdaptedMlp = Mlp<AdaptedLayer<Weight>>;

/// Which layers of a network are adapted, which are trained in full; the others stay frozen.
struct AdaptOptions {
  /// The adapters, all alike.
  LoraOptions lora = {};
  std::vector<std::string> targets = {};  ///< layers that get an adapter; empty: all not in `train`
  std::vector<std::string> train = {};    ///< layers trained in full, as a new head
};

namespace detail {

inline bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

template <typename Network>
void require_layers(const Network& network, const std::vector<std::string>& names,
                    const char* list) {
  for (const std::string& name : names) {
    const auto stages = network.stages();
    if (std::none_of(stages.begin(), stages.end(),
                     [&](const auto& stage) { return stage.name == name; })) {
      raise<ArgumentError>(std::string(list) + " names '" + name +
                           "', but no layer is called so; there are " + network.layer_names());
    }
  }
}

/// A frozen network with each stage's layer replaced by what `make_layer` makes of the stage.
template <FrozenWeight Weight, typename MakeLayer>
AdaptedMlp<Weight> replace_layers(const FrozenMlp<Weight>& network, MakeLayer&& make_layer) {
  std::vector<typename AdaptedMlp<Weight>::Stage> stages;
  for (const auto& stage : network.stages()) {
    stages.push_back({stage.name, make_layer(stage), stage.activation});
  }
  return AdaptedMlp<Weight>(std::move(stages));
}

/// The layer of a stage, to be trained in full.
template <FrozenWeight Weight>
Linear<typename Weight::Scalar> thawed(const typename FrozenMlp<Weight>::Stage& stage) {
  if constexpr (DenseWeight<Weight>) {
    return Linear<typename Weight::Scalar>(to_matrix(stage.layer.weight()), stage.layer.bias());
  } else {
    raise<ArgumentError>("adapt: '" + stage.name +
                         "' cannot be trained in full, its frozen weight cannot be read");
  }
}

/// A frozen network of which `make_adapter` makes the adapted layers, from the first to the last.
/// @throws ArgumentError as adapt
template <FrozenWeight Weight, typename MakeAdapter>
AdaptedMlp<Weight> adapt_layers(const FrozenMlp<Weight>& network, const AdaptOptions& options,
                                MakeAdapter&& make_adapter) {
  validate(options.lora);
  require_layers(network, options.targets, "adapt: `targets`");
  require_layers(network, options.train, "adapt: `train`");
  return replace_layers(network, [&](const auto& stage) -> AdaptedLayer<Weight> {
    const bool trained = contains(options.train, stage.name);
    const bool targeted = contains(options.targets, stage.name);
    if (trained && targeted) {
      raise<ArgumentError>("adapt: '" + stage.name + "' is both in `targets` and in `train`");
    }
    if (trained) return thawed<Weight>(stage);
    if (stage.layer.trains_bias()) {
      raise<ArgumentError>("adapt: the bias of '" + stage.name +
                           "' is being trained, it would go back to that of the frozen weight");
    }
    if (targeted || options.targets.empty()) return make_adapter(stage);
    return FrozenLinear<Weight>(stage.layer.weight(), options.lora.bias == BiasMode::all);
  });
}

}  // namespace detail

/// A frozen copy of a trained network. Its weights are packed once and then shared by all networks
/// that are made from it. With two copies of each its outputs are those of the trained network bit
/// for bit; with one copy, and for dx, sums are added up in another order.
template <RealScalar Scalar>
FrozenMlp<PackedWeight<Scalar>> freeze(const Mlp<Linear<Scalar>>& network,
                                       const PackOptions& options = {}) {
  std::vector<typename FrozenMlp<PackedWeight<Scalar>>::Stage> stages;
  for (const auto& stage : network.stages()) {
    PackedWeight<Scalar> weight(stage.layer.weight(), stage.layer.bias(), options);
    stages.push_back({stage.name, FrozenLinear(std::move(weight)), stage.activation});
  }
  return FrozenMlp<PackedWeight<Scalar>>(std::move(stages));
}

/// Adapters over a frozen network, drawn from the generator from the first layer to the last.
/// Before training the result computes exactly what the network does. The frozen weights are
/// shared with it (and not copied if they are views or shared).
/// @throws ArgumentError if an option is out of its range, a name is unknown or in both lists, or a
/// layer's bias has been set to be trained
template <FrozenWeight Weight, RandomBits Generator>
AdaptedMlp<Weight> adapt(const FrozenMlp<Weight>& network, const AdaptOptions& options,
                         Generator& generator) {
  return detail::adapt_layers(network, options, [&](const auto& stage) {
    return LoraLinear<Weight>(stage.layer.weight(), options.lora, generator);
  });
}

/// The same for a trained network, which is copied and left as it is.
template <RealScalar Scalar, RandomBits Generator>
AdaptedMlp<PackedWeight<Scalar>> adapt(const Mlp<Linear<Scalar>>& network,
                                       const AdaptOptions& options, Generator& generator) {
  return adapt(freeze(network), options, generator);
}

/// A frozen network with some layers to be trained in full and no adapters: full fine-tuning of
/// these layers.
/// @throws ArgumentError if a name is unknown
template <FrozenWeight Weight>
AdaptedMlp<Weight> thaw(const FrozenMlp<Weight>& network, const std::vector<std::string>& train) {
  detail::require_layers(network, train, "thaw: `train`");
  return detail::replace_layers(network, [&](const auto& stage) -> AdaptedLayer<Weight> {
    if (detail::contains(train, stage.name)) return detail::thawed<Weight>(stage);
    return stage.layer;
  });
}

/// A plain network of dense layers that computes what the adapted one does, for a program that
/// knows no adapters, or to be adapted anew.
/// @throws NonFiniteError if a merged weight is not finite
template <DenseWeight Weight>
Mlp<Linear<typename Weight::Scalar>> merged(const AdaptedMlp<Weight>& network) {
  using Scalar = typename Weight::Scalar;
  const auto plain = [](const auto& layer) {
    if constexpr (requires { layer.merged_weight(); }) {
      return layer.enabled() ? Linear<Scalar>(layer.merged_weight(), layer.merged_bias())
                             : Linear<Scalar>(to_matrix(layer.weight()), layer.weight().bias());
    } else if constexpr (requires { layer.weight().bias(); }) {
      return Linear<Scalar>(to_matrix(layer.weight()), layer.bias());
    } else {
      return Linear<Scalar>(layer.weight(), layer.bias());  // without its gradients
    }
  };
  std::vector<typename Mlp<Linear<Scalar>>::Stage> stages;
  for (const auto& stage : network.stages()) {
    stages.push_back({stage.name, stage.layer.visit(plain), stage.activation});
  }
  return Mlp<Linear<Scalar>>(std::move(stages));
}

/// Calls `use` with every adapted layer of a network, the first layer first.
template <FrozenWeight Weight, typename Use>
void for_each_adapter(AdaptedMlp<Weight>& network, Use&& use) {
  for (auto& stage : network.stages()) {
    if (auto* adapted = stage.layer.template get_if<LoraLinear<Weight>>()) use(*adapted);
  }
}
/// The same to read.
template <FrozenWeight Weight, typename Use>
void for_each_adapter(const AdaptedMlp<Weight>& network, Use&& use) {
  for (const auto& stage : network.stages()) {
    if (const auto* adapted = stage.layer.template get_if<LoraLinear<Weight>>()) use(*adapted);
  }
}

}  // namespace loraplus
