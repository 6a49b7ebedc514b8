#pragma once

#include <filesystem>
#include <string>

#include "results.hpp"

namespace finetune {

/// A gnuplot script, with its data, that draws test accuracy against the step: of each method the
/// median over the runs as a line and their range as a band.
std::string plot_script(const Options& options, const Results& results);

/// Has gnuplot draw curves.svg by the script curves.gp in the folder.
/// @return whether it did; if not, no older picture is left there
bool draw(const std::filesystem::path& folder);

}  // namespace finetune
