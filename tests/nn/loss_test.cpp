#include <limits>
#include <loraplus/nn/loss.hpp>
#include <vector>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Matrix;
using loraplus::MeanSquaredError;
using loraplus::SoftmaxCrossEntropy;

namespace {

/// The gradient that `loss(y, dy)` writes against differences of what it returns.
template <typename Loss>
void require_loss_gradient(Matrix<double> y, Loss&& loss) {
  Matrix<double> dy(y.rows(), y.cols()), ignored(y.rows(), y.cols());
  loss(y, dy);
  const Eigen::ArrayXd analytic = dy.reshaped().array();
  const auto error =
      loraplus::compare_gradient<double>("y", Eigen::Map<Eigen::ArrayXd>(y.data(), y.size()),
                                         analytic, [&] { return loss(y, ignored); });
  CAPTURE(error.worst, error.analytic, error.numeric);
  CHECK(error.relative <= 1e-7);
}

std::vector<int> labels_for(Index n, Index classes) {
  std::vector<int> labels;
  for (Index i = 0; i < n; ++i) {
    labels.push_back(static_cast<int>((3 * i + 1) % classes));
  }
  return labels;
}

}  // namespace

TEST_CASE("the gradients of both losses") {
  for (const Index classes : {1, 2, 5, 48}) {
    for (const Index n : {1, 2, 17}) {
      CAPTURE(classes, n);
      const auto y = test::random_matrix<double>(classes, n, 1);
      const auto labels = labels_for(n, classes);
      require_loss_gradient(y, [&](const Matrix<double>& logits, Matrix<double>& d) {
        return SoftmaxCrossEntropy::evaluate<double>(logits, labels, d);
      });
      const auto target = test::random_matrix<double>(classes, n, 2);
      require_loss_gradient(y, [&](const Matrix<double>& output, Matrix<double>& d) {
        return MeanSquaredError::evaluate<double>(output, target, d);
      });
    }
  }
}

TEST_CASE("cross-entropy of a hand-worked batch") {
  // softmax(0, log 3) = (1/4, 3/4); labels 1 and 0
  Matrix<double> logits(2, 2), d(2, 2);
  logits << 0, 0, std::log(3.0), std::log(3.0);
  const std::vector<int> labels{1, 0};
  const double loss = SoftmaxCrossEntropy::evaluate<double>(logits, labels, d);
  CHECK(std::abs(loss - (std::log(4.0 / 3) + std::log(4.0)) / 2) < 1e-15);
  Matrix<double> expected(2, 2);
  expected << 0.125, -0.375, -0.125, 0.375;
  CHECK(test::relative_distance(d, expected) < 1e-15);
}

TEST_CASE("squared error of a hand-worked batch") {
  Matrix<double> y(2, 1), target(2, 1), d(2, 1);
  y << 3, 1;
  target << 1, 2;
  CHECK(MeanSquaredError::evaluate<double>(y, target, d) == 2.5);
  CHECK(d(0, 0) == 2);
  CHECK(d(1, 0) == -1);
}

TEMPLATE_TEST_CASE("cross-entropy is stable for logits of +-1e4 and does not see a common shift",
                   "", float, double) {
  using Scalar = TestType;
  Matrix<Scalar> logits(3, 2), d(3, 2);
  logits << Scalar(1e4), Scalar(-1e4), 0, Scalar(1e4), Scalar(-1e4), 0;
  const std::vector<int> right{0, 1}, wrong{2, 0};
  CHECK(SoftmaxCrossEntropy::evaluate<Scalar>(logits, right, d) == 0);
  CHECK(d.cwiseAbs().maxCoeff() < 1e-30);
  CHECK(SoftmaxCrossEntropy::evaluate<Scalar>(logits, wrong, d) == 2e4);
  CHECK(d(0, 0) == Scalar(0.5));
  CHECK(d(2, 0) == Scalar(-0.5));

  const auto random = test::random_matrix<Scalar>(3, 2, 1);
  Matrix<Scalar> d_shifted(3, 2);
  const double loss = SoftmaxCrossEntropy::evaluate<Scalar>(random, right, d);
  const Matrix<Scalar> shifted = random.array() + Scalar(64);
  CHECK(std::abs(SoftmaxCrossEntropy::evaluate<Scalar>(shifted, right, d_shifted) - loss) < 1e-4);
  CHECK(test::relative_distance(d_shifted, d) < 1e-4);
}

TEST_CASE("NaN and infinite logits make the loss NaN, a logit of -inf is a class ruled out") {
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<int> labels{0};
  Matrix<double> logits(2, 1), d(2, 1);
  logits << 0, std::numeric_limits<double>::quiet_NaN();
  CHECK(std::isnan(SoftmaxCrossEntropy::evaluate<double>(logits, labels, d)));
  CHECK(d.array().isNaN().all());
  logits << 0, inf;
  CHECK(std::isnan(SoftmaxCrossEntropy::evaluate<double>(logits, labels, d)));
  logits << 0, -inf;
  CHECK(SoftmaxCrossEntropy::evaluate<double>(logits, labels, d) == 0);
  CHECK(d.cwiseAbs().maxCoeff() < 1e-30);
}

TEST_CASE("NaN in float logits is not lost in vector instructions") {
  for (const Index classes : {1, 3, 8, 16, 33}) {
    Matrix<float> logits = Matrix<float>::Zero(classes, 1), d(classes, 1);
    logits(classes - 1) = std::numeric_limits<float>::quiet_NaN();
    const std::vector<int> labels{0};
    CHECK(std::isnan(SoftmaxCrossEntropy::evaluate<float>(logits, labels, d)));
  }
}

TEST_CASE("labels that are no class, or too few, are refused by sample") {
  Matrix<double> logits = Matrix<double>::Zero(3, 2), d = Matrix<double>::Ones(3, 2);
  const auto message = [&](const std::vector<int>& labels) {
    return test::message_of<loraplus::ArgumentError>(
        [&] { SoftmaxCrossEntropy::evaluate<double>(logits, labels, d); });
  };
  CHECK(message({0, 3}) == "SoftmaxCrossEntropy: label 3 of sample 1 is not in 0 .. 2");
  CHECK(message({-1, 0}) == "SoftmaxCrossEntropy: label -1 of sample 0 is not in 0 .. 2");
  CHECK(message({0}) == "SoftmaxCrossEntropy: 2 samples, but 1 labels");
  CHECK(d == Matrix<double>::Ones(3, 2));
}

TEST_CASE("an empty batch has no mean, and wrong shapes are refused") {
  Matrix<double> none(3, 0), some(3, 2), other(2, 2);
  const std::vector<int> labels{0, 1};
  CHECK_THROWS_AS(SoftmaxCrossEntropy::evaluate<double>(none, std::span<const int>(), none),
                  loraplus::ArgumentError);
  CHECK_THROWS_AS(MeanSquaredError::evaluate<double>(none, none, none), loraplus::ArgumentError);
  CHECK_THROWS_AS(SoftmaxCrossEntropy::evaluate<double>(some, labels, other), loraplus::ShapeError);
  CHECK_THROWS_AS(MeanSquaredError::evaluate<double>(some, other, some), loraplus::ShapeError);
  CHECK_THROWS_AS(MeanSquaredError::evaluate<double>(some, some, other), loraplus::ShapeError);
}
