// The program of docs/getting-started.md.
#include <iostream>
#include <loraplus/loraplus.hpp>

using namespace loraplus;

int main() {
  std::mt19937_64 rng(1);
  const auto trained = make_mlp<float>({8, 64, 64, 3}, Activation::tanh, rng);  // as if trained

  PairedData<float> samples{Matrix<float>(8, 200), {}};  // a column is a sample
  fill_normal(samples.inputs, rng, 1);
  samples.outputs = predict(trained, samples.inputs).colwise().reverse();

  auto network = adapt(trained, {.lora = {.rank = 2, .alpha = 4}}, rng);
  LoraPlus optimizer(AdamW{.learning_rate = 5e-3}, {.ratio = 4}, network);
  const auto error = [&](const auto& model) {
    return (predict(model, samples.inputs) - samples.outputs).squaredNorm() / 600;
  };
  std::cout << parameter_count(network) << " of " << parameter_count(trained)
            << " parameters to train\nmean square of the error: " << error(network) << '\n';
  fit<MeanSquaredError>(network, optimizer, samples, {.steps = 200, .batch = 50}, rng,
                        [](StepReport report) {
                          if (report.step % 50 > 0) return true;
                          std::cout << report.step << ": loss " << report.loss << '\n';
                          return true;  // false would stop here
                        });

  const auto plain = merged(network);  // W + s B A: no adapter left to compute
  std::cout << "mean square of the error: " << error(plain) << '\n';
  return error(plain) < 0.001 ? 0 : 1;
}
