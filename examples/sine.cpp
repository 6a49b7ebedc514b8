// A network has learned a sine. Then the phase shifts by a quarter of a period: LoRA+ adapts the
// network to the new one, and the terminal shows how far it is off, before and after.
#include <array>
#include <iostream>
#include <loraplus/nn/adapt.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/train/fit.hpp>
#include <numbers>
#include <string>

using namespace loraplus;

namespace {

/// The curve to be learned, for x in [-1, 1].
float wave(float x, double phase) {
  return static_cast<float>(std::sin(std::numbers::pi * x + phase));
}

PairedData<float> measure(double phase, std::mt19937_64& rng) {
  PairedData<float> data{Matrix<float>(1, 1000), Matrix<float>(1, 1000)};  // a column is a sample
  fill_uniform(data.inputs, rng, -1, 1);
  data.outputs = data.inputs.unaryExpr([&](float x) { return wave(x, phase); });
  return data;
}

/// Draws the curve as '.', and over it what the network says as '*'.
template <typename Network>
void draw(const char* title, const Network& network, double phase) {
  constexpr int width = 64, height = 13;
  Matrix<float> x(1, width);
  x.row(0).setLinSpaced(-1, 1);
  const Matrix<float> y = predict(network, x);
  std::array<std::string, height> lines;
  lines.fill(std::string(width, ' '));
  float largest_error = 0;
  for (int i = 0; i < width; ++i) {
    const auto plot = [&](float value, char mark) {
      const auto line = std::lround((1 - value) / 2 * (height - 1));
      if (line < 0 || line >= height) return;
      lines[static_cast<std::size_t>(line)][static_cast<std::size_t>(i)] = mark;
    };
    const float wanted = wave(x(0, i), phase);
    plot(wanted, '.');
    plot(y(0, i), '*');
    largest_error = std::max(largest_error, std::abs(y(0, i) - wanted));
  }
  std::cout << title << ": largest error " << largest_error << '\n';
  for (const std::string& line : lines) {
    std::cout << line << '\n';
  }
}

}  // namespace

int main() {
  constexpr double before = 0, after = std::numbers::pi / 2;
  std::mt19937_64 rng(1);
  auto trained = make_mlp<float>({1, 32, 32, 1}, Activation::tanh, rng);
  Optimizer adam(Adam{.learning_rate = 5e-3}, trained,
                 {.schedule = {.decay = Decay::cosine, .total_steps = 2000}});
  fit<MeanSquaredError>(trained, adam, measure(before, rng), {.steps = 2000}, rng);
  draw("trained", trained, before);

  auto network = adapt(trained, {.lora = {.rank = 2, .alpha = 4}}, rng);
  draw("shifted", network, after);

  LoraPlus optimizer(Adam{.learning_rate = 1e-2}, {.ratio = 2}, network,
                     {.schedule = {.decay = Decay::cosine, .total_steps = 2000}});
  fit<MeanSquaredError>(network, optimizer, measure(after, rng), {.steps = 2000}, rng);
  draw("adapted", network, after);
}
