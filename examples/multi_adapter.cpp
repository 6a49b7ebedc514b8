// Two robots share one frozen network that tells in which of eight directions an obstacle lies;
// their sensors are mounted 40 degrees to the left and to the right. Each has an adapter, by name:
// switched for all samples, or mixed in one batch, where every sample goes through its robot's.
#include <iostream>
#include <loraplus/nn/multi_adapter.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/train/fit.hpp>
#include <numbers>

using namespace loraplus;

namespace {

LabelledData<float> measure(double mounting_degrees, Index samples, std::mt19937_64& rng) {
  LabelledData<float> data{Matrix<float>(2, samples), {}};  // a column is a sample
  for (Index i = 0; i < samples; ++i) {
    const double direction = uniform(rng, 0, 360);
    const double seen = (direction + mounting_degrees) * std::numbers::pi / 180;
    data.inputs.col(i) << static_cast<float>(std::cos(seen)), static_cast<float>(std::sin(seen));
    data.labels.push_back(static_cast<int>(direction / 45));
  }
  return data;
}

/// Percent of the samples whose direction the network tells, with what is active or assigned.
template <typename Network>
long right(const Network& network, const LabelledData<float>& data,
           typename Network::Cache& cache) {
  Matrix<float> y(8, data.size());
  network.forward(data.inputs, y, cache);
  long count = 0;
  for (Index i = 0; i < data.size(); ++i) {
    Index said = 0;
    y.col(i).maxCoeff(&said);
    count += said == data.labels[static_cast<std::size_t>(i)] ? 1 : 0;
  }
  return std::lround(100.0 * static_cast<double>(count) / static_cast<double>(data.size()));
}

}  // namespace

int main() {
  std::mt19937_64 rng(1);
  auto trained = make_mlp<float>({2, 64, 64, 8}, Activation::relu, rng);
  Optimizer adam(Adam{.learning_rate = 1e-2}, trained);
  fit<SoftmaxCrossEntropy>(trained, adam, measure(0, 2000, rng), {.steps = 300}, rng);

  const auto base = freeze(trained);  // held once, whatever the number of adapters
  MultiAdapterMlp robots(base);
  for (const auto& [name, degrees] : {std::pair{"left", 40.0}, {"right", -40.0}}) {
    auto network = adapt(base, {.lora = {.rank = 4, .alpha = 8}}, rng);
    LoraPlus optimizer(AdamW{.learning_rate = 2e-3}, {.ratio = 8}, network);
    const auto samples = measure(degrees, 2000, rng);
    fit<SoftmaxCrossEntropy>(network, optimizer, samples, {.steps = 300}, rng);
    robots.add(name, network);
  }

  constexpr Index each = 500;
  const auto left = measure(40, each, rng), from_right = measure(-40, each, rng);
  auto cache = robots.make_cache(2 * each);
  const std::vector<std::vector<std::string>> choices{{}, {"left"}, {"right"}};
  for (const auto& active : choices) {
    robots.set_active(active);
    std::cout << (active.empty() ? "none" : active[0]) << ": left robot "
              << right(robots, left, cache) << " %, right robot "
              << right(robots, from_right, cache) << " %\n";
  }

  LabelledData<float> both{Matrix<float>(2, 2 * each), left.labels};
  both.inputs << left.inputs, from_right.inputs;
  both.labels.insert(both.labels.end(), from_right.labels.begin(), from_right.labels.end());
  std::vector<std::string> names(each, "left");
  names.resize(2 * each, "right");
  robots.assign(cache, names);
  std::cout << "each its own, in one batch: " << right(robots, both, cache) << " %\n";
}
