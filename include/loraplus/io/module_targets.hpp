// SPDX-License-Identifier: MIT
//
// Which modules of a network an adapter configuration means, by the rules of PEFT 0.20.
#pragma once

#include <algorithm>
#include <loraplus/core/error.hpp>
#include <optional>
#include <regex>
#include <string>
#include <variant>
#include <vector>

namespace loraplus {

/// Modules: nothing told; names, each the whole name of a module or its end after a dot; or a
/// regular expression for the whole name.
using ModuleNames = std::variant<std::monostate, std::vector<std::string>, std::string>;

struct ModuleTargets {
  ModuleNames targets = {};
  ModuleNames exclude = {};                       ///< these never
  std::vector<std::string> modules_to_save = {};  ///< trained in full, so never adapted
  std::optional<std::vector<Index>> layers = {};  ///< only in layers of these indices
  std::vector<std::string> layers_pattern = {};   ///< names before the index of a layer
};

namespace detail {

inline constexpr std::size_t longest_expression = 4096;

/// @throws ArgumentError that names the expression. The standard library compiles and matches by
/// recursion, so that a long enough one would end the program.
inline std::regex compile(const std::string& expression) {
  if (expression.size() > longest_expression) {
    throw ArgumentError("'" + expression.substr(0, 32) + "...' is a regular expression of " +
                        std::to_string(expression.size()) + " characters, at most " +
                        std::to_string(longest_expression) + " may be");
  }
  try {
    return std::regex(expression);
  } catch (const std::regex_error& error) {
    throw ArgumentError("'" + expression +
                        "' is no regular expression (ECMAScript): " + error.what());
  }
}

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
  return expression != nullptr && std::regex_match(module, compile(*expression));
}

/// A name of modules_to_save as a part of a module's name, or as parts.
inline std::string saved_expression(const std::string& name) {
  return "(^|\\.)" + name + "($|\\.)";
}

/// Whether one of the names stands in the name of the module as a part, or as parts.
inline bool is_saved(const std::vector<std::string>& modules_to_save, const std::string& module) {
  return std::any_of(modules_to_save.begin(), modules_to_save.end(), [&](const std::string& name) {
    return std::regex_search(module, compile(saved_expression(name)));
  });
}

inline std::string layer_expression(const std::string& pattern) {
  return ".*?\\.(?:" + pattern + ")\\.(\\d{1,18})\\.";
}

/// The index of the layer that the module is in: the number after one of the patterns, or after any
/// part, with another part before it.
inline std::optional<Index> layer_index(const std::string& module,
                                        const std::vector<std::string>& patterns) {
  const std::vector<std::string> any = {"[^.]*"};
  for (const std::string& pattern : patterns.empty() ? any : patterns) {
    std::smatch found;
    if (std::regex_search(module, found, compile(layer_expression(pattern)),
                          std::regex_constants::match_continuous)) {
      return std::stol(found[found.size() - 1]);
    }
  }
  return std::nullopt;
}

inline bool is_in_layers(const ModuleTargets& targets, const std::string& module) {
  if (!targets.layers) return true;
  const auto index = layer_index(module, targets.layers_pattern);
  return index &&
         std::find(targets.layers->begin(), targets.layers->end(), *index) != targets.layers->end();
}

/// The expression for a module's name of one of PEFT's patterns: the whole name, or its end after a
/// dot.
inline std::string pattern_expression(const std::string& pattern) {
  return "(?:.*\\.)?(?:" + pattern + ")";
}

}  // namespace detail

/// Whether the module of this full name is to be adapted.
/// @throws ArgumentError for an expression that is none
inline bool is_target(const ModuleTargets& targets, const std::string& module) {
  if (detail::is_among(targets.exclude, module)) return false;
  if (detail::is_saved(targets.modules_to_save, module)) return false;
  if (const auto* names = std::get_if<std::vector<std::string>>(&targets.targets)) {
    if (std::find(names->begin(), names->end(), module) != names->end()) return true;
    return detail::is_among(*names, module) && detail::is_in_layers(targets, module);
  }
  return detail::is_among(targets.targets, module);
}

/// The value of the first pattern that fits the module, a regular expression for its name or the
/// end of it after a dot; `otherwise` if none does.
template <typename Value>
Value find_pattern(const std::vector<std::pair<std::string, Value>>& patterns,
                   const std::string& module, Value otherwise) {
  for (const auto& [pattern, value] : patterns) {
    if (std::regex_match(module, detail::compile(detail::pattern_expression(pattern))))
      return value;
  }
  return otherwise;
}

}  // namespace loraplus
