// A laboratory for tests: a store in a fresh folder, and what works with it.
#pragma once

#include <filesystem>

#include "ratio_lab/search.hpp"

namespace test {

class Laboratory {
 public:
  explicit Laboratory(const std::string& name, unsigned threads = 2)
      : folder_(std::filesystem::path(RATIO_LAB_FOLDER) / name),
        store_(make_file(folder_), {{"test", name}}),
        progress_(true),
        problems_("synthetic"),
        runner_(store_, threads, progress_) {}

  lab::Lab get() { return {problems_, runner_}; }
  lab::Store& store() { return store_; }
  lab::Problems& problems() { return problems_; }
  lab::Runner& runner() { return runner_; }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  static std::filesystem::path make_file(const std::filesystem::path& folder) {
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    return folder / "results.jsonl";
  }

  std::filesystem::path folder_;
  lab::Store store_;
  finetune::Progress progress_;
  lab::Problems problems_;
  lab::Runner runner_;
};

}  // namespace test
