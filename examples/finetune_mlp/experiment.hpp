#pragma once

#include "checkpoints.hpp"
#include "data.hpp"
#include "progress.hpp"
#include "results.hpp"

namespace finetune {

/// Pretrains and freezes a network, chooses every method's learning rate by validation images,
/// then makes the final runs and measures them by test images.
/// @param checkpoints keep what is done, and have what was done before
/// @param results filled as the work goes on, and valid whenever this ends
/// @throws Interrupted, or std::invalid_argument if there are fewer images than options.samples
void run_experiment(const Options& options, Splits splits, const Checkpoints& checkpoints,
                    Progress& progress, Results& results);

}  // namespace finetune
