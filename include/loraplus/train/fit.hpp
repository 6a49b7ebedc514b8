// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/train/data.hpp>
#include <loraplus/train/training_step.hpp>

namespace loraplus {

struct FitOptions {
  Index steps = 1000;  ///< training steps, a batch each
  Index batch = 64;    ///< samples in a batch; the last of an epoch may have fewer
};

/// What the callback of fit is told after each step.
struct StepReport {
  Index step;   ///< 1 after the first
  double loss;  ///< of the batch, before the update
};

/// Trains a model on random batches of the data.
/// @param after_step called with a StepReport after each step; returns whether to go on
/// @return the steps made
/// @throws ArgumentError if there are no data, and as TrainingStep
template <typename Loss, Layer Model, typename Optimizer, typename Data, RandomBits Generator,
          typename Callback>
Index fit(Model& model, Optimizer& optimizer, const Data& data, const FitOptions& options,
          Generator& generator, Callback&& after_step) {
  data.validate();
  require_argument(options.steps >= 0, "FitOptions", "steps must be at least 0",
                   static_cast<double>(options.steps));
  BatchSampler sampler(data.size(), options.batch);
  Data batch = data.make_batch(std::min(options.batch, data.size()));
  TrainingStep<Model, Loss> train(model, batch.size());
  for (Index step = 1; step <= options.steps; ++step) {
    const auto indices = sampler.next(generator);
    const auto samples = static_cast<Index>(indices.size());
    data.gather(indices, batch);
    const double loss =
        train(model, optimizer, batch.inputs.leftCols(samples), batch.targets(samples), generator);
    if (!after_step(StepReport{step, loss})) return step;
  }
  return options.steps;
}

template <typename Loss, Layer Model, typename Optimizer, typename Data, RandomBits Generator>
Index fit(Model& model, Optimizer& optimizer, const Data& data, const FitOptions& options,
          Generator& generator) {
  return fit<Loss>(model, optimizer, data, options, generator,
                   [](const StepReport& /*report*/) { return true; });
}

}  // namespace loraplus
