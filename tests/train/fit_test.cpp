#include <loraplus/nn/adapt.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/train/evaluate.hpp>
#include <loraplus/train/fit.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::Activation;
using loraplus::Adam;
using loraplus::AdamW;
using loraplus::fit;
using loraplus::Index;
using loraplus::LabelledData;
using loraplus::LoraPlus;
using loraplus::make_mlp;
using loraplus::Matrix;
using loraplus::MeanSquaredError;
using loraplus::Optimizer;
using loraplus::SoftmaxCrossEntropy;
using loraplus::StepReport;

namespace {

/// Four classes by the signs of two sums of the features, which `turn` exchanges.
LabelledData<float> quadrants(Index samples, bool turn, unsigned seed) {
  LabelledData<float> data{test::random_matrix<float>(8, samples, seed), {}};
  for (Index i = 0; i < samples; ++i) {
    const bool first = data.inputs.col(i).head(4).sum() > 0;
    const bool second = data.inputs.col(i).tail(4).sum() > 0;
    data.labels.push_back(turn ? 2 * second + first : 2 * first + second);
  }
  return data;
}

}  // namespace

TEST_CASE("a network is trained, frozen, and adapted to a changed task") {
  std::mt19937_64 generator{1};
  auto network = make_mlp<float>({8, 32, 4}, Activation::relu, generator);
  Optimizer pretraining{Adam{.learning_rate = 1e-2}, network};
  fit<SoftmaxCrossEntropy>(network, pretraining, quadrants(2000, false, 2), {.steps = 300},
                           generator);
  const auto task = quadrants(1000, false, 3);
  const auto turned = quadrants(1000, true, 3);
  CHECK(accuracy(network, task) > 0.95);
  CHECK(accuracy(network, turned) < 0.6);

  auto adapted = adapt(network, {.lora = {.rank = 4, .alpha = 8, .dropout = 0.05}}, generator);
  LoraPlus optimizer{AdamW{.learning_rate = 5e-3}, {.ratio = 4}, adapted};
  const Index steps = fit<SoftmaxCrossEntropy>(adapted, optimizer, quadrants(2000, true, 4),
                                               {.steps = 300}, generator);
  CHECK(steps == 300);
  CHECK(optimizer.steps() == 300);
  CHECK(accuracy(adapted, turned) > 0.95);
  CHECK(accuracy(network, task) > 0.95);
}

TEST_CASE("the callback sees every step and can end the training") {
  std::mt19937_64 generator{1};
  auto network = make_mlp<float>({8, 4}, Activation::relu, generator);
  Optimizer optimizer{Adam{}, network};
  std::vector<Index> seen;
  const Index steps =
      fit<SoftmaxCrossEntropy>(network, optimizer, quadrants(100, false, 2), {.steps = 50},
                               generator, [&](const StepReport& report) {
                                 CHECK(report.loss > 0);
                                 seen.push_back(report.step);
                                 return report.step < 3;
                               });
  CHECK(steps == 3);
  CHECK(optimizer.steps() == 3);
  CHECK(seen == std::vector<Index>{1, 2, 3});
}

TEST_CASE("regression finds the matrix that made the data") {
  std::mt19937_64 generator{1};
  loraplus::Linear<double> model(2, 3, generator);
  const auto w = test::random_matrix<double>(2, 3, 2);
  const auto x = test::random_matrix<double>(3, 50, 3);
  Optimizer optimizer{Adam{.learning_rate = 0.05}, model};
  fit<MeanSquaredError>(model, optimizer, loraplus::PairedData<double>{x, w * x},
                        {.steps = 2000, .batch = 16}, generator);
  CHECK(test::relative_distance(model.weight(), w) < 1e-3);
}

TEST_CASE("the same seed gives the same training, bit for bit") {
  const auto trained = [] {
    std::mt19937_64 generator{5};
    auto network = make_mlp<float>({8, 16, 4}, Activation::gelu, generator);
    auto adapted = adapt(network, {.lora = {.rank = 2, .dropout = 0.2}}, generator);
    LoraPlus optimizer{AdamW{}, {.ratio = 16}, adapted};
    fit<SoftmaxCrossEntropy>(adapted, optimizer, quadrants(100, false, 2), {.steps = 40},
                             generator);
    return predict(adapted, quadrants(20, false, 3).inputs);
  };
  CHECK(test::same_bits(trained(), trained()));
}

TEST_CASE("data without a label for each sample are refused before training") {
  std::mt19937_64 generator{1};
  auto network = make_mlp<float>({8, 4}, Activation::relu, generator);
  Optimizer optimizer{Adam{}, network};
  auto data = quadrants(10, false, 2);
  CHECK_THROWS_AS(fit<SoftmaxCrossEntropy>(network, optimizer, data, {.steps = -1}, generator),
                  loraplus::ArgumentError);
  data.labels.pop_back();
  CHECK_THROWS_AS(fit<SoftmaxCrossEntropy>(network, optimizer, data, {}, generator),
                  loraplus::ShapeError);
  CHECK_THROWS_AS(
      fit<SoftmaxCrossEntropy>(network, optimizer, LabelledData<float>{}, {}, generator),
      loraplus::ArgumentError);
}
