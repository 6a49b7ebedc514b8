#include <loraplus/loraplus.hpp>

int main() {
  std::mt19937_64 rng{1};
  const loraplus::Matrix<float> w = loraplus::Matrix<float>::Ones(3, 4);
  const loraplus::LoraLinear layer{loraplus::WeightView{w}, {.rank = 2}, rng};
  const loraplus::Matrix<float> x = loraplus::Matrix<float>::Ones(4, 1);
  return loraplus::predict(layer, x)(0, 0) == 4 ? 0 : 1;
}
