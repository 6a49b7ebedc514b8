// The results file of a run: lines of JSON, of which the first tells the settings that it was made
// with and each other one a finished trial. It is only ever appended to, a line at a time, so that
// a program killed at any moment loses nothing but the trials under way.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

namespace lab {

using Json = nlohmann::ordered_json;

/// A results file that cannot be used as it is; says which, where in it and why.
class StoreError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An open file, closed at the end of its life, whatever ends it.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Descriptor();

  int get() const { return value_; }
  bool is_open() const { return value_ >= 0; }

 private:
  int value_ = -1;
};

class Store {
 public:
  /// Makes the file, or goes on with one that is there. A last line that was cut off is taken away,
  /// which `notice()` tells.
  /// @param settings what decides the results
  /// @param made_by what is told of them besides, as the machine; kept from the first time
  /// @throws StoreError if the file was made with other settings (which are named), is damaged
  /// elsewhere than at its end, or is in use
  Store(std::filesystem::path file, const Json& settings, const Json& made_by = Json::object());

  /// Reads a file with whatever settings it has, and changes nothing.
  /// @throws StoreError
  static Store read(const std::filesystem::path& file);

  Store(Store&& other) noexcept;

  const Json& settings() const { return settings_; }
  const Json& made_by() const { return made_by_; }
  /// What happened to the file when it was opened; empty if nothing did.
  const std::string& notice() const { return notice_; }
  bool is_writable() const { return descriptor_.is_open(); }

  /// The result of a trial, or null. Not to be called while others append.
  const Json* find(const std::string& key) const;

  /// Appends a finished trial. Several threads may.
  void append(const std::string& key, const Json& result);

  /// All results by key.
  const std::map<std::string, Json>& results() const { return results_; }

 private:
  explicit Store(std::filesystem::path file) : file_(std::move(file)) {}

  /// @return the bytes that whole lines have
  std::size_t load();
  void open();
  void write_line(const Json& line) const;
  void require_settings(const Json& expected) const;

  std::filesystem::path file_;
  Descriptor descriptor_;
  Json settings_;
  Json made_by_;
  std::string notice_;
  std::map<std::string, Json> results_;
  std::mutex mutex_;
};

}  // namespace lab
