// The command line of the laboratory.
#pragma once

#include <filesystem>
#include <optional>

#include "store.hpp"

namespace lab {

struct CommandLine {
  Json settings;  ///< all that decides the results; null for report and pace
  bool report_only = false;
  bool pace = false;
  std::filesystem::path out = "ratio_lab_out";
  unsigned threads = 1;
  bool quiet = false;
  std::optional<int> exit_code = {};  ///< with which the program ends at once
};

CommandLine parse(int argc, char** argv);

}  // namespace lab
