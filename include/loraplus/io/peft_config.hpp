// SPDX-License-Identifier: MIT
//
// adapter_config.json of PEFT: what a LoRA adapter is, and on which modules.
#pragma once

#include <cmath>
#include <cstdint>
#include <loraplus/adapter/lora_options.hpp>
#include <loraplus/io/config_reader.hpp>
#include <loraplus/io/module_targets.hpp>

namespace loraplus::inline v0_1 {

/// The configuration of a LoRA adapter with PEFT's names and defaults, as far as it decides what is
/// computed. What of PEFT's LoRA this library does not have is refused, not passed over.
struct PeftConfig {
  template <typename Value>
  using Patterns = std::vector<std::pair<std::string, Value>>;  ///< by regular expressions

  /// Rank, unless rank_pattern says another.
  Index r = 8;
  /// Alpha, unless alpha_pattern says another.
  double lora_alpha = 8;
  /// Probability, in [0, 1).
  double lora_dropout = 0;
  /// s = alpha / sqrt(r).
  bool use_rslora = false;
  /// DoRA.
  bool use_dora = false;
  /// A bias on B.
  bool lora_bias = false;
  /// Whether the base has its weights in x out.
  bool fan_in_fan_out = false;
  /// Which biases are trained.
  BiasMode bias = BiasMode::none;
  /// Ranks of the modules that match.
  Patterns<Index> rank_pattern = {};
  /// Alphas of the modules that match.
  Patterns<double> alpha_pattern = {};
  /// Which modules are adapted, and which are trained in full.
  ModuleTargets modules = {};
  /// PEFT's word for the initialisation; it does nothing once trained.
  std::variant<bool, std::string> init_lora_weights = true;
  /// Where Python finds the base.
  std::string base_model_name_or_path = {};
  /// PEFT's word for the kind of model, or empty.
  std::string task_type = {};
  std::vector<std::string> unknown_keys = {};  ///< of a file that was read; they were passed over

  /// The options of the adapter on one module.
  LoraOptions options_for(const std::string& module) const {
    return {.rank = find_pattern(rank_pattern, module, r),
            .alpha = find_pattern(alpha_pattern, module, lora_alpha),
            .scaling = use_rslora ? Scaling::rank_stabilized : Scaling::standard,
            .dropout = lora_dropout,
            .bias = bias,
            .lora_bias = lora_bias,
            .dora = use_dora};
  }
};

namespace detail {

/// All keys of PEFT 0.21 with their defaults, in PEFT's order. Those that neither PeftConfig nor
/// refused_keys has decide nothing here: what they would change is done once, before training, by
/// PEFT, or concerns other kinds of models or programs.
inline constexpr const char* peft_defaults = R"({
  "alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "auto_mapping": null,
  "base_model_name_or_path": null, "bias": "none", "corda_config": null,
  "ensure_weight_tying": false, "eva_config": null, "exclude_modules": null,
  "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "kasa_config": null,
  "layer_replication": null, "layers_pattern": null, "layers_to_transform": null,
  "loftq_config": {}, "lora_alpha": 8, "lora_bias": false, "lora_dropout": 0.0,
  "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core",
  "modules_to_save": null, "monteclora_config": null, "peft_type": "LORA",
  "peft_version": "0.21.2", "qalora_group_size": 16, "r": 8, "rank_pattern": {}, "revision": null,
  "target_modules": null, "target_parameters": null, "task_type": null,
  "trainable_token_indices": null, "use_bdlora": null, "use_dora": false, "use_qalora": false,
  "use_rslora": false, "velora_config": null})";

/// The keys of what this library does not compute.
inline constexpr const char* refused_keys[] = {"alora_invocation_tokens",
                                               "arrow_config",
                                               "kasa_config",
                                               "layer_replication",
                                               "monteclora_config",
                                               "target_parameters",
                                               "trainable_token_indices",
                                               "use_bdlora",
                                               "use_qalora",
                                               "velora_config"};

inline void read_bias(const ConfigReader& reader, BiasMode& bias) {
  std::string text = "none";
  reader.read("bias", text);
  if (text == "none") {
    bias = BiasMode::none;
  } else if (text == "all") {
    bias = BiasMode::all;
  } else if (text == "lora_only") {
    bias = BiasMode::lora_only;
  } else {
    reader.fail("bias",
                "must be \"none\", \"all\" or \"lora_only\", found " + reader.shown("bias"));
  }
}

