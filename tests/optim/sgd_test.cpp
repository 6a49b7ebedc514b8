#include <loraplus/optim/sgd.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/golden.hpp"

using loraplus::Sgd;

TEMPLATE_TEST_CASE("SGD follows PyTorch over 100 steps", "", float, double) {
  using test::check_golden_path;
  check_golden_path<TestType>(Sgd{.learning_rate = 0.05}, "sgd");
  check_golden_path<TestType>(Sgd{.learning_rate = 0.05, .weight_decay = 0.1}, "sgd_decay");
}

TEMPLATE_TEST_CASE("SGD with momentum follows PyTorch over 100 steps", "", float, double) {
  using test::check_golden_path;
  check_golden_path<TestType>(Sgd{.learning_rate = 0.05, .momentum = 0.9}, "momentum");
  check_golden_path<TestType>(Sgd{.learning_rate = 0.05, .momentum = 0.9, .weight_decay = 0.1},
                              "momentum_decay");
}

TEMPLATE_TEST_CASE("SGD with Nesterov momentum follows PyTorch over 100 steps", "", float, double) {
  using test::check_golden_path;
  check_golden_path<TestType>(Sgd{.learning_rate = 0.05, .momentum = 0.9, .nesterov = true},
                              "nesterov");
  check_golden_path<TestType>(
      Sgd{.learning_rate = 0.05, .momentum = 0.9, .nesterov = true, .weight_decay = 0.1},
      "nesterov_decay");
}

TEST_CASE("SGD takes rate and decay from the context, not from its own settings") {
  const Sgd rule{.learning_rate = 100, .weight_decay = 100};
  Eigen::ArrayXd p = Eigen::ArrayXd::Constant(1, 2);
  const Eigen::ArrayXd gradient = Eigen::ArrayXd::Constant(1, 3);
  loraplus::OptimizerState<double> state(1, 0);
  rule.update<double>(p, gradient, state, {0.5, 0.25, 1});
  CHECK(p(0) == 2 - 0.5 * (3 + 0.25 * 2));
}

TEST_CASE("SGD keeps a moment only if it has momentum") {
  CHECK(Sgd{}.state_count() == 0);
  CHECK(Sgd{.momentum = 0.5}.state_count() == 1);
  CHECK(Sgd{.momentum = 0.5, .nesterov = true}.state_count() == 1);
}

TEST_CASE("SGD names a setting that is out of its range") {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK_NOTHROW(Sgd{}.validate());
  CHECK_NOTHROW(Sgd{.learning_rate = 0, .momentum = 0, .weight_decay = 0}.validate());
  for (const double bad : {-1.0, nan, infinity, -infinity}) {
    CHECK(test::contains(test::refusal(Sgd{.learning_rate = bad}), "Sgd: the learning rate"));
    CHECK(test::contains(test::refusal(Sgd{.weight_decay = bad}), "Sgd: the weight decay"));
    CHECK(test::contains(test::refusal(Sgd{.momentum = bad}), "Sgd: momentum"));
  }
  CHECK(test::contains(test::refusal(Sgd{.momentum = 1}), "momentum"));
  CHECK(test::contains(test::refusal(Sgd{.nesterov = true}), "Nesterov"));
  CHECK(test::refusal(Sgd{.momentum = 1.5}) == "Sgd: momentum must be in [0, 1), found 1.5");
}
