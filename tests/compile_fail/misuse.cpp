// Each case must not compile, and the compiler must say why in words of ours.
#include <loraplus/loraplus.hpp>

using namespace loraplus;

int main() {
  std::mt19937_64 rng{1};
  Matrix<float> w(3, 4), x(4, 2), y(3, 2);
  [[maybe_unused]] LoraLinear layer{WeightView{w}, {.rank = 2}, rng};
  [[maybe_unused]] auto cache = layer.make_cache(2);

#if defined(ROW_MAJOR_BATCH)
  RowMajorMatrix<float> rows(4, 2);
  layer.forward(rows, y, cache);
#elif defined(UNEVALUATED_BATCH)
  layer.forward(2 * x, y, cache);
#elif defined(WRONG_SCALAR)
  Matrix<double> wide(4, 2);
  layer.forward(wide, y, cache);
#elif defined(CONST_OUTPUT)
  const Matrix<float> fixed(3, 2);
  layer.forward(x, fixed, cache);
#elif defined(OTHER_GENERATOR)
  struct Dice : Linear<float> {
    using Linear<float>::Linear;
    using Linear<float>::forward;
    void forward(ConstMatrixView<float>, MatrixView<float>, Cache&, std::mt19937&) const {}
  };
  const Dice dice(w);
  Dice::Cache none;
  forward_layer(dice, x, y, none, rng);  // an std::mt19937_64
#elif defined(TEMPORARY_WEIGHT)
  WeightView view{Matrix<float>(3, 4)};
#elif defined(NO_FROZEN_WEIGHT)
  LoraLinear<Matrix<float> > wrong{w, {.rank = 2}, rng};
#elif defined(NO_LAYER)
  Sequential wrong{w};
#elif defined(NO_PARAMETERS)
  Optimizer wrong{AdamW{}, w};
#elif defined(NO_GENERATOR)
  std::minstd_rand poor{1};
  LoraLinear wrong{WeightView{w}, {.rank = 2}, poor};
#elif defined(MERGE_UNREADABLE)
  struct Opaque {
    using Scalar = float;
    Index in_features() const { return 1; }
    Index out_features() const { return 1; }
    void forward(ConstMatrixView<float>, MatrixView<float>) const {}
    void backward(ConstMatrixView<float>, MatrixView<float>) const {}
  };
  LoraLinear opaque{Opaque{}, {.rank = 2}, rng};
  opaque.merge();
#elif defined(NOTHING_WRONG)
  layer.forward(x, y, cache);
#endif
}