/// Compiles all expressions, so that what is wrong with one is found here and told with its key.
class ExpressionCheck {
 public:
  explicit ExpressionCheck(const ConfigReader& reader) : reader_(reader) {}

  void require(const char* key, const std::string& expression) {
    try {
      elements_ += compiled(expression).elements();
    } catch (const ArgumentError& error) {
      reader_.fail(key, std::string("is wrong: ") + error.what());
    }
    if (elements_ > most_elements_together) {
      reader_.fail(key, "makes the regular expressions of the file too many: of more than " +
                            std::to_string(most_elements_together) + " elements together");
    }
  }
  void require(const char* key, const ModuleNames& names) {
    if (const auto* expression = std::get_if<std::string>(&names)) require(key, *expression);
  }
  template <typename Value>
  void require(const char* key, const PeftConfig::Patterns<Value>& patterns) {
    for (const auto& [pattern, value] : patterns) {
      require(key, pattern_expression(pattern));
    }
  }

 private:
  const ConfigReader& reader_;
  std::size_t elements_ = 0;
};

inline void require_expressions(const ConfigReader& reader, const PeftConfig& config) {
  ExpressionCheck check(reader);
  check.require("target_modules", config.modules.targets);
  check.require("exclude_modules", config.modules.exclude);
  for (const std::string& name : config.modules.modules_to_save) {
    check.require("modules_to_save", saved_expression(name));
  }
  for (const std::string& pattern : config.modules.layers_pattern) {
    check.require("layers_pattern", pattern_expression(pattern));
  }
  check.require("rank_pattern", config.rank_pattern);
  check.require("alpha_pattern", config.alpha_pattern);
}

/// Layers are told with names of modules only, as PEFT has it.
inline void require_layers_fit(const ConfigReader& reader, const PeftConfig& config) {
  const bool is_expression = std::holds_alternative<std::string>(config.modules.targets);
  for (const char* key : {"layers_to_transform", "layers_pattern"}) {
    if (is_expression && reader.has(key)) {
      reader.fail(key, "cannot be told where 'target_modules' is a string");
    }
  }
  if (!config.modules.layers_pattern.empty() && !config.modules.layers) {
    reader.fail("layers_pattern", "is told without 'layers_to_transform'");
  }
}

/// An initialisation that changes the base weights is part of what the adapter was trained on.
inline void read_initialization(const ConfigReader& reader,
                                std::variant<bool, std::string>& initialization) {
  const char* key = "init_lora_weights";
  if (!reader.has(key)) return;
  if (reader.json()[key].is_boolean()) {
    initialization = reader.json()[key].get<bool>();
    return;
  }
  std::string text;
  reader.read(key, text);
  std::string lower = text;  // PEFT takes some of the names in any case
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  for (const char* changes_base : {"pissa", "olora", "corda", "loftq", "lora_ga"}) {
    if (lower.starts_with(changes_base)) {
      reader.fail(key, "is " + reader.shown(key) +
                           ", which changed the base weights: save the adapter with PEFT's "
                           "path_initial_model_for_weight_conversion to get a plain one");
    }
  }
  initialization = std::move(text);
}

}  // namespace detail

/// Refused is, besides what is wrong or not in this library, what takes long: more than 1 MiB, more
/// than 4096 keys in an object, more than 128 levels, regular expressions of more than 2^17
/// elements together. So is a lora_alpha of 0 or below, which PEFT takes: the library's scalings
/// are positive.
/// @param text the content of adapter_config.json, @param file its name, for errors
/// @throws FileError that names the key for what is missing, wrong, or not in this library
inline PeftConfig parse_peft_config(const std::string& text, const std::string& file) {
  const detail::ConfigReader reader(text, file);
  if (!reader.has("peft_type")) throw FileError(file + " has no key 'peft_type'");
  if (reader.json()["peft_type"] != "LORA") {
    reader.fail("peft_type", "must be \"LORA\", found " + reader.shown("peft_type"));
  }
  for (const char* key : detail::refused_keys) {
    if (reader.asks(key)) {
      reader.fail(key, "is " + reader.shown(key) + ", which this library does not compute");
    }
  }
  PeftConfig config;
  reader.read_count("r", config.r);
  reader.read("lora_alpha", config.lora_alpha);
  reader.read("lora_dropout", config.lora_dropout);
  reader.read("use_rslora", config.use_rslora);
  reader.read("use_dora", config.use_dora);
  reader.read("lora_bias", config.lora_bias);
  reader.read("fan_in_fan_out", config.fan_in_fan_out);
  reader.read_patterns("rank_pattern", config.rank_pattern);
  reader.read_patterns("alpha_pattern", config.alpha_pattern);
  reader.read_names("target_modules", config.modules.targets);
  reader.read_names("exclude_modules", config.modules.exclude);
  reader.read_names("modules_to_save", config.modules.modules_to_save);
  reader.read_layers("layers_to_transform", config.modules.layers);
  reader.read_names("layers_pattern", config.modules.layers_pattern);
  reader.read("base_model_name_or_path", config.base_model_name_or_path);
  reader.read("task_type", config.task_type);
  const auto known = nlohmann::json::parse(detail::peft_defaults);
  for (const auto& [key, value] : reader.json().items()) {
    if (!known.contains(key)) config.unknown_keys.push_back(key);
  }
  detail::read_bias(reader, config.bias);
  detail::read_initialization(reader, config.init_lora_weights);
  detail::require_layers_fit(reader, config);
  detail::require_expressions(reader, config);
  try {
    validate(config.options_for(""));
  } catch (const ArgumentError& error) {
    throw FileError(file + ": " + error.what());
  }
  return config;
}

