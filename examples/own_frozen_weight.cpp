// Anything that can do y = W x and dx = W' dy can be the frozen weight under an adapter. Here it
// is a pruned layer, kept as an Eigen sparse matrix that is never expanded.
#include <Eigen/SparseCore>
#include <iostream>
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/check/gradient_check.hpp>

using loraplus::Index;
using loraplus::Matrix;

/// The four functions that make a type a loraplus::FrozenWeight.
struct PrunedWeight {
  using Scalar = double;

  Eigen::SparseMatrix<double> w;  // out x in

  Index in_features() const { return w.cols(); }
  Index out_features() const { return w.rows(); }
  void forward(loraplus::ConstMatrixView<double> x, loraplus::MatrixView<double> y) const {
    y.noalias() = w * x;
  }
  void backward(loraplus::ConstMatrixView<double> dy, loraplus::MatrixView<double> dx) const {
    dx.noalias() = w.transpose() * dy;
  }
};
static_assert(loraplus::FrozenWeight<PrunedWeight>);

/// Normal coefficients, of which all but the largest, about one in twenty, are pruned.
PrunedWeight make_pruned(Index out, Index in, std::mt19937_64& rng) {
  Matrix<double> dense(out, in);
  loraplus::fill_normal(dense, rng, 1);
  return {dense.sparseView(1, 1.96)};
}

int main() {
  std::mt19937_64 rng(1);
  const PrunedWeight weight = make_pruned(40, 60, rng);
  loraplus::LoraLinear layer(weight, {.rank = 4, .alpha = 8}, rng);
  std::cout << weight.w.nonZeros() << " of " << weight.w.size() << " frozen coefficients kept, "
            << parameter_count(layer) << " to train\n";

  // B starts at zero, and with it the gradient of A; only a B that is not zero puts A to the test.
  Matrix<double> b(40, 4);
  loraplus::fill_normal(b, rng, 0.1);
  layer.set_factors(layer.factors().a(), b);

  Matrix<double> x(60, 5);  // five samples
  Matrix<double> dy(40, 5);
  loraplus::fill_normal(x, rng, 1);
  loraplus::fill_normal(dy, rng, 1);
  const auto errors = loraplus::check_gradients(layer, x, dy);
  for (const auto& error : errors) {
    std::cout << "gradient of " << error.tensor << ": relative error " << error.relative << '\n';
  }
  const bool right = loraplus::worst(errors).relative < 1e-8;
  std::cout << (right ? "all gradients are right\n" : "a gradient is WRONG\n");
  return right ? 0 : 1;
}
