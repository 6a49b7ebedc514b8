#include <loraplus/optim/adam.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/golden.hpp"

using loraplus::Adam;
using loraplus::AdamW;
using loraplus::OptimizerState;

namespace {

template <typename Scalar>
using Array = Eigen::Array<Scalar, Eigen::Dynamic, 1>;

// The settings of generate.py: an epsilon as large as some of the gradients, so that its place in
// the formula counts.
template <typename Rule>
Rule golden_rule(double weight_decay) {
  return {.learning_rate = 0.05,
          .beta1 = 0.8,
          .beta2 = 0.95,
          .epsilon = 1e-3,
          .weight_decay = weight_decay};
}

template <typename Rule>
void check_refusals(const std::string& name) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double infinity = std::numeric_limits<double>::infinity();
  CHECK_NOTHROW(Rule{}.validate());
  CHECK_NOTHROW(
      Rule{.learning_rate = 0, .beta1 = 0, .beta2 = 0, .epsilon = 0, .weight_decay = 0}.validate());
  for (const double bad : {-1.0, nan, infinity, -infinity}) {
    CHECK(test::contains(test::refusal(Rule{.learning_rate = bad}), name + ": the learning rate"));
    CHECK(test::contains(test::refusal(Rule{.beta1 = bad}), name + ": beta1"));
    CHECK(test::contains(test::refusal(Rule{.beta2 = bad}), name + ": beta2"));
    CHECK(test::contains(test::refusal(Rule{.epsilon = bad}), name + ": epsilon"));
    CHECK(test::contains(test::refusal(Rule{.weight_decay = bad}), name + ": the weight decay"));
  }
  CHECK(test::contains(test::refusal(Rule{.beta1 = 1}), "beta1"));
  CHECK(test::contains(test::refusal(Rule{.beta2 = 1}), "beta2"));
}

}  // namespace

TEMPLATE_TEST_CASE("Adam follows PyTorch over 100 steps", "", float, double) {
  using test::check_golden_path;
  check_golden_path<TestType>(golden_rule<Adam>(0), "adam");
  check_golden_path<TestType>(golden_rule<Adam>(0.1), "adam_decay");
}

TEMPLATE_TEST_CASE("AdamW follows PyTorch over 100 steps", "", float, double) {
  using test::check_golden_path;
  check_golden_path<TestType>(golden_rule<AdamW>(0), "adamw");
  check_golden_path<TestType>(golden_rule<AdamW>(0.1), "adamw_decay");
}

TEMPLATE_TEST_CASE("Adam and AdamW have PyTorch's default settings", "", float, double) {
  using test::check_golden_path;
  check_golden_path<TestType>(Adam{.learning_rate = 0.05}, "adam_defaults");
  check_golden_path<TestType>(AdamW{.learning_rate = 0.05}, "adamw_defaults");
  CHECK(Adam{}.learning_rate == 1e-3);
  CHECK(AdamW{}.learning_rate == 1e-3);
}

TEMPLATE_TEST_CASE("the first step of Adam is the learning rate, whatever the gradient's size", "",
                   float, double) {
  using Scalar = TestType;
  Array<Scalar> p = Array<Scalar>::Zero(4);
  Array<Scalar> gradient(4);
  gradient << Scalar(1e-3), Scalar(-1), Scalar(1e3), Scalar(0);
  auto state = OptimizerState<Scalar>::Zero(4, 2).eval();
  Adam{}.update<Scalar>(p, gradient, state, {0.125, 0, 1});
  CHECK(std::abs(p(0) + Scalar(0.125)) < Scalar(2e-6));  // epsilon is 1e-5 of this gradient
  CHECK(std::abs(p(1) - Scalar(0.125)) < Scalar(1e-7));
  CHECK(std::abs(p(2) + Scalar(0.125)) < Scalar(1e-7));
  CHECK(p(3) == 0);
}

TEST_CASE("Adam and AdamW take rate and decay from the context, not from their own settings") {
  const Eigen::ArrayXd gradient = Eigen::ArrayXd::Zero(1);
  auto state = OptimizerState<double>::Zero(1, 2).eval();
  Eigen::ArrayXd p = Eigen::ArrayXd::Constant(1, 2);
  AdamW{.learning_rate = 100, .weight_decay = 100}.update<double>(p, gradient, state,
                                                                  {0.5, 0.25, 1});
  CHECK(p(0) == 2 * (1 - 0.5 * 0.25));  // a zero gradient leaves the decay alone

  p.setConstant(2);
  Adam{.learning_rate = 100, .weight_decay = 0}.update<double>(p, gradient, state, {0.5, 0.25, 1});
  CHECK(std::abs(p(0) - (2 - 0.5)) < 1e-7);  // the decay is a gradient, its size is normalised
}

TEMPLATE_TEST_CASE("an epsilon of zero leaves a coefficient without gradient where it is", "",
                   float, double) {
  using Scalar = TestType;
  const Array<Scalar> start = test::random_vector<Scalar>(5, 1).array();
  Array<Scalar> p = start;
  Array<Scalar> gradient = Array<Scalar>::Zero(5);
  auto state = OptimizerState<Scalar>::Zero(5, 2).eval();
  const AdamW rule{.epsilon = 0, .weight_decay = 0};
  for (loraplus::Index step = 1; step <= 3; ++step) {
    rule.update<Scalar>(p, gradient, state, {0.125, 0, step});
    CHECK(test::same_bits(p, start));
  }
  gradient.setConstant(2);
  rule.update<Scalar>(p, gradient, state, {0.125, 0, 4});
  CHECK(p.allFinite());
  CHECK((p < start).all());
}

// 0 counts as a number far below the root of what v can hold.
TEMPLATE_TEST_CASE("an epsilon of zero takes no leap if the square of a gradient underflows", "",
                   float, double) {
  using Scalar = TestType;
  Array<Scalar> p = Array<Scalar>::Zero(1);
  Array<Scalar> gradient(1);
  gradient(0) = std::sqrt(std::numeric_limits<Scalar>::min()) * Scalar(1e-10);
  auto state = OptimizerState<Scalar>::Zero(1, 2).eval();
  Adam{.epsilon = 0}.update<Scalar>(p, gradient, state, {0.125, 0, 1});
  CHECK(std::abs(p(0)) <= Scalar(0.1251));
}

TEST_CASE("Adam and AdamW keep two moments") {
  CHECK(Adam{}.state_count() == 2);
  CHECK(AdamW{}.state_count() == 2);
}

TEST_CASE("Adam and AdamW name a setting that is out of its range") {
  check_refusals<Adam>("Adam");
  check_refusals<AdamW>("AdamW");
}
