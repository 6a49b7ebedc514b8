// SPDX-License-Identifier: MIT
//
// What a training run is, beside the state that it has come to: the settings by which it goes on,
// and the frozen weights that it stands on.
#pragma once

#include <array>
#include <charconv>
#include <loraplus/frozen/same_weight.hpp>
#include <loraplus/nn/activation_layer.hpp>
#include <loraplus/nn/mlp.hpp>
#include <loraplus/nn/one_of.hpp>
#include <loraplus/nn/sequential.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <map>
#include <string>

namespace loraplus::inline v0_1 {

/// Settings by their names, as text.
using RunSettings = std::map<std::string, std::string>;

namespace detail {

/// The shortest text of which the same number is read.
inline std::string setting_text(double value) {
  std::array<char, 32> text;
  return {text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr};
}

/// An update rule that tells its settings by name.
template <typename Rule>
concept TellsSettings = requires(const Rule& rule, void (&visit)(const char*, double)) {
  { Rule::name() } -> std::convertible_to<std::string>;
  rule.visit_settings(visit);
};

/// Adds what an optimizer does with gradients: its rule, groups, schedule and options.
template <typename Optimizer>
void add_settings(const Optimizer& optimizer, RunSettings& settings) {
  using Rule = std::remove_cvref_t<decltype(optimizer.rule())>;
  static_assert(TellsSettings<Rule>,
                "loraplus: to be in a checkpoint, an update rule must have name() and "
                "visit_settings(), see UpdateRule");
  settings["rule"] = Rule::name();
  optimizer.rule().visit_settings([&](const char* name, double value) {
    settings[std::string("rule.") + name] = setting_text(value);
  });
  const OptimizerOptions& options = optimizer.options();
  settings["clip_norm"] = setting_text(options.clip_norm);
  settings["accumulation"] = std::to_string(options.accumulation);
  settings["schedule"] = to_string(options.schedule.decay);
  settings["schedule.warmup_steps"] = std::to_string(options.schedule.warmup_steps);
  settings["schedule.total_steps"] = std::to_string(options.schedule.total_steps);
  for (const ParameterGroup& group : optimizer.groups()) {
    const std::string prefix = "group." + group.name + '.';
    settings[prefix + "learning_rate"] = setting_text(group.learning_rate);
    settings[prefix + "weight_decay"] = setting_text(group.weight_decay);
    std::string& parameters = settings[prefix + "parameters"];
    for (const std::string& name : group.parameters) {
      parameters += (parameters.empty() ? "" : ", ") + name;
    }
  }
}

/// What the layers of a model tell beside their parameters: activations, scalings and dropout as
/// settings, and the fixed_product of each frozen weight. What a layer of the user's has besides
/// its parameters is not seen.
template <RealScalar Scalar>
class ModelFacts {
 public:
  template <typename Model>
  explicit ModelFacts(const Model& model) {
    add("layer", model);
  }

  const RunSettings& settings() const { return settings_; }
  /// By the names of their layers.
  const std::map<std::string, Vector<Scalar>>& products() const { return products_; }

 private:
  template <Layer L>
  void add(const std::string& name, const Mlp<L>& network) {
    for (const auto& stage : network.stages()) {
      const std::string inner = name + '.' + stage.name;
      settings_[inner + ".activation"] = to_string(stage.activation);
      add(inner, stage.layer);
    }
  }

  template <Layer First, Layer... Rest>
  void add(const std::string& name, const Sequential<First, Rest...>& layers) {
    const auto add_all = [&]<std::size_t... I>(std::index_sequence<I...> /*indices*/) {
      (add(name + '.' + std::to_string(I), layers.template get<I>()), ...);
    };
    add_all(std::index_sequence_for<First, Rest...>{});
  }

  template <Layer... Kinds>
  void add(const std::string& name, const OneOf<Kinds...>& layer) {
    layer.visit([&](const auto& kind) { add(name, kind); });
  }

  template <typename L>
  void add(const std::string& name, const L& layer) {
    if constexpr (requires { Activation{layer.activation()}; }) {
      settings_[name + ".activation"] = to_string(layer.activation());
    }
    if constexpr (requires { static_cast<double>(layer.scaling()); }) {
      settings_[name + ".scaling"] = setting_text(static_cast<double>(layer.scaling()));
    }
    if constexpr (requires { static_cast<double>(layer.dropout()); }) {
      settings_[name + ".dropout"] = setting_text(static_cast<double>(layer.dropout()));
    }
    if constexpr (requires { layer.geometry().groups; }) {
      add_geometry(name, layer.geometry());
    }
    if constexpr (requires {
                    layer.common_scale();
                    layer.active();
                  }) {
      settings_[name + ".common_scale"] = setting_text(layer.common_scale());
      for (const std::string& adapter : layer.active()) {
        add_adapter(name + '.' + adapter, *layer.at(adapter), layer.scale(adapter));
      }
    }
    if constexpr (requires {
                    requires FrozenWeight<std::remove_cvref_t<decltype(layer.weight())>>;
                  }) {
      products_[name] = fixed_product(layer.weight());
    }
  }

  /// One of a set. @param scale of its scaling
  template <typename Adapter>
  void add_adapter(const std::string& name, const Adapter& adapter, double scale) {
    settings_[name + ".scaling"] =
        setting_text(scale * static_cast<double>(adapter.factors().scaling()));
    settings_[name + ".dropout"] = setting_text(adapter.dropout());
  }

  template <typename Geometry>
  void add_geometry(const std::string& name, const Geometry& geometry) {
    std::string& text = settings_[name + ".geometry"];
    const auto append = [&](Index value) { text += std::to_string(value) + ' '; };
    append(geometry.channels);
    append(geometry.groups);
    append(static_cast<Index>(geometry.padding_mode));
    for (const auto& axis : {geometry.height, geometry.width}) {
      append(axis.size);
      append(axis.kernel);
      append(axis.stride);
      append(axis.padding);
      append(axis.dilation);
    }
  }

  RunSettings settings_;
  std::map<std::string, Vector<Scalar>> products_;
};

}  // namespace detail
}  // namespace loraplus