namespace detail {

/// null, a list, or a regular expression.
inline nlohmann::json to_json(const ModuleNames& names) {
  if (const auto* list = std::get_if<std::vector<std::string>>(&names)) return *list;
  if (const auto* expression = std::get_if<std::string>(&names)) return *expression;
  return nullptr;
}

inline nlohmann::json to_json(const std::vector<std::string>& names) {
  return names.empty() ? nlohmann::json() : nlohmann::json(names);
}

inline nlohmann::json to_json(const std::string& text) {
  return text.empty() ? nlohmann::json() : nlohmann::json(text);
}

/// A whole number as one: PEFT's alpha is an integer.
inline nlohmann::json to_json(double number) {
  if (number == std::floor(number) && std::abs(number) < 1e15) {
    return static_cast<std::int64_t>(number);
  }
  return number;
}

/// In their order: of several patterns that fit, PEFT takes the first.
template <typename Value>
nlohmann::ordered_json to_json(const PeftConfig::Patterns<Value>& patterns) {
  nlohmann::ordered_json made = nlohmann::ordered_json::object();
  for (const auto& [pattern, value] : patterns) {
    made[pattern] = to_json(static_cast<double>(value));
  }
  return made;
}

inline const char* name_of(BiasMode bias) {
  switch (bias) {
    case BiasMode::none:
      return "none";
    case BiasMode::lora_only:
      return "lora_only";
    case BiasMode::all:
      return "all";
  }
  return "none";
}

}  // namespace detail

/// adapter_config.json with every key that PEFT 0.21 writes.
/// @throws ArgumentError if a text is not UTF-8
inline std::string to_text(const PeftConfig& config) {
  auto json = nlohmann::ordered_json::parse(detail::peft_defaults);
  json["r"] = config.r;
  json["lora_alpha"] = detail::to_json(config.lora_alpha);
  json["lora_dropout"] = config.lora_dropout;
  json["use_rslora"] = config.use_rslora;
  json["use_dora"] = config.use_dora;
  json["lora_bias"] = config.lora_bias;
  json["fan_in_fan_out"] = config.fan_in_fan_out;
  json["bias"] = detail::name_of(config.bias);
  json["rank_pattern"] = detail::to_json(config.rank_pattern);
  json["alpha_pattern"] = detail::to_json(config.alpha_pattern);
  json["target_modules"] = detail::to_json(config.modules.targets);
  json["exclude_modules"] = detail::to_json(config.modules.exclude);
  json["modules_to_save"] = detail::to_json(config.modules.modules_to_save);
  if (config.modules.layers) json["layers_to_transform"] = *config.modules.layers;
  json["layers_pattern"] = detail::to_json(config.modules.layers_pattern);
  std::visit([&](const auto& value) { json["init_lora_weights"] = value; },
             config.init_lora_weights);
  json["base_model_name_or_path"] = detail::to_json(config.base_model_name_or_path);
  json["task_type"] = detail::to_json(config.task_type);
  try {
    return json.dump(2);
  } catch (const nlohmann::json::exception& error) {
    throw ArgumentError(std::string("adapter_config.json: ") + error.what());
  }
}

}  // namespace loraplus
