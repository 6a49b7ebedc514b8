// SPDX-License-Identifier: MIT
#pragma once

#include <iomanip>
#include <limits>
#include <locale>
#include <loraplus/io/peft_config.hpp>
#include <loraplus/io/peft_folder.hpp>
#include <loraplus/io/peft_layers.hpp>
#include <loraplus/io/safetensors.hpp>
#include <loraplus/nn/adapt.hpp>
#include <sstream>

namespace loraplus::inline v0_1 {

/// What a network does not know of its adapter.
struct SavePeftOptions {
  std::string base_model = {};          ///< base_model_name_or_path: where Python finds the base
  Scaling scaling = Scaling::standard;  ///< by which the network's alpha is told
  bool fan_in_fan_out = false;          ///< whether Python's base has its weights in x out
};

namespace detail {

/// Calls `use` with the name and the layer of every adapted stage, the first one first.
template <FrozenWeight Weight, typename Use>
void for_each_adapted(const AdaptedMlp<Weight>& network, Use&& use) {
  for (const auto& stage : network.stages()) {
    if (const auto* layer = stage.layer.template get_if<LoraLinear<Weight>>()) {
      use(stage.name, *layer);
    }
  }
}

/// The text as an expression that fits nothing else.
inline std::string escaped(const std::string& text) {
  std::string expression;
  for (const char c : text) {
    if (std::string_view(".+*?()[]{}|^$\\").find(c) != std::string_view::npos) expression += '\\';
    expression += c;
  }
  return expression;
}

/// A pattern that fits this module alone, not the end of another's name.
inline std::string exact_pattern(const std::string& module) {
  return '^' + escaped(module);
}

/// An expression that fits these modules alone. In brackets: "all-linear" would mean all.
inline std::string exact_expression(const std::vector<std::string>& modules) {
  std::string expression;
  for (const std::string& module : modules) {
    expression += (expression.empty() ? "(?:" : "|") + escaped(module);
  }
  return expression + ')';
}

/// Whether the modules around this one, which PEFT cannot adapt, are targets.
inline bool targets_container(const ModuleTargets& modules, const std::string& name) {
  for (std::size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
    if (is_target(modules, name.substr(0, dot))) return true;
  }
  return false;
}

/// Whether PEFT adapts exactly the stages that are adapted.
template <FrozenWeight Weight>
bool selects_adapted(const ModuleTargets& modules, const AdaptedMlp<Weight>& network) {
  const auto stages = network.stages();
  return std::all_of(stages.begin(), stages.end(), [&](const auto& stage) {
    const bool adapted = stage.layer.template get_if<LoraLinear<Weight>>() != nullptr;
    return is_target(modules, stage.name) == adapted && !targets_container(modules, stage.name) &&
           !(adapted && name_against_adapter(modules, stage.name));
  });
}

/// Whether PEFT trains in full exactly the stages that are trained so.
template <FrozenWeight Weight>
bool selects_saved(const ModuleTargets& modules, const AdaptedMlp<Weight>& network) {
  const auto stages = network.stages();
  return std::all_of(stages.begin(), stages.end(), [&](const auto& stage) {
    const bool saved = stage.layer.template get_if<Linear<typename Weight::Scalar>>() != nullptr;
    return saved_module(modules, stage.name).has_value() == saved;
  });
}

/// The modules as the base has them if they still are those of the network. Otherwise names, or,
/// where names would mean other layers too, an expression.
/// @throws ArgumentError if there is no adapter, or PEFT cannot tell an adapted layer from one that
/// is trained in full
template <FrozenWeight Weight>
ModuleTargets describe_modules(const AdaptedMlp<Weight>& network, const ModuleTargets& base) {
  if (selects_adapted(base, network) && selects_saved(base, network)) return base;
  std::vector<std::string> adapted;
  for_each_adapted(network, [&](const std::string& name, const auto&) { adapted.push_back(name); });
  ModuleTargets modules{.targets = adapted};
  for (const auto& stage : network.stages()) {
    if (stage.layer.template get_if<Linear<typename Weight::Scalar>>() != nullptr) {
      modules.modules_to_save.push_back(stage.name);
    }
  }
  for (const std::string& name : adapted) {
    if (const auto saved = name_against_adapter(modules, name)) {
      throw ArgumentError("save_peft: '" + *saved + "' is trained in full and '" + name +
                          "' is adapted, which PEFT cannot tell apart by these names");
    }
  }
  if (!selects_adapted(modules, network)) modules.targets = exact_expression(adapted);
  return modules;
}

/// The shortest decimal that is an alpha of this scaling: s r, or s sqrt(r), without what was
/// rounded.
inline double alpha_of(const AdapterFacts& adapter, bool use_rslora) {
  const auto r = static_cast<double>(adapter.rank);
  const double alpha = adapter.scaling * (use_rslora ? std::sqrt(r) : r);
  for (int digits = 1; digits < std::numeric_limits<double>::max_digits10; ++digits) {
    std::stringstream text;
    text.imbue(std::locale::classic());
    text << std::setprecision(digits) << alpha;
    double rounded = 0;
    if (text >> rounded && adapter.has_scaling({.rank = adapter.rank,
                                                .alpha = rounded,
                                                .scaling = use_rslora ? Scaling::rank_stabilized
                                                                      : Scaling::standard})) {
      return rounded;
    }
  }
  return alpha;
}

/// Ranks and alphas, unless those of the configuration are the network's already: those of the
/// first adapter for all, and patterns for layers that have others.
inline void describe_ranks(const std::vector<AdapterFacts>& adapters, PeftConfig& config) {
  const auto is_told = [&](const AdapterFacts& adapter) {
    const LoraOptions told = config.options_for(adapter.module);
    return told.rank == adapter.rank && adapter.has_scaling(told);
  };
  if (std::all_of(adapters.begin(), adapters.end(), is_told)) return;
  config.rank_pattern = {};
  config.alpha_pattern = {};
  config.r = adapters[0].rank;
  config.lora_alpha = alpha_of(adapters[0], config.use_rslora);
  for (const AdapterFacts& adapter : adapters) {
    if (adapter.rank != config.r) {
      config.rank_pattern.emplace_back(exact_pattern(adapter.module), adapter.rank);
    }
    if (!is_told(adapter)) {
      config.alpha_pattern.emplace_back(exact_pattern(adapter.module),
                                        alpha_of(adapter, config.use_rslora));
    }
  }
}

/// Whether PEFT, which initialises the factors before it loads them, can do so by this name: there
/// is none for lora_bias, "eva" needs a configuration of its own, "orthogonal" even ranks.
inline bool can_initialize(const std::string& name, const std::vector<AdapterFacts>& adapters) {
  return std::none_of(adapters.begin(), adapters.end(), [&](const AdapterFacts& adapter) {
    return adapter.lora_bias || name == "eva" || (name == "orthogonal" && adapter.rank % 2 != 0);
  });
}

/// What is one for all adapters in PEFT: DoRA, whether B has a bias, dropout, of which the largest
/// is told, and the initialisation, of which no more is told than PEFT can do.
/// @throws ArgumentError that names two which differ
inline void describe_kind(const std::vector<AdapterFacts>& adapters, PeftConfig& config) {
  const AdapterFacts& first = adapters[0];
  for (const AdapterFacts& adapter : adapters) {
    const auto require = [&](bool same, const char* what) {
      if (same) return;
      throw ArgumentError("save_peft: '" + first.module + "' and '" + adapter.module +
                          "' differ in " + what + ", which is one for all in PEFT");
    };
    require(adapter.dora == first.dora, "DoRA");
    require(adapter.lora_bias == first.lora_bias, "lora_bias");
    require_argument(adapter.scaling > 0, "save_peft: '" + adapter.module + "'",
                     "the scaling must be positive, as alpha is", adapter.scaling);
    config.lora_dropout = std::max(config.lora_dropout, adapter.dropout);
  }
  config.use_dora = first.dora;
  config.lora_bias = first.lora_bias;
  const auto* name = std::get_if<std::string>(&config.init_lora_weights);
  if (name != nullptr && !can_initialize(*name, adapters)) config.init_lora_weights = true;
}

/// The smallest mode in which all biases are trained that are.
template <FrozenWeight Weight>
BiasMode describe_bias(const AdaptedMlp<Weight>& network) {
  BiasMode mode = BiasMode::none;
  for (const auto& stage : network.stages()) {
    if (const auto* frozen = stage.layer.template get_if<FrozenLinear<Weight>>()) {
      if (frozen->trains_bias()) return BiasMode::all;
    } else if (const auto* adapted = stage.layer.template get_if<LoraLinear<Weight>>()) {
      if (adapted->trains_bias()) mode = BiasMode::lora_only;
    }
  }
  return mode;
}

template <FrozenWeight Weight>
PeftConfig describe(const AdaptedMlp<Weight>& network, const PeftConfig& base) {
  std::vector<AdapterFacts> adapters;
  for_each_adapted(network, [&](const std::string& name, const LoraLinear<Weight>& layer) {
    adapters.push_back(adapter_facts(name, layer));
  });
  if (adapters.empty()) throw ArgumentError("save_peft: the network has no adapter");
  PeftConfig config = base;
  config.modules = describe_modules(network, base.modules);
  config.lora_dropout = 0;
  describe_kind(adapters, config);
  config.bias = describe_bias(network);
  describe_ranks(adapters, config);
  return config;
}

/// A frozen layer that PEFT trains in full, as its name ends like that of one that is.
/// @throws ArgumentError if its weight cannot be read
template <FrozenWeight Weight>
void add_in_full(const std::string& name, const FrozenLinear<Weight>& layer,
                 const SavedModule& saved, TensorList& tensors) {
  if constexpr (DenseWeight<Weight>) {
    tensors.add(peft_name(name, "weight"), to_matrix(layer.weight()));
    if (layer.bias().size() > 0) tensors.add(peft_name(name, "bias"), layer.bias());
  } else {
    throw ArgumentError("save_peft: for PEFT '" + name + "' is trained in full with '" +
                        saved.name + "', but its frozen weight cannot be read");
  }
}

/// The tensors that PEFT expects of the configuration. Biases that are not trained, and have no
/// mode of their own, are among them.
template <FrozenWeight Weight>
TensorList peft_tensors(const AdaptedMlp<Weight>& network, const PeftConfig& config) {
  TensorList tensors;
  for (const auto& stage : network.stages()) {
    const auto add = [&](const char* tensor, const auto& value) {
      if (value.size() > 0) tensors.add(peft_name(stage.name, tensor), value);
    };
    if (const auto* adapted = stage.layer.template get_if<LoraLinear<Weight>>()) {
      add_adapter(stage.name, *adapted, config.bias != BiasMode::none, tensors);
    } else if (const auto* frozen = stage.layer.template get_if<FrozenLinear<Weight>>()) {
      if (const auto saved = saved_module(config.modules, stage.name)) {
        add_in_full(stage.name, *frozen, *saved, tensors);
      } else if (config.bias == BiasMode::all) {
        add("bias", frozen->bias());
      }
    } else {
      const auto& linear = *stage.layer.template get_if<Linear<typename Weight::Scalar>>();
      add("weight", linear.weight());
      add("bias", linear.bias());
    }
  }
  return tensors;
}

/// Both files, replaced together.
inline void write_peft(const std::filesystem::path& folder, const PeftConfig& config,
                       const TensorList& tensors) {
  const std::string text = to_text(config);
  AtomicFolder files(folder);
  write_safetensors(files.file(peft_tensor_file), tensors, {{"format", "pt"}});
  AtomicFile config_file(files.file(peft_config_file));
  config_file.write(text);
  config_file.commit();
  files.commit();
}

inline PeftConfig base_config(const SavePeftOptions& options) {
  PeftConfig base;
  base.base_model_name_or_path = options.base_model;
  base.use_rslora = options.scaling == Scaling::rank_stabilized;
  base.fan_in_fan_out = options.fan_in_fan_out;
  return base;
}

}  // namespace detail

/// Saves what was trained of a network as an adapter folder that PEFT loads: adapters, trained
/// biases, and layers trained in full as modules_to_save. PEFT also trains in full a layer whose
/// name ends like one of these; it is saved in full, too. Killed at any moment, load_peft finds the
/// old adapter or the new one, never one's tensors with the other's configuration.
///
/// The frozen weights are not saved, and adapters are loaded over those that the base of the reader
/// has. A network that stands on other ones, as after an initialisation that changed them (PiSSA,
/// ...), is saved by way of to_plain: here nobody can tell. An adapter that is disabled is saved as
/// any other, as the folder has no word for it.
/// @param base the configuration that the adapter was loaded with: what the network does not know
/// (base_model_name_or_path, task_type, init_lora_weights, use_rslora, fan_in_fan_out) is taken
/// from it, and modules, ranks and alphas in its words where these still say what the network is;
/// an init_lora_weights with which PEFT would not load the adapter is written as true
/// @throws ArgumentError if the network has no adapter, or PEFT cannot tell an adapted layer from
/// one that is trained in full; FileError
template <FrozenWeight Weight, std::same_as<PeftConfig> Config>  // so {...} are SavePeftOptions
void save_peft(const std::filesystem::path& folder, const AdaptedMlp<Weight>& network,
               const Config& base) {
  const PeftConfig config = detail::describe(network, base);
  detail::write_peft(folder, config, detail::peft_tensors(network, config));
}

/// The same for an adapter that was made here.
template <FrozenWeight Weight>
void save_peft(const std::filesystem::path& folder, const AdaptedMlp<Weight>& network,
               const SavePeftOptions& options = {}) {
  save_peft(folder, network, detail::base_config(options));
}

}  // namespace loraplus
