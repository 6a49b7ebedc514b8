// One training run: a network adapted by one method, with one learning rate and one seed.
#pragma once

#include <chrono>
#include <functional>
#include <loraplus/io/checkpoint.hpp>
#include <loraplus/nn/adapt.hpp>
#include <loraplus/train/fit.hpp>
#include <random>

#include "checkpoints.hpp"
#include "data.hpp"
#include "results.hpp"

namespace finetune {

using FrozenNetwork = loraplus::FrozenMlp<loraplus::PackedWeight<float>>;
using Network = loraplus::AdaptedMlp<loraplus::PackedWeight<float>>;

/// Streams of random numbers that have nothing to do with each other.
enum class Stream : std::uint32_t { pretraining, adapters, batches };

std::mt19937_64 make_generator(std::uint64_t seed, Stream stream);

/// The recipe of all methods, beside the options: a learning rate that falls linearly to 0, and
inline constexpr double clip_norm = 1;              ///< of all gradients together
inline constexpr double adamw_weight_decay = 0.01;  ///< sgd and adam have none

/// What all runs share.
struct Problem {
  FrozenNetwork network;  ///< pretrained
  Labelled data;          ///< to adapt on
  Options options;
};

struct Setting {
  Method method;
  double learning_rate;  ///< LoRA+: the geometric mean of those of A and B
  std::uint64_t seed;
};

struct Trained {
  Network network;
  std::size_t state_bytes = 0;  ///< held by the optimizer
  bool diverged = false;        ///< stopped early, at a loss that was not finite
};

/// Trains on random batches; a run that is kept goes on from where it was stored last, and is
/// stored about every second.
template <typename Network, typename Optimizer, typename AfterStep>
void fit_kept(Network& network, Optimizer& optimizer, const Labelled& data,
              const loraplus::FitOptions& options, std::mt19937_64& generator, const KeptRun& kept,
              AfterStep&& after_step) {
  using Clock = std::chrono::steady_clock;
  loraplus::FitProgress progress(data.size(), options);
  if (!kept.file.empty() && std::filesystem::exists(kept.file)) {
    const auto notes =
        loraplus::load_checkpoint(kept.file, network, optimizer, generator, progress);
    kept.restore(Json::parse(notes.at("notes")));
  }
  auto stored = Clock::now();
  loraplus::fit<loraplus::SoftmaxCrossEntropy>(
      network, optimizer, data, options, generator, progress,
      [&](const loraplus::StepReport& report) {
        after_step(report);
        if (!kept.file.empty() && Clock::now() - stored >= kept.interval) {
          loraplus::save_checkpoint(kept.file, network, optimizer, generator, progress,
                                    {{"notes", kept.notes().dump()}});
          stored = Clock::now();
        }
        return true;
      });
}

/// The network as a method begins with it: it computes what the pretrained one does.
Network make_network(const Problem& problem, Method method, std::uint64_t seed);

/// Two methods with the same seed see the same batches; LoRA and LoRA+ start from the same factors.
/// @param after_step called after each step; what it throws ends the run
/// @param kept where the run is stored from time to time, and gone on from
Trained train(const Problem& problem, const Setting& setting,
              const std::function<void(const loraplus::StepReport&, const Network&)>& after_step,
              const KeptRun& kept);

}  // namespace finetune
