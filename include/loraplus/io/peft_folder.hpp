// SPDX-License-Identifier: MIT
//
// How PEFT lays out its adapters: folders, files, and the names of tensors in them.
#pragma once

#include <loraplus/io/atomic_folder.hpp>
#include <loraplus/io/module_targets.hpp>

namespace loraplus::inline v0_1 {

namespace detail {

inline constexpr const char* peft_config_file = "adapter_config.json";
inline constexpr const char* peft_tensor_file = "adapter_model.safetensors";

inline std::string peft_name(const std::string& module, const std::string& tensor) {
  return "base_model.model." + module + '.' + tensor;
}

/// The modules that PEFT makes within an adapted one.
inline constexpr const char* adapted_parts[] = {"base_layer",           "lora_A",
                                                "lora_A.default",       "lora_B",
                                                "lora_B.default",       "lora_dropout",
                                                "lora_dropout.default", "lora_embedding_A",
                                                "lora_embedding_B",     "lora_magnitude_vector"};

/// The name of modules_to_save by which PEFT would train in full an adapted module or a part of it,
/// which it cannot, or would not adapt it; nothing if there is none.
inline std::optional<std::string> name_against_adapter(const ModuleTargets& modules,
                                                       const std::string& adapted) {
  if (const auto saved = saved_module(modules, adapted)) return saved->name;
  for (const std::string& name : modules.modules_to_save) {
    const bool is_part =
        std::any_of(std::begin(adapted_parts), std::end(adapted_parts),
                    [&](const char* part) { return (adapted + '.' + part).ends_with(name); });
    if (is_part || is_kept_unadapted({name}, adapted)) return name;
  }
  return std::nullopt;
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

}  // namespace loraplus
