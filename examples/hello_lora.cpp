// A frozen weight W is to do what W + 1/4 u v' does. A LoRA adapter of rank 1 learns the difference
// from samples, and is merged.
#include <iostream>
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/train/fit.hpp>

using namespace loraplus;

int main() {
  std::mt19937_64 rng(1);
  Matrix<float> w(8, 16), u(8, 1), v(16, 1), x(16, 500);  // a column of x is a sample
  for (Matrix<float>* values : {&w, &u, &v, &x})
    fill_normal(*values, rng, 1);
  const Matrix<float> wanted = w + u * v.transpose() / 4;
  const PairedData<float> data{x, wanted * x};

  LoraLinear layer{PackedWeight{w}, {.rank = 1, .alpha = 2}, rng};
  Optimizer adam(Adam{.learning_rate = 2e-2}, layer);
  std::cout << parameter_count(layer) << " numbers to learn, " << w.size() << " frozen\n"
            << "distance before: " << (w - wanted).norm() / wanted.norm() << '\n';
  fit<MeanSquaredError>(layer, adam, data, {.steps = 400, .batch = 50}, rng);

  layer.merge();  // W + s B A: from here on one product, as before there was an adapter
  std::cout << "distance after:  " << (layer.merged_weight() - wanted).norm() / wanted.norm()
            << '\n';
}
