// SPDX-License-Identifier: MIT
//
// Networks whose adapters start as initialisations make them of the weights (PiSSA, OLoRA, CorDA,
// ...), and their conversion back to adapters over the untouched network.
#pragma once

#include <loraplus/adapter/initialize.hpp>
#include <loraplus/nn/adapt.hpp>
#include <type_traits>

namespace loraplus::inline v0_1 {

/// A frozen weight of which another with a matrix of its own can be made: Weight(w, b), w out x in,
/// b out or empty. A view is none, it would see a matrix that is gone.
template <typename Weight>
concept RemadeWeight =
    DenseWeight<Weight> && std::constructible_from<Weight, Matrix<typename Weight::Scalar>,
                                                   Vector<typename Weight::Scalar>>;

/// What makes the first factors of a layer: initialize(name, w), w out x in.
template <typename Function, typename Scalar>
concept InitializesFactors =
    std::is_invocable_r_v<Factors<Scalar>, Function&, const std::string&, const Matrix<Scalar>&>;

namespace detail {

/// Whether s B A is zero, exactly.
template <typename Scalar>
bool starts_at_zero(const Factors<Scalar>& factors) {
  return factors.a.isZero(0) || factors.b.isZero(0);
}

/// The weight to freeze beside these factors, W - s B A, as it is where that is W.
template <RemadeWeight Weight>
Weight residual_weight(const Weight& weight, const Matrix<typename Weight::Scalar>& w,
                       const Factors<typename Weight::Scalar>& factors) {
  using Scalar = typename Weight::Scalar;
  if (starts_at_zero(factors)) return weight;
  Matrix<Scalar> rest = residual(w, factors);
  if constexpr (std::is_same_v<Weight, PackedWeight<Scalar>>) {
    return Weight(rest, weight.bias(), weight.options());
  } else {
    return Weight(std::move(rest), Vector<Scalar>(weight.bias()));
  }
}

/// @throws ArgumentError if the options ask for what factors of an initialisation have not
inline void require_plain_factors(const LoraOptions& options) {
  const auto refuse = [](bool asked, const char* what) {
    if (!asked) return;
    raise<ArgumentError>(std::string("adapt: an initialisation makes factors without ") + what);
  };
  refuse(options.lora_bias, "lora_bias");
  refuse(!options.enabled_groups.empty(), "enabled_groups");
}

/// @throws ArgumentError if the factors add a bias to a layer of this name, which no residual
/// weight takes away
template <typename Scalar>
void require_no_start_bias(const std::string& name, const Factors<Scalar>& factors) {
  if (factors.bias.isZero(0)) return;
  raise<ArgumentError>("adapt: the first factors of '" + name +
                       "' have a bias that is not zero, with which the network would not compute "
                       "what it did");
}

/// @throws StateError
template <FrozenWeight Weight>
void require_unmerged(const std::string& name, const LoraLinear<Weight>& layer) {
  if (!layer.merged()) return;
  raise<StateError>("to_plain: '" + name + "' is merged, it needs unmerge() first");
}

/// A trained adapter as one over the untouched weight, with dropout, trained bias and DoRA;
/// it is enabled if that is.
template <FrozenWeight Weight>
LoraLinear<Weight> plain_layer(const Weight& weight, LoraLinear<Weight> trained,
                               const LoraLinear<Weight>& initial) {
  using Scalar = typename Weight::Scalar;
  const auto start = initial.factors().factors();
  LowRank<Scalar> factors = trained.factors();
  if (!starts_at_zero(start)) factors = LowRank<Scalar>(to_plain(factors.factors(), start));
  LoraLinear<Weight> plain(weight, std::move(factors),
                           {.dropout = trained.dropout(),
                            .bias = trained.trains_bias() ? BiasMode::lora_only : BiasMode::none,
                            .dora = trained.magnitude() != nullptr});
  // W_res + s B A and what is converted are the same rows, so they have the same magnitudes.
  if (trained.magnitude() != nullptr) plain.set_magnitude(trained.magnitude()->values());
  const Vector<Scalar> bias = trained.bias();
  plain.visit_parameters([&](auto parameter) {
    if (parameter.name == "bias") parameter.value = bias.array();
  });
  plain.set_enabled(trained.enabled());
  return plain;
}

}  // namespace detail

/// Adapters over a frozen network that start as `initialize` makes them of each weight:
///
///     adapt(network, {}, [](const std::string& name, const auto& w) { return pissa(w, 8, 2.0); })
///
/// An adapted layer whose s B A does not start at zero stands on a weight of its own, residual(w,
/// factors), so that the network computes what it did, to rounding; the others share theirs with
/// the network, which is left as it is. Rank and scaling are those of the factors; of the options'
/// `lora`, dropout, bias and dora are asked. A layer for which it makes factors of rank 0, as EVA
/// may give out, stays frozen. Keep a copy of the result: with it `to_plain` takes the trained
/// network back to the untouched weights.
/// @throws ArgumentError as adapt, if lora_bias or enabled_groups are asked for, or if factors have
/// a bias of B that is not zero; ShapeError if they do not fit; and what `initialize` throws
template <RemadeWeight Weight, InitializesFactors<typename Weight::Scalar> Initialize>
AdaptedMlp<Weight> adapt(const FrozenMlp<Weight>& network, const AdaptOptions& options,
                         Initialize&& initialize) {
  detail::require_plain_factors(options.lora);
  return detail::adapt_layers(network, options, [&](const auto& stage) -> AdaptedLayer<Weight> {
    const Weight& weight = stage.layer.weight();
    const Matrix<typename Weight::Scalar> w = to_matrix(weight);
    const Factors<typename Weight::Scalar> factors = initialize(stage.name, w);
    if (factors.rank() == 0) {
      return FrozenLinear<Weight>(weight, options.lora.bias == BiasMode::all);
    }
    detail::require_no_start_bias(stage.name, factors);
    return LoraLinear<Weight>(detail::residual_weight(weight, w, factors), factors, options.lora);
  });
}

/// The same for a trained network, which is copied and left as it is: `to_plain` takes a freeze of
/// it.
template <RealScalar Scalar, InitializesFactors<Scalar> Initialize>
AdaptedMlp<PackedWeight<Scalar>> adapt(const Mlp<Linear<Scalar>>& network,
                                       const AdaptOptions& options, Initialize&& initialize) {
  return adapt(freeze(network), options, initialize);
}

/// A network that was adapted by an initialisation, and trained, as plain adapters over the
/// untouched one, to be saved beside it or added to a MultiAdapterMlp: layer by layer to_plain, so
/// the ranks are doubled where the initialisation changed the weight. A disabled layer stays so.
/// (PEFT does so while saving,
/// with path_initial_model_for_weight_conversion.)
/// @param network the one that was adapted @param initial a copy of `trained` before training
/// @throws ArgumentError if the three have not the same layers, StateError if a layer is merged
template <FrozenWeight Weight>
AdaptedMlp<Weight> to_plain(const FrozenMlp<Weight>& network, const AdaptedMlp<Weight>& trained,
                            const AdaptedMlp<Weight>& initial) {
  for (const auto* other : {&trained, &initial}) {
    if (other->layer_names() != network.layer_names()) {
      raise<ArgumentError>("to_plain: the layers are " + other->layer_names() + ", those of the " +
                           "network " + network.layer_names());
    }
  }
  return detail::replace_layers(network, [&](const auto& stage) -> AdaptedLayer<Weight> {
    const AdaptedLayer<Weight>& layer = trained.layer(stage.name);
    const auto* adapted = layer.template get_if<LoraLinear<Weight>>();
    if (adapted == nullptr) return layer;
    const auto* before = initial.layer(stage.name).template get_if<LoraLinear<Weight>>();
    if (before == nullptr) {
      raise<ArgumentError>("to_plain: '" + stage.name + "' of the initial network is not adapted");
    }
    detail::require_unmerged(stage.name, *adapted);
    detail::require_unmerged(stage.name, *before);
    return detail::plain_layer(stage.layer.weight(), *adapted, *before);
  });
}

}  // namespace loraplus
