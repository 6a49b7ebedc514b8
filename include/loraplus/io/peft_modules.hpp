// SPDX-License-Identifier: MIT
//
// Adapter folders of PEFT for networks that are no Mlp: embeddings, convolutions and linear layers
// of a user's own, each by its name in PyTorch.
#pragma once

#include <functional>
#include <loraplus/io/peft_load.hpp>
#include <loraplus/io/peft_save.hpp>

namespace loraplus::inline v0_1 {

/// What was found in a folder.
struct LoadedPeftModules {
  /// As the folder has it.
  PeftConfig config;
  /// Tensors that were used, missing and not expected.
  LoadReport report;
};

/// The adapted layers of a network by the names of their modules. The layers are seen, not copied,
/// and must live as long.
class PeftModules {
 public:
  /// @param layer a LoraLinear, LoraConv or LoraEmbedding
  /// @throws ArgumentError if the name stands already
  template <typename Layer>
  void add(const std::string& module, Layer& layer) {
    for (const Module& known : modules_) {
      if (known.name == module) {
        throw ArgumentError("PeftModules: '" + module + "' is there already");
      }
    }
    modules_.push_back({module, detail::is_lora_linear<Layer>,
                        [&layer, module] { return detail::adapter_facts(module, layer); },
                        [&layer, module](bool with_bias, TensorList& tensors) {
                          detail::add_adapter(module, layer, with_bias, tensors);
                        },
                        [&layer, module](const LoraOptions& options, detail::PeftTensors& tensors) {
                          return prepare(module, layer, options, tensors);
                        }});
  }

  /// Saves all of them as one adapter. Killed at any moment, the old adapter or the new one is
  /// there.
  /// @throws ArgumentError if there are none, or two differ in what is one for all in PEFT;
  /// FileError
  void save(const std::filesystem::path& folder, const SavePeftOptions& options = {}) const {
    save(folder, detail::base_config(options));
  }

  /// The same with what the layers do not know from the configuration that they were loaded with.
  template <std::same_as<PeftConfig> Config>  // so {...} are SavePeftOptions
  void save(const std::filesystem::path& folder, const Config& base) const {
    if (modules_.empty()) throw ArgumentError("PeftModules: nothing to save");
    std::vector<detail::AdapterFacts> adapters;
    std::vector<std::string> names;
    PeftConfig config = base;
    config.bias = BiasMode::none;
    config.lora_dropout = 0;
    for (const Module& module : modules_) {
      adapters.push_back(module.facts());
      names.push_back(module.name);
      if (adapters.back().trains_bias) config.bias = BiasMode::lora_only;
    }
    config.modules = {.targets = names};
    for (const std::string& name : names) {
      if (detail::targets_container(config.modules, name)) {
        config.modules.targets = detail::exact_expression(names);
        break;
      }
    }
    detail::describe_kind(adapters, config);
    detail::describe_ranks(adapters, config);
    TensorList tensors;
    for (const Module& module : modules_) {
      module.add_tensors(config.bias != BiasMode::none, tensors);
    }
    detail::write_peft(folder, config, tensors);
  }

  /// Puts the adapter of a folder on the layers: their frozen weights stay, ranks, scalings and all
  /// else become those of the folder. Nothing is changed if anything cannot be read. A module that
  /// the configuration does not target is an error, as is one that it trains in full.
  /// An adapter of "all-linear" is one for the linear layers. @throws FileError
  LoadedPeftModules load(const std::filesystem::path& folder) const {
    const detail::PeftFiles files = detail::open_peft(folder);
    PeftConfig config = parse_peft_config(files.config, files.config_name);
    const bool all_linear = detail::is_all_linear(config.modules);
    detail::PeftTensors tensors(files.tensors);
    std::vector<std::function<void()>> prepared;
    for (const Module& module : modules_) {
      if (all_linear ? !module.is_linear : !is_target(config.modules, module.name)) {
        throw FileError(files.config_name + ": 'target_modules' does not name '" + module.name +
                        "'");
      }
      prepared.push_back(detail::made_for(files.config_name, module.name, [&] {
        return module.prepare(config.options_for(module.name), tensors);
      }));
    }
    for (const auto& put : prepared) {
      put();
    }
    return {std::move(config), tensors.finish()};
  }

 private:
  struct Module {
    std::string name;
    bool is_linear;
    std::function<detail::AdapterFacts()> facts;
    std::function<void(bool, TensorList&)> add_tensors;
    std::function<std::function<void()>(const LoraOptions&, detail::PeftTensors&)> prepare;
  };

  /// A layer as the folder has it, and what puts it in the place of the one there is.
  template <typename Layer>
  static std::function<void()> prepare(const std::string& module, Layer& layer,
                                       const LoraOptions& options, detail::PeftTensors& tensors) {
    auto made = std::make_shared<Layer>(remade(layer, options));
    detail::load_adapter(module, *made, tensors);
    return [&layer, made] { layer = std::move(*made); };
  }

  template <FrozenWeight Weight>
  static LoraLinear<Weight> remade(const LoraLinear<Weight>& layer, const LoraOptions& options) {
    std::mt19937_64 generator;
    return {layer.weight(), options, generator};
  }
  template <FrozenWeight Weight>
  static LoraConv<Weight> remade(const LoraConv<Weight>& layer, const LoraOptions& options) {
    std::mt19937_64 generator;
    return {layer.layer().weight(), layer.geometry(), options, generator};
  }
  /// PEFT takes dropout and biases for an embedding and does nothing with them.
  template <LookupWeight Weight>
  static LoraEmbedding<Weight> remade(const LoraEmbedding<Weight>& layer, LoraOptions options) {
    std::mt19937_64 generator;
    options.dropout = 0;
    options.bias = BiasMode::none;
    LoraEmbedding<Weight> made(layer.weight(), options, generator);
    if (layer.padding_index() >= 0) made.set_padding_index(layer.padding_index());
    return made;
  }

  std::vector<Module> modules_;
};

}  // namespace loraplus
