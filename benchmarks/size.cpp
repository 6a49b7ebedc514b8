// The main training path for float and nothing else, to be measured by size.sh: a network, adapters
// on it, LoRA+ around AdamW, training, and merging.
#include <cstdio>
#include <loraplus/nn/adapt.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/train/fit.hpp>

int main() {
  using namespace loraplus;
  std::mt19937_64 rng(1);
  const auto trained = make_mlp<float>({16, 32, 4}, Activation::relu, rng);
  auto network = adapt(trained, {.lora = {.rank = 4, .alpha = 8}}, rng);
  LoraPlus optimizer(AdamW{.learning_rate = 1e-3}, {.ratio = 4}, network);
  LabelledData<float> data{Matrix<float>(16, 64), std::vector<int>(64, 1)};
  fill_normal(data.inputs, rng, 1);
  double loss = 0;
  fit<SoftmaxCrossEntropy>(network, optimizer, data, {.steps = 10}, rng, [&](StepReport report) {
    loss = report.loss;
    return true;
  });
  const auto plain = merged(network);
  std::printf("%g %g\n", loss, static_cast<double>(predict(plain, data.inputs).norm()));
}
