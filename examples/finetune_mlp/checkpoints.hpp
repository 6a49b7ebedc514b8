// What a program that was killed does not have to do again.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "options.hpp"

namespace finetune {

using Json = nlohmann::json;

/// One training run that can be gone on with: its file, and what its caller keeps beside it.
struct KeptRun {
  std::filesystem::path file = {};  ///< empty: it is not kept
  std::function<Json()> notes = [] { return Json(); };
  std::function<void(const Json&)> restore = [](const Json& /*notes*/) {};
  std::chrono::milliseconds interval{1000};  ///< from one time that it is stored to the next
};

/// A folder with the results of the parts of a program that are finished, and the states of the
/// runs under way. Every file is written as a whole or not at all.
class Checkpoints {
 public:
  /// Keeps nothing.
  Checkpoints() = default;

  /// @param resume goes on with what is there; else what this program keeps there is taken away
  /// @throws std::runtime_error if there is nothing to go on with, or it was made with other
  /// options, which are named; or, without resume, if the folder holds what is not this program's
  Checkpoints(std::filesystem::path folder, const Options& options, bool resume);

  bool enabled() const { return !folder_.empty(); }

  /// Where a part under way is kept, with nothing beside it yet.
  KeptRun run(const std::string& part) const;

  /// The result of a part, if it is finished.
  std::optional<Json> result(const std::string& part) const;
  void finish(const std::string& part, const Json& result) const;

  /// A file of the folder; empty if nothing is kept.
  std::filesystem::path file(const std::string& name) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace finetune
