#pragma once

#include "verdicts.hpp"

namespace lab {

/// What is measured in a budget of time. It is fixed beforehand, so that a run that was killed and
/// goes on is the same run.
struct Plan {
  std::vector<Index> exponent_widths;
  int exponent_seeds;
  WidthOptions teacher;
  std::vector<WidthOptions> images = {};
  std::vector<Index> speed_widths = {};
  std::vector<CompareOptions> comparisons = {};
  std::vector<SweepOptions> sweeps = {};
};

/// @param budget "60s", "30m" or "8h", on two cores; @throws std::invalid_argument for another
Plan plan_for(const std::string& budget);

/// All of the plan, ending in the verdicts R1 to R5.
Document reproduce(Lab& lab, const Plan& plan);

}  // namespace lab
