// SPDX-License-Identifier: MIT
//
// Adapter folders of PEFT: adapter_config.json and adapter_model.safetensors. An adapter trained
// here goes on in Python, and one trained there goes on here.
#pragma once

#include <fstream>
#include <loraplus/io/atomic_folder.hpp>
#include <loraplus/io/load_report.hpp>
#include <loraplus/io/peft_config.hpp>
#include <loraplus/io/safetensors.hpp>
#include <loraplus/nn/adapt.hpp>

namespace loraplus {

/// What a network does not know of its adapter.
struct SavePeftOptions {
  std::string base_model = {};          ///< base_model_name_or_path: where Python finds the base
  Scaling scaling = Scaling::standard;  ///< by which the network's alpha is told
};

/// A network with the adapter of a folder on it, and what was found there.
template <FrozenWeight Weight>
struct LoadedPeft {
  AdaptedMlp<Weight> network;
  PeftConfig config;
  LoadReport report;
};

namespace detail {

inline constexpr const char* peft_config_file = "adapter_config.json";
inline constexpr const char* peft_tensor_file = "adapter_model.safetensors";

inline std::string peft_name(const std::string& module, const char* tensor) {
  return "base_model.model." + module + '.' + tensor;
}

inline std::string read_text(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw FileError("cannot read " + file.string() + ": " + std::strerror(errno));
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// alpha of a layer: s r, or s sqrt(r). What float has rounded is rounded back.
inline double alpha_of(double scaling, Index rank, Scaling kind) {
  const auto r = static_cast<double>(rank);
  const double alpha = scaling * (kind == Scaling::standard ? r : std::sqrt(r));
  const double whole = std::round(alpha);
  return std::abs(alpha - whole) < 1e-6 * alpha ? whole : alpha;
}

/// A regular expression that fits this module alone.
inline std::string exact_pattern(const std::string& module) {
  std::string pattern = "^";
  for (const char c : module) {
    if (std::string_view(".+*?()[]{}|^$\\").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

template <FrozenWeight Weight>
PeftConfig describe(const AdaptedMlp<Weight>& network, const SavePeftOptions& options) {
  PeftConfig config;
  config.use_rslora = options.scaling == Scaling::rank_stabilized;
  config.base_model_name_or_path = options.base_model;
  std::vector<std::string> targets;
  bool trains_adapted_bias = false, trains_other_bias = false;
  for (const auto& stage : network.stages()) {
    if (const auto* adapted = stage.layer.template get_if<LoraLinear<Weight>>()) {
      const double alpha =
          alpha_of(static_cast<double>(adapted->scaling()), adapted->rank(), options.scaling);
      if (targets.empty()) {
        config.r = adapted->rank();
        config.lora_alpha = alpha;
        config.lora_dropout = adapted->dropout();
      }
      if (adapted->rank() != config.r) {
        config.rank_pattern.emplace_back(exact_pattern(stage.name), adapted->rank());
      }
      if (alpha != config.lora_alpha) {
        config.alpha_pattern.emplace_back(exact_pattern(stage.name), alpha);
      }
      trains_adapted_bias = trains_adapted_bias || adapted->trains_bias();
      targets.push_back(stage.name);
    } else if (const auto* frozen = stage.layer.template get_if<FrozenLinear<Weight>>()) {
      trains_other_bias = trains_other_bias || frozen->trains_bias();
    } else {
      config.modules.modules_to_save.push_back(stage.name);
    }
  }
  if (targets.empty()) throw ArgumentError("save_peft: the network has no adapter");
  config.modules.targets = std::move(targets);
  if (trains_adapted_bias) {
    config.bias = trains_other_bias ? BiasMode::all : BiasMode::lora_only;
  }
  return config;
}

template <FrozenWeight Weight>
TensorList peft_tensors(const AdaptedMlp<Weight>& network) {
  TensorList tensors;
  for (const auto& stage : network.stages()) {
    const auto add = [&](const char* tensor, const auto& value) {
      tensors.add(peft_name(stage.name, tensor), value);
    };
    if (const auto* adapted = stage.layer.template get_if<LoraLinear<Weight>>()) {
      add("lora_A.weight", adapted->factors().a());
      add("lora_B.weight", adapted->factors().b());
      if (adapted->trains_bias()) add("base_layer.bias", adapted->bias());
    } else if (const auto* frozen = stage.layer.template get_if<FrozenLinear<Weight>>()) {
      if (frozen->trains_bias()) add("bias", frozen->bias());
    } else {
      const auto& linear = *stage.layer.template get_if<Linear<typename Weight::Scalar>>();
      add("weight", linear.weight());
      if (linear.bias().size() > 0) add("bias", linear.bias());
    }
  }
  return tensors;
}

/// Takes tensors of an adapter by their names, and keeps account of them.
class PeftTensors {
 public:
  explicit PeftTensors(const Safetensors& file) : file_(file) {}

  /// The tensor of a module, of this shape; nothing, and an entry in the report, if it is missing.
  /// @throws FileError if it has another shape
  std::optional<TensorView> take(const std::string& module, const char* tensor,
                                 const std::vector<Index>& shape) {
    const std::string name = peft_name(module, tensor);
    if (!file_.contains(name)) {
      report_.missing.push_back(name);
      return std::nullopt;
    }
    const TensorView view = file_.at(name);
    if (view.shape != shape) {
      TensorView expected = view;
      expected.shape = shape;
      view.fail("does not fit the configuration and the network, which need " +
                expected.description());
    }
    report_.used.push_back(name);
    return view;
  }

  LoadReport finish() {
    for (const std::string& name : file_.names()) {
      if (std::find(report_.used.begin(), report_.used.end(), name) == report_.used.end()) {
        report_.unexpected.push_back(name);
      }
    }
    return std::move(report_);
  }

 private:
  const Safetensors& file_;
  LoadReport report_;
};

/// Sets a bias that is trained; leaves all else.
template <typename Layer>
void set_bias(Layer& layer, const std::optional<TensorView>& bias) {
  using Scalar = typename Layer::Scalar;
  if (!bias) return;
  layer.visit_parameters([&](Parameter<Scalar> parameter) {
    if (parameter.role == Role::bias) parameter.value = bias->to_vector<Scalar>().array();
  });
}

template <FrozenWeight Weight>
AdaptedLayer<Weight> load_adapted(const Weight& weight, const std::string& module,
                                  const LoraOptions& options, PeftTensors& tensors) {
  using Scalar = typename Weight::Scalar;
  const Index out = weight.out_features(), in = weight.in_features();
  const std::optional<TensorView> a = tensors.take(module, "lora_A.weight", {options.rank, in});
  const std::optional<TensorView> b = tensors.take(module, "lora_B.weight", {out, options.rank});
  std::mt19937_64 generator;  // what is drawn is replaced, or A's and without effect while B = 0
  LoraLinear<Weight> layer(weight, options, generator);
  if (a && b) layer.set_factors(a->to_matrix<Scalar>(), b->to_matrix<Scalar>());
  if (layer.trains_bias()) set_bias(layer, tensors.take(module, "base_layer.bias", {out}));
  return layer;
}

template <FrozenWeight Weight>
AdaptedLayer<Weight> load_frozen(const Weight& weight, const std::string& module, BiasMode bias,
                                 PeftTensors& tensors) {
  FrozenLinear<Weight> layer(weight, bias == BiasMode::all);
  if (layer.trains_bias()) set_bias(layer, tensors.take(module, "bias", {weight.out_features()}));
  return layer;
}

/// A layer trained in full; where the adapter lacks it, that of the base.
template <FrozenWeight Weight>
AdaptedLayer<Weight> load_saved(const typename FrozenMlp<Weight>::Stage& stage,
                                PeftTensors& tensors) {
  using Scalar = typename Weight::Scalar;
  const Index out = stage.layer.out_features(), in = stage.layer.in_features();
  Linear<Scalar> base = thawed<Weight>(stage);
  const std::optional<TensorView> weight = tensors.take(stage.name, "weight", {out, in});
  if (base.bias().size() == 0) {
    if (weight) base = Linear<Scalar>(weight->to_matrix<Scalar>());
    return base;
  }
  const std::optional<TensorView> bias = tensors.take(stage.name, "bias", {out});
  if (!weight || !bias) return base;
  return Linear<Scalar>(weight->to_matrix<Scalar>(), bias->to_vector<Scalar>());
}

/// @throws FileError that tells which of the reasons it is that no module is adapted
template <FrozenWeight Weight>
void require_targets(const FrozenMlp<Weight>& base, const ModuleTargets& modules,
                     const std::string& file) {
  bool named = false;
  ModuleTargets without_exclusion = modules;
  without_exclusion.exclude = {};
  for (const auto& stage : base.stages()) {
    if (is_target(modules, stage.name)) return;
    named = named || is_target(without_exclusion, stage.name);
  }
  throw FileError(
      file + ": " +
      (named ? "'exclude_modules' excludes every module that 'target_modules' names"
             : "'target_modules' names no module of the network, which has " + base.layer_names()));
}

/// "all-linear" means every layer but the last, PEFT's output head.
template <FrozenWeight Weight>
void expand_all_linear(const FrozenMlp<Weight>& base, ModuleTargets& modules) {
  const auto* text = std::get_if<std::string>(&modules.targets);
  if (text == nullptr || *text != "all-linear") return;
  std::vector<std::string> names;
  for (const auto& stage : base.stages().first(base.stages().size() - 1)) {
    names.push_back(stage.name);
  }
  modules.targets = std::move(names);
}

}  // namespace detail

/// Where PEFT keeps the adapter of this name among several: "default" in the folder itself, any
/// other in one below it.
/// @throws ArgumentError if the name cannot be that of a folder
inline std::filesystem::path peft_adapter_folder(const std::filesystem::path& folder,
                                                 const std::string& adapter) {
  if (adapter == "default") return folder;
  if (adapter.empty() || adapter.find('/') != std::string::npos || adapter[0] == '.') {
    throw ArgumentError("'" + adapter + "' cannot be the name of an adapter: it is to be a folder");
  }
  return folder / adapter;
}

/// The names of the adapters that are kept so in a folder, sorted.
/// @throws FileError if it cannot be read
inline std::vector<std::string> peft_adapters(const std::filesystem::path& folder) {
  std::error_code error;
  const std::filesystem::directory_iterator entries(folder, error);
  if (error) throw FileError("cannot read " + folder.string() + ": " + error.message());
  const auto holds_one = [](const std::filesystem::path& place) {
    return std::filesystem::exists(current_file(place, detail::peft_config_file));
  };
  std::vector<std::string> names;
  if (holds_one(folder)) names.emplace_back("default");
  for (const auto& entry : entries) {
    const std::string name = entry.path().filename().string();
    if (name[0] == '.' || name == "default" || !entry.is_directory()) continue;
    if (holds_one(entry.path())) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Saves what was trained of a network as an adapter folder that PEFT loads: adapters, trained
/// biases, and layers trained in full as modules_to_save. Killed at any moment, load_peft finds the
/// old adapter or the new one, never one's tensors with the other's configuration.
/// @throws ArgumentError if the network has no adapter, FileError
template <FrozenWeight Weight>
void save_peft(const std::filesystem::path& folder, const AdaptedMlp<Weight>& network,
               const SavePeftOptions& options = {}) {
  const std::string config = to_text(detail::describe(network, options));
  AtomicFolder files(folder);
  write_safetensors(files.file(detail::peft_tensor_file), detail::peft_tensors(network),
                    {{"format", "pt"}});
  AtomicFile config_file(files.file(detail::peft_config_file));
  config_file.write(config);
  config_file.commit();
  files.commit();
}

/// The network with the adapter of a folder over it. Tensors that are missing or not expected are
/// in the report; an adapter without its tensors adds nothing.
/// @throws FileError for what cannot be read, is not in this library, or does not fit: the
/// configuration's key, or the tensor with the shape found and the one needed
template <FrozenWeight Weight>
LoadedPeft<Weight> load_peft(const std::filesystem::path& folder, const FrozenMlp<Weight>& base) {
  const auto config_file = current_file(folder, detail::peft_config_file);
  PeftConfig config = parse_peft_config(detail::read_text(config_file), config_file.string());
  detail::expand_all_linear(base, config.modules);
  detail::require_targets(base, config.modules, config_file.string());
  const Safetensors file(current_file(folder, detail::peft_tensor_file));
  detail::PeftTensors tensors(file);
  auto network = detail::replace_layers(base, [&](const auto& stage) -> AdaptedLayer<Weight> {
    if (detail::is_saved(config.modules.modules_to_save, stage.name)) {
      return detail::load_saved<Weight>(stage, tensors);
    }
    const Weight& weight = stage.layer.weight();
    if (is_target(config.modules, stage.name)) {
      return detail::load_adapted(weight, stage.name, config.options_for(stage.name), tensors);
    }
    return detail::load_frozen(weight, stage.name, config.bias, tensors);
  });
  return {std::move(network), std::move(config), tensors.finish()};
}

}  // namespace loraplus
