// A layer that the library does not have, written outside of it: normalisation by the root mean
// square, y = g x / rms(x). The gradient checker says whether its derivatives are right; then it is
// trained in a Sequential, together with the adapter of the frozen weight below it.
#include <iostream>
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/check/gradient_check.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/nn/linear.hpp>
#include <loraplus/nn/sequential.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/train/fit.hpp>

using namespace loraplus;

/// All that makes a type a loraplus::Layer.
class RmsNorm {
 public:
  using Scalar = double;
  using Read = ConstMatrixView<double>;
  using Written = MatrixView<double>;

  /// What forward keeps for backward, made once for the largest batch.
  struct Cache {
    Matrix<double> normalized;  // features x largest batch: x / rms
    Vector<double> rms;         // largest batch
  };

  explicit RmsNorm(Index features)
      : gain_(Vector<double>::Ones(features)), gain_gradient_(Vector<double>::Zero(features)) {}

  Index in_features() const { return gain_.size(); }
  Index out_features() const { return gain_.size(); }
  Cache make_cache(Index largest_batch) const {
    return {Matrix<double>(gain_.size(), largest_batch), Vector<double>(largest_batch)};
  }

  void forward(Read x, Written y, Cache& cache) const {
    for (Index i = 0; i < x.cols(); ++i) {
      cache.rms(i) = std::sqrt(x.col(i).squaredNorm() / features() + 1e-6);
      cache.normalized.col(i) = x.col(i) / cache.rms(i);
      y.col(i) = gain_.cwiseProduct(cache.normalized.col(i));
    }
  }

  /// Adds to the gradient of the gain: for a layer below which nothing is trained.
  void backward(Read x, Read dy, Cache& cache) {
    for (Index i = 0; i < x.cols(); ++i) {
      gain_gradient_ += dy.col(i).cwiseProduct(cache.normalized.col(i));
    }
  }

  /// The same, and writes dx.
  void backward(Read x, Read dy, Written dx, Cache& cache) {
    backward(x, dy, cache);
    for (Index i = 0; i < x.cols(); ++i) {
      const auto normalized = cache.normalized.col(i);
      dx.col(i) = gain_.cwiseProduct(dy.col(i));
      const double along = dx.col(i).dot(normalized) / features();
      dx.col(i) = (dx.col(i) - along * normalized) / cache.rms(i);
    }
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(Parameter<double>("gain", Role::norm, gain_, gain_gradient_));
  }

 private:
  double features() const { return static_cast<double>(gain_.size()); }

  Vector<double> gain_;
  Vector<double> gain_gradient_;
};
static_assert(Layer<RmsNorm>);

int main() {
  std::mt19937_64 rng(1);
  Matrix<double> w(12, 20), x(20, 300), y(12, 300);
  for (Matrix<double>* values : {&w, &x, &y}) {
    fill_normal(*values, rng, 1);
  }
  // Neither factor starts at zero, or the gradient of A would be zero and prove nothing.
  const LoraOptions options{
      .rank = 3, .alpha = 6, .initialization = Initialization::both_uniform, .init_scale = 0.1};
  Sequential network{LoraLinear{PackedWeight{w}, options, rng}, RmsNorm(12)};

  const auto errors = check_gradients(network, x.leftCols(5), y.leftCols(5));
  for (const auto& error : errors) {
    std::cout << error.tensor << ": relative error " << error.relative << '\n';
  }
  std::cout << "gradients " << (worst(errors).relative < 1e-8 ? "right" : "WRONG") << '\n';

  // It is to learn what a network with other gains and another weight says.
  Matrix<double> shift(12, 20);
  fill_normal(shift, rng, 0.2);
  const PairedData<double> data{x,
                                2 * predict(Sequential{Linear<double>(w + shift), RmsNorm(12)}, x)};
  LoraPlus optimizer(AdamW{.learning_rate = 5e-3}, {.ratio = 2}, network);
  fit<MeanSquaredError>(network, optimizer, data, {.steps = 600}, rng, [](StepReport report) {
    if (report.step == 1) std::cout << "loss before: " << report.loss << '\n';
    if (report.step == 600) std::cout << "loss after:  " << report.loss << '\n';
    return true;
  });
}
