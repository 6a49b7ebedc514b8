#include "ratio_lab/search.hpp"

#include <cmath>
#include <set>

#include "benchmarks/ratio_lab/lab.hpp"
#include "ratio_lab/experiments.hpp"
#include "support/catch.hpp"

using lab::Arm;
using lab::Estimate;
using lab::Reported;
using lab::Searched;

namespace {

const lab::Training brief{.rank = 2, .steps = 15};

Reported reported(std::vector<double> losses) {
  return {.arm = {}, .rates = {}, .losses = std::move(losses)};
}

}  // namespace

TEST_CASE("a search goes on beyond its range until the best rate is inside") {
  test::Laboratory laboratory("search");
  auto lab = laboratory.get();
  const auto setup = lab::make_setup("teacher", 16);
  const auto seeds = lab::Seeds{2, 2}.to_tune();
  // ranges far too low and far too high
  const std::vector<Arm> arms = {
      {.name = "low", .training = brief, .low_log2 = -14, .high_log2 = -12},
      {.name = "high", .training = brief, .low_log2 = 0, .high_log2 = 2},
      {.name = "all", .training = brief, .low_log2 = -12, .high_log2 = 2}};
  const auto searched = lab::search(lab, "test", setup, arms, seeds);
  for (const Searched& arm : searched) {
    CAPTURE(arm.arm.name);
    CHECK_FALSE(arm.at_edge());
    CHECK(arm.best_rates().g_log2 == searched[2].best_rates().g_log2);
    CHECK(arm.trials() == static_cast<int>(2 * arm.points.size()));
    for (std::size_t i = 1; i < arm.points.size(); ++i) {
      CHECK(arm.points[i].g_log2 == arm.points[i - 1].g_log2 + 0.5);
    }
  }
  CHECK(searched[1].diverged() > 0);  // counted, not hidden
  // the same search again needs no trial
  const auto done = laboratory.runner().done();
  lab::search(lab, "test", setup, arms, seeds);
  CHECK(laboratory.runner().done() == done);
}

TEST_CASE("a search whose loss falls without end stops at its limit, and says so") {
  Searched arm{.arm = {}, .points = {{-2, {3.0}}, {-1, {2.0}}, {0, {1.0}}}, .best = 2};
  CHECK(arm.at_edge());
  arm.best = 1;
  CHECK_FALSE(arm.at_edge());
}

TEST_CASE("the minimum of a search is refined by a parabola") {
  Searched arm{.arm = {}, .points = {}, .best = 3};
  for (int i = 0; i < 8; ++i) {
    const double g = -6 + 0.5 * i;
    const double value = (g + 4.4) * (g + 4.4);
    arm.points.push_back({g, {value, value + 1}});
  }
  arm.arm.step_log2 = 0.5;
  CHECK(arm.minimum().g_log2 == Approx(-4.4));
  CHECK(arm.minimum(std::vector<std::size_t>{1, 1}).g_log2 == Approx(-4.4));
  CHECK(arm.minimum(std::vector<std::size_t>{1, 1}).loss == Approx(1.01));
}

TEST_CASE("seeds to tune and seeds to report are never the same, and share the networks") {
  const lab::Seeds seeds{1000, 1000};
  std::set<std::uint64_t> all;
  for (const auto& list : {seeds.to_tune(), seeds.to_report()}) {
    all.insert(list.begin(), list.end());
  }
  CHECK(all.size() == 2000);
  const auto setup = lab::make_setup("teacher", 16);
  std::set<std::uint64_t> tuned, told;
  for (const auto seed : lab::Seeds{}.to_tune()) {
    tuned.insert(setup.at(seed).seed);
  }
  for (const auto seed : lab::Seeds{}.to_report()) {
    told.insert(setup.at(seed).seed);
  }
  CHECK(tuned.size() == 3);
  CHECK(told == tuned);
}

TEST_CASE("a gain is judged by its interval and the corrected p-value") {
  const Reported base = reported({1.0, 1.1, 0.9, 1.05});
  const Estimate better = lab::gain(base, reported({0.8, 0.91, 0.69, 0.85}));
  CHECK(better.mean == Approx(0.2).margin(0.01));
  CHECK(lab::judgement(better, better.p_value) == "better");
  CHECK(lab::judgement(better, 0.2) == "open");  // after correction
  CHECK(lab::judgement(lab::gain(reported({0.8, 0.91, 0.69, 0.85}), base), 0.001) == "worse");
  CHECK(lab::judgement(lab::gain(base, reported({1.01, 1.09, 0.91, 1.04})), 0.9) == "tie");
  CHECK(lab::judgement(lab::gain(base, reported({0.5, 1.5, 0.6, 1.4})), 0.9) == "open");
  // a certain gain of two per cent is a tie all the same
  CHECK(lab::judgement(lab::gain(base, reported({0.98, 1.081, 0.879, 1.03})), 1e-6) == "tie");
}

// What the laboratory must find, and what it must not: arms whose log losses differ by a known
// amount in noise that pairs of runs share in part.
TEST_CASE("a planted effect is found, and none where there is none") {
  std::mt19937_64 generator{5};
  const auto noisy = [&](const std::vector<double>& shared, double shift) {
    std::vector<double> losses;
    for (const double value : shared) {
      losses.push_back(value + shift + 0.03 * loraplus::normal(generator));
    }
    return reported(losses);
  };
  int found = 0, false_finds = 0, ties = 0;
  constexpr int cases = 300;
  for (int i = 0; i < cases; ++i) {
    std::vector<double> shared;
    for (int seed = 0; seed < 10; ++seed) {
      shared.push_back(loraplus::normal(generator));
    }
    const Reported baseline = noisy(shared, 0);
    std::vector<Estimate> gains;
    for (int arm = 0; arm < 6; ++arm) {
      gains.push_back(lab::gain(baseline, noisy(shared, arm == 0 ? -0.15 : 0)));
    }
    std::vector<double> p;
    for (const Estimate& gain : gains) {
      p.push_back(gain.p_value);
    }
    p = lab::holm(p);
    found += lab::judgement(gains[0], p[0]) == "better" ? 1 : 0;
    bool any = false;
    for (std::size_t arm = 1; arm < gains.size(); ++arm) {
      const auto verdict = lab::judgement(gains[arm], p[arm]);
      any = any || verdict == "better" || verdict == "worse";
      ties += verdict == "tie" ? 1 : 0;
    }
    false_finds += any ? 1 : 0;
  }
  CHECK(found > 0.95 * cases);
  CHECK(false_finds < 0.06 * cases);
  CHECK(ties > 0.25 * cases * 5);
}
