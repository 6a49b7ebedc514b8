// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/io/load_report.hpp>
#include <loraplus/io/peft_config.hpp>
#include <loraplus/io/peft_folder.hpp>
#include <loraplus/io/peft_layers.hpp>
#include <loraplus/io/safetensors.hpp>
#include <loraplus/nn/adapt.hpp>

namespace loraplus::inline v0_1 {

/// A network with the adapter of a folder on it, and what was found there.
template <FrozenWeight Weight>
struct LoadedPeft {
  /// Over the weights of the base.
  AdaptedMlp<Weight> network;
  /// As the folder has it.
  PeftConfig config;
  /// Tensors that were used, missing and not expected.
  LoadReport report;
};

namespace detail {

/// No more of it than tells that it is too large. @throws FileError
inline std::string read_config(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  const auto bytes = mapped.bytes();
  return {reinterpret_cast<const char*>(bytes.data()),
          std::min<std::size_t>(bytes.size(), largest_config + 1)};
}

/// The files of an adapter, both of one saving.
struct PeftFiles {
  std::string config_name;
  std::string config;
  Safetensors tensors;
};

/// @throws FileError
inline PeftFiles open_peft(const std::filesystem::path& folder) {
  return open_together(
      folder, std::array<std::string, 2>{peft_config_file, peft_tensor_file},
      [](const std::filesystem::path& config, const std::filesystem::path& tensors) {
        return PeftFiles{config.string(), read_config(config), Safetensors(tensors)};
      });
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

  bool contains(const std::string& module, const char* tensor) const {
    return file_.contains(peft_name(module, tensor));
  }

  /// Biases of a module in one that is trained in full, under their names in PEFT's network: where
  /// all are trained it saves those of its copy, "<outer>.modules_to_save.<adapter>" or without the
  /// adapter, and of the original, too. They say nothing new.
  void pass_over_copies(const std::string& module, const SavedModule& saved) {
    const std::string end = module.substr(saved.module.size()) + ".bias";
    for (const char* copy : {"modules_to_save", "original_module"}) {
      const std::string begin = peft_name(saved.module, copy);
      for (const std::string& name : file_.names()) {
        if (name.size() < begin.size() + end.size()) continue;
        const std::size_t between = name.size() - begin.size() - end.size();
        const std::string adapter = name.substr(begin.size(), between);
        const bool is_one = adapter.empty() || adapter.rfind('.') == 0;
        if (is_one && name.starts_with(begin) && name.ends_with(end)) {
          report_.used.push_back(name);
        }
      }
    }
  }

  LoadReport finish() {
    report_.report_unused(file_.names());
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
    const bool is_of_base = parameter.role == Role::bias && parameter.name.str() == "bias";
    if (is_of_base) parameter.value = bias->to_vector<Scalar>().array();
  });
}

/// Sets what was learnt of an adapter that was made for the configuration, and a trained bias of
/// its weight. A without B adapts nothing yet, as before training. B without A is left unused: with
/// an A that is drawn it would add noise.
template <typename Layer>
void load_adapter(const std::string& module, Layer& layer, PeftTensors& tensors) {
  using Scalar = typename Layer::Scalar;
  const PeftLayout layout = peft_layout(layer);
  auto& part = adapted_part(layer);
  auto factors = part.factors().factors();
  const auto a = tensors.take(module, layout.a, layout.a_shape);
  if (a || !tensors.contains(module, layout.b)) {
    const auto b = tensors.take(module, layout.b, layout.b_shape);
    if (a) factors.a = a->flattened().template to_matrix<Scalar>();
    if (a) factors.b.setZero();
    if (b) factors.b = b->flattened().template to_matrix<Scalar>();
  }
  if (part.factors().has_bias()) {
    const auto bias = tensors.take(module, peft_lora_bias, {part.out_features()});
    if (bias) factors.bias = bias->template to_vector<Scalar>();
  }
  part.set_factors(factors);
  if (part.magnitude() != nullptr) {
    const auto m = tensors.take(module, peft_magnitude, layout.magnitude_shape);
    if (m) part.set_magnitude(m->flattened().template to_matrix<Scalar>().reshaped());
  }
  if constexpr (requires { part.trains_bias(); }) {
    if (!part.trains_bias()) return;
    set_bias(part, tensors.take(module, "base_layer.bias", {part.out_features()}));
  }
}

/// What `make` makes of a module. @throws FileError for what an adapter of it cannot be
template <typename Make>
auto made_for(const std::string& config_name, const std::string& module, Make&& make) {
  try {
    return make();
  } catch (const ArgumentError& error) {
    throw FileError(config_name + ": '" + module + "': " + error.what());
  }
}

template <FrozenWeight Weight>
AdaptedLayer<Weight> load_adapted(const Weight& weight, const std::string& module,
                                  const LoraOptions& options, PeftTensors& tensors) {
  std::mt19937_64 generator;  // what is drawn is replaced, or A's and without effect while B = 0
  LoraLinear<Weight> layer(weight, options, generator);
  load_adapter(module, layer, tensors);
  return layer;
}

template <FrozenWeight Weight>
AdaptedLayer<Weight> load_frozen(const Weight& weight, const std::string& module, BiasMode bias,
                                 PeftTensors& tensors) {
  FrozenLinear<Weight> layer(weight, bias == BiasMode::all);
  if (layer.trains_bias()) set_bias(layer, tensors.take(module, "bias", {weight.out_features()}));
  return layer;
}

/// A layer trained in full; what the adapter lacks of it is that of the base.
template <FrozenWeight Weight>
AdaptedLayer<Weight> load_saved(const typename FrozenMlp<Weight>::Stage& stage,
                                const SavedModule& saved, BiasMode bias, PeftTensors& tensors) {
  using Scalar = typename Weight::Scalar;
  const Index out = stage.layer.out_features(), in = stage.layer.in_features();
  const Linear<Scalar> base = thawed<Weight>(stage);
  const std::optional<TensorView> w = tensors.take(stage.name, "weight", {out, in});
  Matrix<Scalar> weight = w ? w->to_matrix<Scalar>() : base.weight();
  if (base.bias().size() == 0) return Linear<Scalar>(std::move(weight));
  const std::optional<TensorView> b = tensors.take(stage.name, "bias", {out});
  if (bias == BiasMode::all) tensors.pass_over_copies(stage.name, saved);
  return Linear<Scalar>(std::move(weight),
                        b ? b->to_vector<Scalar>() : Vector<Scalar>(base.bias()));
}

/// @throws FileError that tells which of the reasons it is that no module is adapted
template <FrozenWeight Weight>
void require_targets(const FrozenMlp<Weight>& base, const ModuleTargets& modules,
                     const std::string& file) {
  const auto selects = [&](const ModuleTargets& some) {
    const auto stages = base.stages();
    return std::any_of(stages.begin(), stages.end(),
                       [&](const auto& stage) { return is_target(some, stage.name); });
  };
  if (selects(modules)) return;
  const auto fail = [&](const std::string& why) { throw FileError(file + ": " + why); };
  if (std::holds_alternative<std::monostate>(modules.targets)) fail("'target_modules' is missing");
  const std::string nothing = " leaves nothing to adapt of what 'target_modules' names";
  ModuleTargets others = modules;
  others.exclude = {};
  if (selects(others)) fail("'exclude_modules'" + nothing);
  others.modules_to_save = {};
  if (selects(others)) fail("'modules_to_save'" + nothing);
  others.layers = {};
  if (selects(others)) fail("'layers_to_transform'" + nothing);
  fail("'target_modules' names no module of the network, which has " + base.layer_names());
}

/// @throws FileError if PEFT would train an adapted module in full, too
template <FrozenWeight Weight>
void require_adaptable(const FrozenMlp<Weight>& base, const ModuleTargets& modules,
                       const std::string& file) {
  for (const auto& stage : base.stages()) {
    if (!is_target(modules, stage.name)) continue;
    if (const auto saved = name_against_adapter(modules, stage.name)) {
      throw FileError(file + ": 'modules_to_save' names '" + *saved + "', which for PEFT means '" +
                      stage.name + "' or a part of it, too, that 'target_modules' names");
    }
  }
}

/// "all-linear", in whatever case, means every layer: PEFT spares an output head only in models of
/// transformers.
inline bool is_all_linear(const ModuleTargets& modules) {
  const auto* text = std::get_if<std::string>(&modules.targets);
  const std::string_view all = "all-linear";
  return text != nullptr &&
         std::equal(text->begin(), text->end(), all.begin(), all.end(), [](char c, char lower) {
           return (c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) == lower;
         });
}

template <FrozenWeight Weight>
void expand_all_linear(const FrozenMlp<Weight>& base, ModuleTargets& modules) {
  if (!is_all_linear(modules)) return;
  std::vector<std::string> names;
  for (const auto& stage : base.stages()) {
    names.push_back(stage.name);
  }
  modules.targets = std::move(names);
}

}  // namespace detail

