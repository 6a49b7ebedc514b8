// The training path of the core: a frozen weight, an adapter, LoRA+ around AdamW.
#pragma once

#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/frozen/weight_view.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>

/// Whether training an adapter of this rank lowers the loss.
inline bool training_helps(loraplus::Index rank) {
  using namespace loraplus;
  std::mt19937_64 rng{1};
  const Matrix<float> w = Matrix<float>::Ones(3, 4);
  LoraLinear layer{WeightView{w}, {.rank = rank, .alpha = 4}, rng};
  LoraPlus optimizer{AdamW{.learning_rate = 1e-2}, {.ratio = 4}, layer};

  const Matrix<float> x = Matrix<float>::Ones(4, 2);
  const Matrix<float> target = Matrix<float>::Constant(3, 2, 3);
  auto cache = layer.make_cache(2);
  Matrix<float> y(3, 2);
  Matrix<float> dy(3, 2);
  float first = 0;
  float loss = 0;
  for (int step = 0; step < 20; ++step) {
    layer.forward(x, y, cache);
    dy = y - target;
    loss = dy.squaredNorm();
    if (step == 0) first = loss;
    layer.backward(x, dy, cache);
    optimizer.step(layer);
  }
  return loss < first / 2;
}
