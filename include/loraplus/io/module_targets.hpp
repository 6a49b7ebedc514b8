// SPDX-License-Identifier: MIT
//
// Which modules of a network an adapter configuration means, by the rules of PEFT 0.21.
#pragma once

#include <algorithm>
#include <loraplus/io/expression.hpp>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace loraplus::inline v0_1 {

/// Modules: nothing told; names, each the whole name of a module or its end after a dot; or a
/// regular expression of Python for the whole name. Not matched, and refused, are lookbehind,
/// back-references, possessive repetitions, and flags but a leading (?i); and what is too large: a
/// file must not be able to stop a program. Letters are those of ASCII.
using ModuleNames = std::variant<std::monostate, std::vector<std::string>, std::string>;

/// Which modules of a network PEFT adapts or trains.
struct ModuleTargets {
  /// These are adapted.
  ModuleNames targets = {};
  ModuleNames exclude = {};                       ///< these never
  std::vector<std::string> modules_to_save = {};  ///< trained in full (saved_module), never adapted
  std::optional<std::vector<Index>> layers = {};  ///< only in layers of these indices
  std::vector<std::string> layers_pattern = {};   ///< names before the index of a layer
};

namespace detail {

inline bool ends_with_name(const std::string& module, const std::string& name) {
  return module == name || (module.size() > name.size() && module.ends_with(name) &&
                            module[module.size() - name.size() - 1] == '.');
}

inline bool is_among(const ModuleNames& names, const std::string& module) {
  if (const auto* list = std::get_if<std::vector<std::string>>(&names)) {
    return std::any_of(list->begin(), list->end(),
                       [&](const std::string& name) { return ends_with_name(module, name); });
  }
  const auto* expression = std::get_if<std::string>(&names);
  return expression != nullptr && matches(module, *expression);
}

/// The expression for a module's name of one of PEFT's patterns: the whole name, or its end after a
/// dot.
inline std::string pattern_expression(const std::string& pattern) {
  return "(?:.*\\.)?(?:" + pattern + ")";
}

/// The expression for the name of a module that a name of modules_to_save keeps from being adapted:
/// one that it is a part of, or parts. What is trained in full another rule tells, saved_module.
inline std::string saved_expression(const std::string& name) {
  return pattern_expression(name) + "(?:\\..*)?";
}

inline bool is_kept_unadapted(const std::vector<std::string>& modules_to_save,
                              const std::string& module) {
  return std::any_of(modules_to_save.begin(), modules_to_save.end(), [&](const std::string& name) {
    return matches(module, saved_expression(name));
  });
}

/// Whether the part of a name is a number; one of more than 18 digits is that of no layer.
inline bool is_number(const std::string& part) {
  return !part.empty() && part.size() <= 18 &&
         part.find_first_not_of("0123456789") == std::string::npos;
}

/// The index of the layer that the module is in: the first number as a part of its name after one
/// of the patterns, or, if there is none, after any two parts.
inline std::optional<Index> layer_index(const std::string& module,
                                        const std::vector<std::string>& patterns) {
  const std::vector<std::string> two_parts = {"[^.]*\\.[^.]*"};
  for (const std::string& pattern : patterns.empty() ? two_parts : patterns) {
    std::size_t dot = module.find('.'), next = 0;
    for (; (next = module.find('.', dot + 1)) != std::string::npos; dot = next) {
      const std::string part = module.substr(dot + 1, next - dot - 1);
      if (is_number(part) && matches(module.substr(0, dot), pattern_expression(pattern))) {
        return std::stoll(part);
      }
    }
  }
  return std::nullopt;
}

inline bool is_in_layers(const ModuleTargets& targets, const std::string& module) {
  if (!targets.layers || targets.layers->empty()) return true;
  const auto index = layer_index(module, targets.layers_pattern);
  return index &&
         std::find(targets.layers->begin(), targets.layers->end(), *index) != targets.layers->end();
}

}  // namespace detail

/// Whether the module of this full name is to be adapted.
/// @throws ArgumentError for an expression that is none
inline bool is_target(const ModuleTargets& targets, const std::string& module) {
  if (detail::is_among(targets.exclude, module)) return false;
  if (detail::is_kept_unadapted(targets.modules_to_save, module)) return false;
  if (const auto* names = std::get_if<std::vector<std::string>>(&targets.targets)) {
    if (std::find(names->begin(), names->end(), module) != names->end()) return true;
    return detail::is_among(*names, module) && detail::is_in_layers(targets, module);
  }
  return detail::is_among(targets.targets, module);
}

/// Why a module is trained in full.
struct SavedModule {
  std::string name;    ///< of modules_to_save
  std::string module;  ///< whose own name ends so: the module itself, or one that it is in
};

/// The outermost module of which PEFT trains a copy and that is or holds this one; nothing if there
/// is none. The end of a name is enough, without a dot before it: "0" means "10" too.
inline std::optional<SavedModule> saved_module(const ModuleTargets& targets,
                                               const std::string& module) {
  for (std::size_t end = 0; end != std::string::npos;) {
    end = module.find('.', end + 1);
    const std::string outer = module.substr(0, end);
    for (const std::string& name : targets.modules_to_save) {
      if (outer.ends_with(name)) return SavedModule{name, outer};
    }
  }
  return std::nullopt;
}

/// The value of the first pattern that fits the module, a regular expression for its name or the
/// end of it after a dot; `otherwise` if none does.
template <typename Value>
Value find_pattern(const std::vector<std::pair<std::string, Value>>& patterns,
                   const std::string& module, Value otherwise) {
  for (const auto& [pattern, value] : patterns) {
    if (detail::matches(module, detail::pattern_expression(pattern))) return value;
  }
  return otherwise;
}

}  // namespace loraplus
