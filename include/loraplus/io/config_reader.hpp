// SPDX-License-Identifier: MIT
//
// The JSON of a configuration, read value by value. Whoever wrote it, reading it takes little time
// and memory.
#pragma once

#include <cstdint>
#include <loraplus/core/matrix.hpp>
#include <loraplus/io/file_error.hpp>
#include <loraplus/io/module_targets.hpp>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace loraplus::inline v0_1::detail {

inline constexpr std::size_t largest_config = std::size_t{1} << 20;  // bytes

/// Reads one value after the other of a configuration; what is wrong is named by file and key.
class ConfigReader {
 public:
  /// @param text the content of the file, @param file its name, for errors
  /// @throws FileError if it is no JSON object, or beyond the bounds
  ConfigReader(const std::string& text, std::string file) : file_(std::move(file)) {
    if (text.size() > largest_config) {
      throw FileError(file_ + " has " + std::to_string(text.size()) + " bytes, at most " +
                      std::to_string(largest_config) + " may be");
    }
    if (text.find('\0') != std::string::npos) throw FileError(file_ + " has a zero byte");
    try {
      json_ = nlohmann::json::parse(text, [this](int depth, auto event, const auto& value) {
        watch(static_cast<std::size_t>(depth), event, value);
        return true;
      });
    } catch (const nlohmann::json::exception& error) {
      throw FileError(file_ + " is no JSON: " + error.what());
    }
    if (!json_.is_object()) throw FileError(file_ + " must hold an object");
  }

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }

  /// Whether the key has a value that asks for something.
  bool asks(const char* key) const {
    return has(key) && json_[key] != false && !(json_[key].is_structured() && json_[key].empty());
  }

  template <typename Value>
  void read(const char* key, Value& value) const {
    if (!has(key)) return;
    try {
      json_[key].get_to(value);
    } catch (const nlohmann::json::exception&) {
      fail(key, "cannot be " + shown(key));
    }
  }

  void read_count(const char* key, Index& value) const {
    if (!has(key)) return;
    if (!json_[key].is_number_unsigned() || json_[key] == 0) {
      fail(key, "must be a positive integer, found " + shown(key));
    }
    read(key, value);
  }

  /// Names, or a regular expression.
  void read_names(const char* key, ModuleNames& names) const {
    if (!has(key)) return;
    if (json_[key].is_string()) {
      names = json_[key].get<std::string>();
    } else {
      std::vector<std::string> list;
      read(key, list);
      names = std::move(list);
    }
  }
  /// A name or a list of them.
  void read_names(const char* key, std::vector<std::string>& names) const {
    if (has(key) && json_[key].is_string()) {
      const auto name = json_[key].get<std::string>();
      if (!name.empty()) names = {name};
    } else {
      read(key, names);
    }
  }

  void read_layers(const char* key, std::optional<std::vector<Index>>& layers) const {
    if (!has(key)) return;
    using nlohmann::json;
    const json list = json_[key].is_array() ? json_[key] : json::array({json_[key]});
    layers.emplace();
    for (const auto& layer : list) {
      if (!layer.is_number_integer()) fail(key, "must hold integers, found " + shown(layer));
      layers->push_back(layer.get<Index>());
    }
  }

  /// An object of positive numbers by names, in the order of the file.
  template <typename Value>
  void read_patterns(const char* key, std::vector<std::pair<std::string, Value>>& patterns) const {
    if (!has(key)) return;
    if (!json_[key].is_object()) fail(key, "must be an object, found " + shown(key));
    std::set<std::string_view> seen;  // of one that is there twice the last value counts
    for (const std::string& pattern : keys_.at(key)) {
      if (!seen.insert(pattern).second) continue;
      const nlohmann::json& value = json_[key][pattern];
      const bool fits = std::is_integral_v<Value> ? value.is_number_unsigned() : value.is_number();
      if (!fits || !(value.template get<Value>() > 0)) {
        fail(key, "must give '" + pattern + "' a positive " +
                      (std::is_integral_v<Value> ? "integer" : "number") + ", found " +
                      shown(value));
      }
      patterns.emplace_back(pattern, value.template get<Value>());
    }
  }

  /// The value as a message has it: not too long.
  std::string shown(const char* key) const { return shown(json_[key]); }

  [[noreturn]] void fail(const char* key, const std::string& what) const {
    throw FileError(file_ + ": '" + key + "' " + what);
  }

  const nlohmann::json& json() const { return json_; }

 private:
  static constexpr std::size_t most_keys = 4096;
  static constexpr std::size_t deepest = 128;  // values are copied and printed by recursion

  /// Sees the file while it is read: what is too large for an object of a configuration, and the
  /// order of keys, which json_ does not keep.
  void watch(std::size_t depth, nlohmann::json::parse_event_t event, const nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    const bool begins = event == Event::object_start || event == Event::array_start;
    if (begins && depth >= deepest) {
      throw FileError(file_ + " is nested more than " + std::to_string(deepest) +
                      " levels deep in '" + key_ + "'");
    }
    if (event != Event::key || depth > 2) return;
    const auto name = value.get<std::string>();
    if (depth == 1) {
      key_ = name;
      keys_[key_].clear();
      if (keys_.size() > most_keys) fail_keys("it");
    } else {
      keys_[key_].push_back(name);
      if (keys_[key_].size() > most_keys) fail_keys("'" + key_ + "'");
    }
  }

  [[noreturn]] void fail_keys(const std::string& what) const {
    throw FileError(file_ + ": " + what + " has more than " + std::to_string(most_keys) + " keys");
  }

  static std::string shown(const nlohmann::json& value) {
    constexpr std::size_t longest = 64;
    const std::string text = value.dump(-1, ' ', true);  // ASCII, which can be cut anywhere
    return text.size() <= longest ? text : text.substr(0, longest) + "...";
  }

  nlohmann::json json_;
  std::map<std::string, std::vector<std::string>> keys_;  // of the objects in json_
  std::string key_;                                       // of json_, which is being read
  std::string file_;
};

}  // namespace loraplus::detail
