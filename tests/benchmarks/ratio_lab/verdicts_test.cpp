#include "ratio_lab/verdicts.hpp"

#include <cmath>

#include "support/catch.hpp"
#include "support/errors.hpp"

using lab::Exactness;
using lab::Searched;
using lab::Verdict;
using lab::WidthStudy;

namespace {

/// A study in which the loss at width n is a parabola in log2 g and log2 ratio about given optima.
struct Shape {
  double best_ratio_slope = 0;  // log2 of the best ratio for each doubling of n
  double good_ratio_slope = 0;  // the same of the largest ratio that is nearly as good
  double rate_slope = -0.5;     // log2 of the best g for each doubling
  double gain16 = 0;            // log loss of LoRA over that of ratio 16
  double gain_best = 0;
};

WidthStudy make_study(bool b_random, const Shape& shape) {
  WidthStudy study{.task = "made up", .training = {.b_random = b_random}};
  for (int doubling = 0; doubling < 4; ++doubling) {
    WidthStudy::At at{.width = lab::Index{64} << doubling};
    const double best_ratio = shape.best_ratio_slope * doubling;
    const double good_ratio = 2 + shape.good_ratio_slope * doubling;
    const double best_g = -4 + shape.rate_slope * doubling;
    for (const int ratio : {-2, 0, 2, 4, 6, 8}) {
      const double off = std::abs(ratio - best_ratio);
      const double by_ratio = ratio <= good_ratio ? 0.01 * off : 0.1 + 0.01 * off;
      Searched arm{.arm = {.ratio_log2 = ratio}};
      for (int i = 0; i < 12; ++i) {
        const double g = -8 + 0.5 * i;
        const double loss = by_ratio + 0.1 * (g - best_g) * (g - best_g);
        arm.points.push_back({g, {loss, loss + 0.001, loss - 0.001}});
        if (arm.points.back().mean() < arm.points[arm.best].mean())
          arm.best = arm.points.size() - 1;
      }
      at.by_ratio.push_back(std::move(arm));
    }
    const auto losses = [](double log_loss) {
      lab::Reported made;
      for (int seed = 0; seed < 6; ++seed) {
        made.losses.push_back(log_loss + 0.002 * ((seed * 7) % 5));
      }
      return made;
    };
    at.lora = losses(0);
    at.ratio16 = losses(-shape.gain16);
    at.best = losses(-shape.gain_best);
    // noise that is not shared
    at.ratio16.losses[2] += 0.001;
    at.best.losses[3] += 0.001;
    at.gain16 = lab::gain(at.lora, at.ratio16);
    at.gain_best = lab::gain(at.lora, at.best);
    study.widths.push_back(std::move(at));
  }
  return study;
}

const Exactness exact{.pairs = 10, .same_bits = 10, .other_ratios = 1e-12, .width_error = 1e-15};

std::vector<lab::Scheme> schemes(double deviation) {
  lab::Scheme scheme{"made up", {}};
  for (auto& exponent : scheme.exponents) {
    exponent = {"d", -1, {.slope = -1, .intercept = 0, .slope_interval = {-1.1, -0.9}}};
  }
  scheme.exponents[2].line.slope += deviation;
  return {scheme};
}

lab::Speed speed(double low, double high, double null_low = 0.9, double null_high = 1.1) {
  return {.options = {},
          .ratio = (low + high) / 2,
          .interval = {low, high},
          .null_ratio = 1,
          .null_interval = {null_low, null_high}};
}

}  // namespace

TEST_CASE("R1 stands on exactness, exponents and rates, each by itself") {
  const std::vector<WidthStudy> right = {make_study(false, {}), make_study(true, {})};
  const std::vector<WidthStudy> wrong = {make_study(false, {}),
                                         make_study(true, {.rate_slope = -1})};
  CHECK(lab::judge_theory(exact, schemes(0.1), right).result == "reproduced");
  CHECK(lab::judge_theory(exact, schemes(0.1), wrong).result == "partial");
  CHECK(lab::judge_theory(exact, schemes(0.2), right).result == "failed");
  Exactness inexact = exact;
  inexact.same_bits = 9;
  CHECK(lab::judge_theory(inexact, schemes(0), right).result == "failed");
  inexact = exact;
  inexact.width_error = 1e-6;
  CHECK(lab::judge_theory(inexact, schemes(0), right).result == "failed");
  CHECK(test::contains(lab::judge_theory(exact, schemes(0), wrong).evidence, "ratio 16: -1.00"));
}

TEST_CASE("R2 asks for a growing best ratio and for a gain") {
  const auto judge = [](const Shape& shape) {
    const std::vector<WidthStudy> studies = {make_study(true, shape)};
    return lab::judge_gain_b_random(studies).result;
  };
  CHECK(judge({.best_ratio_slope = 2, .good_ratio_slope = 3, .gain16 = 0.1}) == "reproduced");
  CHECK(judge({.best_ratio_slope = 2, .good_ratio_slope = 3, .gain16 = 0}) == "partial");
  CHECK(judge({.best_ratio_slope = 0, .gain16 = 0.1}) == "partial");
  CHECK(judge({.best_ratio_slope = 0, .gain16 = -0.1}) == "failed");
  CHECK(judge({.best_ratio_slope = -0.9, .gain16 = 0.1}) == "failed");
  const std::vector<WidthStudy> mixed = {
      make_study(true, {.best_ratio_slope = 2, .good_ratio_slope = 3, .gain16 = 0.1}),
      make_study(true, {.gain16 = -0.1})};
  CHECK(lab::judge_gain_b_random(mixed).result == "partial");
  CHECK(lab::judge_gain_b_random({}).result == "not tested");
}

TEST_CASE("R3 asks for the largest good ratio to grow") {
  const auto judge = [](const Shape& shape) {
    const std::vector<WidthStudy> studies = {make_study(false, shape)};
    return lab::judge_growth_a_random(studies).result;
  };
  CHECK(judge({.good_ratio_slope = 2}) == "reproduced");
  CHECK(judge({.good_ratio_slope = 0}) == "partial");
  CHECK(judge({.good_ratio_slope = -1}) == "failed");
}

TEST_CASE("R4 asks for more of a gain on the hard task") {
  const std::vector<WidthStudy> easy = {make_study(false, {.gain_best = 0.1}),
                                        make_study(true, {.gain_best = 0.1})};
  const std::vector<WidthStudy> hard = {make_study(false, {.gain_best = 0.3}),
                                        make_study(true, {.gain_best = 0.3})};
  CHECK(lab::judge_hard_task(easy, hard).result == "reproduced");
  CHECK(lab::judge_hard_task(hard, easy).result == "failed");
  CHECK(lab::judge_hard_task(easy, easy).result == "partial");
  CHECK(lab::judge_hard_task({}, {}).result == "not tested");
}

TEST_CASE("R5 asks for fewer steps, and for a null that covers 1") {
  const auto judge = [](const lab::Speed& made) {
    const std::vector<lab::Speed> speeds = {made};
    return lab::judge_speed(speeds);
  };
  CHECK(judge(speed(1.2, 1.6)).result == "reproduced");
  CHECK(judge(speed(0.9, 1.6)).result == "partial");
  CHECK(judge(speed(0.5, 0.8)).result == "failed");
  CHECK(judge(speed(1.2, 1.6, 1.05, 1.3)).result == "partial");
  CHECK(test::contains(judge(speed(1.2, 2.6)).evidence, "covers 2"));
  CHECK_FALSE(test::contains(judge(speed(1.2, 1.6)).evidence, "covers 2"));
}