/// The network with the adapter of a folder over it. Tensors that are missing or not expected are
/// in the report; an adapter without its tensors adds nothing.
/// @throws FileError for what cannot be read, is not in this library, or does not fit: the
/// configuration's key, or the tensor with the shape found and the one needed
template <FrozenWeight Weight>
LoadedPeft<Weight> load_peft(const std::filesystem::path& folder, const FrozenMlp<Weight>& base) {
  const detail::PeftFiles files = detail::open_peft(folder);
  PeftConfig config = parse_peft_config(files.config, files.config_name);
  detail::expand_all_linear(base, config.modules);
  detail::require_targets(base, config.modules, files.config_name);
  detail::require_adaptable(base, config.modules, files.config_name);
  detail::PeftTensors tensors(files.tensors);
  auto network = detail::replace_layers(base, [&](const auto& stage) -> AdaptedLayer<Weight> {
    if (const auto saved = saved_module(config.modules, stage.name)) {
      return detail::load_saved<Weight>(stage, *saved, config.bias, tensors);
    }
    const Weight& weight = stage.layer.weight();
    if (is_target(config.modules, stage.name)) {
      return detail::made_for(files.config_name, stage.name, [&] {
        return detail::load_adapted(weight, stage.name, config.options_for(stage.name), tensors);
      });
    }
    return detail::load_frozen(weight, stage.name, config.bias, tensors);
  });
  return {std::move(network), std::move(config), tensors.finish()};
}

}  // namespace loraplus
