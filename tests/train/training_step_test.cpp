#include <limits>
#include <loraplus/nn/adapt.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/optim/sgd.hpp>
#include <loraplus/train/training_step.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::Activation;
using loraplus::Linear;
using loraplus::Matrix;
using loraplus::MeanSquaredError;
using loraplus::Optimizer;
using loraplus::Sgd;
using loraplus::TrainingStep;

TEST_CASE("a step is forward, loss, backward and update") {
  std::mt19937_64 generator{1};
  Linear<double> model(test::random_matrix<double>(2, 3, 1));
  const Matrix<double> w = model.weight();
  const auto x = test::random_matrix<double>(3, 4, 2);
  const auto target = test::random_matrix<double>(2, 4, 3);
  Optimizer optimizer{Sgd{.learning_rate = 0.1}, model};
  TrainingStep<Linear<double>, MeanSquaredError> train(model, 4);
  const double loss = train(model, optimizer, x, target, generator);
  const Matrix<double> residual = w * x - target;
  CHECK(std::abs(loss - residual.squaredNorm() / 8) < 1e-14);
  const Matrix<double> updated = w - 0.1 * 2 * residual * x.transpose() / 8;
  CHECK(test::relative_distance(model.weight(), updated) < 1e-14);
  CHECK(optimizer.steps() == 1);
}

TEST_CASE("a loss that is not finite stops the step before anything changes") {
  std::mt19937_64 generator{1};
  Linear<double> model(test::random_matrix<double>(2, 3, 1));
  const Matrix<double> w = model.weight();
  auto x = test::random_matrix<double>(3, 4, 2);
  x(1, 2) = std::numeric_limits<double>::quiet_NaN();
  const std::vector<int> labels{0, 1, 0, 1};
  Optimizer optimizer{Sgd{.learning_rate = 0.1}, model};
  TrainingStep train(model, 4);
  CHECK_THROWS_AS(train(model, optimizer, x, labels, generator), loraplus::NonFiniteError);
  CHECK(test::same_bits(model.weight(), w));
  CHECK(optimizer.steps() == 0);
  model.visit_parameters([](const auto& p) { CHECK((p.gradient == 0).all()); });
}

TEST_CASE("a batch larger than the step was made for, or empty, is refused") {
  std::mt19937_64 generator{1};
  Linear<double> model(test::random_matrix<double>(2, 3, 1));
  Optimizer optimizer{Sgd{.learning_rate = 0.1}, model};
  TrainingStep train(model, 2);
  const Matrix<double> x = Matrix<double>::Ones(3, 3);
  const std::vector<int> labels{0, 1, 0};
  CHECK_THROWS_AS(train(model, optimizer, x, labels, generator), loraplus::ShapeError);
  CHECK_THROWS_AS(train(model, optimizer, x.leftCols(0), std::vector<int>(), generator),
                  loraplus::ArgumentError);
}
