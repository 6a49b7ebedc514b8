// SPDX-License-Identifier: MIT
//
// The layers that PEFT adapts: by which names and in which shapes the tensors of each are kept.
#pragma once

#include <loraplus/adapter/lora_conv.hpp>
#include <loraplus/adapter/lora_embedding.hpp>
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/io/peft_folder.hpp>
#include <loraplus/io/safetensors.hpp>
#include <string>
#include <vector>

namespace loraplus::inline v0_1::detail {

/// Names of the tensors of an adapter after that of its module, and their shapes.
struct PeftLayout {
  const char* a = "lora_A.weight";
  const char* b = "lora_B.weight";
  std::vector<Index> a_shape;
  std::vector<Index> b_shape;
  std::vector<Index> magnitude_shape;
};

inline constexpr const char* peft_magnitude = "lora_magnitude_vector";
inline constexpr const char* peft_lora_bias = "lora_B.bias";

template <FrozenWeight Weight>
PeftLayout peft_layout(const LoraLinear<Weight>& layer) {
  const Index out = layer.out_features(), r = layer.rank();
  return {.a_shape = {r, layer.in_features()}, .b_shape = {out, r}, .magnitude_shape = {out}};
}

template <FrozenWeight Weight>
PeftLayout peft_layout(const LoraConv<Weight>& layer) {
  const ConvGeometry& g = layer.geometry();
  const Index out = layer.out_channels(), r = layer.layer().rank(), share = r / g.groups;
  if (g.dimensions == 1) {
    return {.a_shape = {r, g.channels, g.width.kernel},
            .b_shape = {out, share, 1},
            .magnitude_shape = {1, out, 1}};
  }
  return {.a_shape = {r, g.channels, g.height.kernel, g.width.kernel},
          .b_shape = {out, share, 1, 1},
          .magnitude_shape = {1, out, 1, 1}};
}

template <LookupWeight Weight>
PeftLayout peft_layout(const LoraEmbedding<Weight>& layer) {
  const Index out = layer.out_features(), r = layer.rank();
  return {.a = "lora_embedding_A",
          .b = "lora_embedding_B",
          .a_shape = {r, layer.vocabulary()},
          .b_shape = {out, r},
          .magnitude_shape = {out}};
}

template <typename Layer>
inline constexpr bool is_lora_linear = false;
template <FrozenWeight Weight>
inline constexpr bool is_lora_linear<LoraLinear<Weight>> = true;

/// The part of a layer that has factors and a magnitude to be set.
template <FrozenWeight Weight>
LoraLinear<Weight>& adapted_part(LoraConv<Weight>& layer) {
  return layer.layer();
}
template <typename Layer>
Layer& adapted_part(Layer& layer) {
  return layer;
}
template <FrozenWeight Weight>
const LoraLinear<Weight>& adapted_part(const LoraConv<Weight>& layer) {
  return layer.layer();
}
template <typename Layer>
const Layer& adapted_part(const Layer& layer) {
  return layer;
}

/// What a configuration has to say of one adapted module.
struct AdapterFacts {
  std::string module;
  Index rank = 0;
  double scaling = 0;
  bool is_float = false;  ///< whether the scaling is rounded to float
  double dropout = 0;
  bool dora = false;
  bool lora_bias = false;
  bool trains_bias = false;

  /// Whether options give this scaling, but for rounding.
  bool has_scaling(const LoraOptions& options) const {
    const double told = lora_scaling(options);
    return is_float ? static_cast<float>(told) == static_cast<float>(scaling) : told == scaling;
  }
};

/// @throws ArgumentError for blocks of outputs in a layer that has none in PEFT
template <typename Layer>
AdapterFacts adapter_facts(const std::string& module, const Layer& layer) {
  const auto& part = adapted_part(layer);
  using Scalar = typename Layer::Scalar;
  AdapterFacts facts{.module = module,
                     .rank = part.rank(),
                     .scaling = static_cast<double>(part.scaling()),
                     .is_float = std::is_same_v<Scalar, float>,
                     .dora = part.magnitude() != nullptr,
                     .lora_bias = part.factors().has_bias()};
  if constexpr (requires { part.dropout(); }) facts.dropout = part.dropout();
  if constexpr (requires { part.trains_bias(); }) facts.trains_bias = part.trains_bias();
  if constexpr (!requires { layer.geometry(); }) {
    if (!part.factors().blocks().is_whole()) {
      throw ArgumentError("save_peft: '" + module +
                          "' is adapted in groups of outputs, which PEFT does not have");
    }
  }
  return facts;
}

/// Adds the tensors of an adapter. @param with_bias whether that of the base is among them
template <typename Layer>
void add_adapter(const std::string& module, const Layer& layer, bool with_bias,
                 TensorList& tensors) {
  const PeftLayout layout = peft_layout(layer);
  const auto& part = adapted_part(layer);
  const auto factors = part.factors().factors();
  tensors.add(peft_name(module, layout.a), factors.a, layout.a_shape);
  tensors.add(peft_name(module, layout.b), factors.b, layout.b_shape);
  if (factors.bias.size() > 0) tensors.add(peft_name(module, peft_lora_bias), factors.bias);
  if (part.magnitude() != nullptr) {
    tensors.add(peft_name(module, peft_magnitude), part.magnitude()->values(),
                layout.magnitude_shape);
  }
  if constexpr (requires { part.bias(); }) {
    if (with_bias && part.bias().size() > 0) {
      tensors.add(peft_name(module, "base_layer.bias"), part.bias());
    }
  }
}

}  // namespace loraplus::detail
