// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/train/data.hpp>
#include <loraplus/train/training_step.hpp>

namespace loraplus::inline v0_1 {

/// How long fit trains, and on how much at a time.
struct FitOptions {
  Index steps = 1000;  ///< training steps, a batch each
  Index batch = 64;    ///< samples in a batch; the last of an epoch may have fewer
};

/// What the callback of fit is told after each step.
struct StepReport {
  Index step;   ///< 1 after the first
  double loss;  ///< of the batch, before the update
};

/// Where a run is: it can be stored, and gone on from.
struct FitProgress {
  /// Deals out the batches.
  BatchSampler sampler;
  Index step = 0;  ///< the steps made

  /// The beginning of a run over so many samples. @throws ArgumentError as BatchSampler
  FitProgress(Index samples, const FitOptions& options) : sampler(samples, options.batch) {}
};

/// Trains a model on random batches of the data, from where `progress` is on.
/// @param after_step called with a StepReport after each step, when `progress` is up to date;
/// returns whether to go on
/// @return the steps made, those before included
/// @throws ArgumentError if there are no data, and as TrainingStep
template <typename Loss, Layer Model, typename Optimizer, typename Data, RandomBits Generator,
          typename Callback>
Index fit(Model& model, Optimizer& optimizer, const Data& data, const FitOptions& options,
          Generator& generator, FitProgress& progress, Callback&& after_step) {
  data.validate();
  require_argument(options.steps >= 0, "FitOptions", "steps must be at least 0",
                   static_cast<double>(options.steps));
  Data batch = data.make_batch(std::min(options.batch, data.size()));
  TrainingStep<Model, Loss> train(model, batch.size());
  while (progress.step < options.steps) {
    const auto indices = progress.sampler.next(generator);
    const auto samples = static_cast<Index>(indices.size());
    data.gather(indices, batch);
    const double loss =
        train(model, optimizer, batch.inputs.leftCols(samples), batch.targets(samples), generator);
    ++progress.step;
    if (!after_step(StepReport{progress.step, loss})) break;
  }
  return progress.step;
}

/// The same from the beginning.
template <typename Loss, Layer Model, typename Optimizer, typename Data, RandomBits Generator,
          typename Callback>
Index fit(Model& model, Optimizer& optimizer, const Data& data, const FitOptions& options,
          Generator& generator, Callback&& after_step) {
  FitProgress progress(data.size(), options);
  return fit<Loss>(model, optimizer, data, options, generator, progress,
                   std::forward<Callback>(after_step));
}

/// The same from the beginning, without a callback.
template <typename Loss, Layer Model, typename Optimizer, typename Data, RandomBits Generator>
Index fit(Model& model, Optimizer& optimizer, const Data& data, const FitOptions& options,
          Generator& generator) {
  return fit<Loss>(model, optimizer, data, options, generator,
                   [](const StepReport& /*report*/) { return true; });
}

}  // namespace loraplus
