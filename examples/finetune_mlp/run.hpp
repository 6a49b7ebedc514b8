// One training run: a network adapted by one method, with one learning rate and one seed.
#pragma once

#include <functional>
#include <loraplus/nn/adapt.hpp>
#include <loraplus/train/fit.hpp>
#include <random>

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

/// The network as a method begins with it: it computes what the pretrained one does.
Network make_network(const Problem& problem, Method method, std::uint64_t seed);

/// Two methods with the same seed see the same batches; LoRA and LoRA+ start from the same factors.
/// @param after_step called after each step; what it throws ends the run
Trained train(const Problem& problem, const Setting& setting,
              const std::function<void(const loraplus::StepReport&, const Network&)>& after_step);

}  // namespace finetune
