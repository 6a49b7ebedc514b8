// Where the blocks of the pages run, and what they print.
#pragma once

#include <filesystem>
#include <iostream>
#include <sstream>

#include "support/files.hpp"

namespace test {

/// What goes to std::cout while this lives.
class Printed {
 public:
  Printed() : before_(std::cout.rdbuf(stream_.rdbuf())) {}
  ~Printed() { std::cout.rdbuf(before_); }
  Printed(const Printed&) = delete;
  Printed& operator=(const Printed&) = delete;

  std::string text() const { return stream_.str(); }

 private:
  std::ostringstream stream_;
  std::streambuf* before_;
};

/// While this lives, an empty folder of this name is the current one.
class InFolder {
 public:
  explicit InFolder(const std::string& name) : before_(std::filesystem::current_path()) {
    std::filesystem::current_path(fresh_folder(name));
  }
  ~InFolder() { std::filesystem::current_path(before_); }
  InFolder(const InFolder&) = delete;
  InFolder& operator=(const InFolder&) = delete;

 private:
  std::filesystem::path before_;
};

}  // namespace test
