// How a gain is claimed that is none, and that this laboratory does not claim it.
#include <cmath>
#include <limits>

#include "benchmarks/ratio_lab/lab.hpp"
#include "ratio_lab/experiments.hpp"
#include "support/catch.hpp"

namespace {

constexpr lab::Index width = 32;
const lab::Training training{.rank = 2, .steps = 20};  // A random, B = 0

/// What is claimed from the grid of rates that differ by a factor of 4, each tried once and judged
/// by that one run: the best pair of rates against the best of the pairs that are equal. On such a
/// grid the mean of two rates goes in steps of 2 where they may differ, in steps of 4 where not.
double claim_from_coarse_grid(lab::Lab& lab, std::uint64_t seed) {
  constexpr double infinite = std::numeric_limits<double>::infinity();
  double best = infinite, best_equal = infinite;
  const auto setup = lab::make_setup("teacher", width);
  std::vector<lab::Job> jobs;
  std::vector<bool> equal;
  for (int a = -6; a <= 0; ++a) {
    for (int b = -6; b <= 0; ++b) {
      jobs.push_back(lab::make_job(lab.problems, {.problem = setup.at(seed),
                                                  .training = training,
                                                  .rates = {double(a + b), 2 * (b - a)},
                                                  .seed = seed}));
      equal.push_back(a == b);
    }
  }
  const auto results = lab.runner.run("coarse", jobs);
  for (std::size_t i = 0; i < results.size(); ++i) {
    const double loss = lab::read_outcome(results[i]).loss;
    best = std::min(best, loss);
    if (equal[i]) best_equal = std::min(best_equal, loss);
  }
  return std::log(best_equal / best);
}

}  // namespace

TEST_CASE("a coarse grid judged by its own runs claims a gain that the protocol does not find") {
  test::Laboratory laboratory("trap");
  auto lab = laboratory.get();
  int claims = 0;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const double claim = claim_from_coarse_grid(lab, seed);
    CAPTURE(seed, claim);
    claims += claim > std::log1p(lab::tie_margin) ? 1 : 0;
  }
  CHECK(claims >= 4);

  const auto studies = lab::study_widths(lab, {.widths = {width},
                                               .ratios_log2 = {-4, -2, 0, 2, 4},
                                               .training = training,
                                               .low_log2 = -6,
                                               .high_log2 = -1});
  const auto& at = studies[0].widths[0];
  const std::vector<double> p_values = {at.gain_best.p_value, at.gain16.p_value};
  const auto corrected = lab::holm(p_values);
  CAPTURE(at.best.arm.ratio_log2, at.gain_best.mean, at.gain_best.interval.low,
          at.gain_best.interval.high);
  CHECK(lab::judgement(at.gain_best, corrected[0]) != "better");
  CHECK(lab::judgement(at.gain16, corrected[1]) != "better");
}
