#pragma once

#include "document.hpp"
#include "search.hpp"

namespace lab {

/// Does what the settings of a command line tell, or those of a results file: the same either way.
/// @param settings as parse() makes them: {"command": "sweep", "task": ..., ...}
Document run(const Json& settings, Lab& lab);

/// Whether trials of these settings need images.
bool needs_images(const Json& settings);

/// The time of one trial of width 1024, rank 4, 256 samples, 100 steps, on one thread, its share of
/// the multiply-add peak, and how many times as many trials several threads do.
Document measure_pace(unsigned threads);

}  // namespace lab
