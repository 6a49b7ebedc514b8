#include <cmath>

#include "finetune_mlp/tasks.hpp"
#include "problem.hpp"

namespace lab {
namespace {

using loraplus::Linear;

constexpr Index base_width = 256;  // where both parametrisations agree in their rates
constexpr double base_rate = 1e-3;
constexpr Index pretrain_batch = 128;

finetune::Task task_of(const std::string& name) {
  if (name == "rotate15") return finetune::Task::rotate15;
  if (name == "rotate90") return finetune::Task::rotate90;
  if (name == "invert") return finetune::Task::invert;
  throw std::invalid_argument("no task is called '" + name + "'");
}

/// Maximal-update parametrisation (Yang et al., "Tensor Programs V", table 3, for Adam): hidden
/// weights of variance 2/n and rate ~ 1/n; the head of standard deviation and rate ~ 1/n.
Network make_mup_network(Index pixels, Index width, std::mt19937_64& generator) {
  const auto n = static_cast<double>(width);
  auto network = loraplus::make_mlp<float>({pixels, width, width, finetune::classes},
                                           loraplus::Activation::relu, generator);
  const auto redraw = [&](const char* name, double deviation) {
    auto& layer = network.layer(name);
    Matrix<float> w(layer.out_features(), layer.in_features());
    loraplus::fill_normal(w, generator, deviation);
    layer = Linear<float>(std::move(w), loraplus::Vector<float>::Zero(layer.out_features()));
  };
  redraw("fc1", std::sqrt(2 / static_cast<double>(pixels)));
  redraw("fc2", std::sqrt(2 / n));
  redraw("fc3", std::sqrt(static_cast<double>(base_width)) / n);
  return network;
}

}  // namespace

Network pretrain(const ProblemKey& key, const finetune::Splits& splits) {
  std::mt19937_64 generator(1000 + key.seed);
  const Index pixels = splits.pretrain.inputs.rows();
  const loraplus::OptimizerOptions schedule{
      .schedule = {.decay = loraplus::Decay::linear, .total_steps = key.pretrain_steps}};
  const auto fit = [&](Network network, const loraplus::OptimizerOptions& options) {
    loraplus::Optimizer optimizer(loraplus::Adam{.learning_rate = base_rate}, network, options);
    loraplus::fit<loraplus::SoftmaxCrossEntropy>(
        network, optimizer, splits.pretrain, {.steps = key.pretrain_steps, .batch = pretrain_batch},
        generator);
    return network;
  };
  if (!key.mup) {
    return fit(loraplus::make_mlp<float>({pixels, key.width, key.width, finetune::classes},
                                         loraplus::Activation::relu, generator),
               schedule);
  }
  auto options = schedule;
  const double hidden =
      base_rate * static_cast<double>(base_width) / static_cast<double>(key.width);
  for (const char* name : {"fc2.weight", "fc3.weight"}) {
    options.overrides.push_back({.parameter = name, .learning_rate = hidden});
  }
  return fit(make_mup_network(pixels, key.width, generator), options);
}

Problem make_image_problem(const ProblemKey& key, const Network& network,
                           const finetune::Splits& splits) {
  const finetune::Task task = task_of(key.task);
  const auto part = [&](const finetune::Labelled& upright) {
    finetune::Labelled shifted = finetune::shifted(task, upright, splits.side);
    Features made = make_features(network.layer("fc1"), network.layer("fc2"), shifted.inputs);
    made.labels = std::move(shifted.labels);
    return made;
  };
  const auto& head = network.layer("fc3");
  Problem problem{
      part(splits.pool),         part(splits.validation),
      part(splits.test),         std::make_shared<const Linear<float>>(network.layer("fc2")),
      head.weight().transpose(), head.bias()};
  judge_before(problem);
  return problem;
}

}  // namespace lab
