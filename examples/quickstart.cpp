// A robot's network tells in which of eight directions an obstacle lies. Then the sensor is
// mounted anew, turned by 40 degrees. LoRA+ adapts the network; its trained weights stay frozen.
#include <iostream>
#include <loraplus/loraplus.hpp>

using namespace loraplus;

LabelledData<float> measure(double mounting_degrees, std::mt19937_64& rng) {
  LabelledData<float> data{Matrix<float>(2, 2000), std::vector<int>(2000)};  // a column is a sample
  for (Index i = 0; i < data.size(); ++i) {
    const double direction = uniform(rng, 0, 360);
    const double seen = (direction + mounting_degrees) * std::numbers::pi / 180;
    data.inputs.col(i) << static_cast<float>(std::cos(seen)), static_cast<float>(std::sin(seen));
    data.labels[static_cast<std::size_t>(i)] = static_cast<int>(direction / 45);
  }
  return data;
}

int main() {
  std::mt19937_64 rng(1);
  auto trained = make_mlp<float>({2, 64, 64, 8}, Activation::relu, rng);  // or bring your weights
  Optimizer adam(Adam{.learning_rate = 1e-2}, trained);
  fit<SoftmaxCrossEntropy>(trained, adam, measure(0, rng), {.steps = 300}, rng);

  const auto samples = measure(40, rng);
  const auto test = measure(40, rng);
  auto network = adapt(trained, {.lora = {.rank = 4, .alpha = 8}}, rng);  // frozen, with adapters
  LoraPlus optimizer(AdamW{.learning_rate = 2e-3}, {.ratio = 8}, network);
  std::cout << parameter_count(network) << " of " << parameter_count(trained)
            << " parameters to train\naccuracy before: " << accuracy(network, test) << '\n';

  fit<SoftmaxCrossEntropy>(network, optimizer, samples, {.steps = 300}, rng, [](StepReport report) {
    if (report.step % 100 == 0) std::cout << report.step << ": loss " << report.loss << '\n';
    return true;  // false would stop here
  });

  const auto plain = merged(network);  // W + s B A: as fast as the network you started from
  std::cout << "accuracy after:  " << accuracy(plain, test) << '\n';
}
