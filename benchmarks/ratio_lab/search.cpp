#include "search.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lab {
namespace {

std::vector<std::uint64_t> count_from(std::uint64_t first, int count) {
  std::vector<std::uint64_t> seeds(static_cast<std::size_t>(count));
  std::iota(seeds.begin(), seeds.end(), first);
  return seeds;
}

/// A point that is still to be tried.
struct Missing {
  std::size_t arm;
  double g_log2;
};

/// Tries points, all at once, and sorts them into their arms.
void try_points(Lab& lab, const std::string& phase, const Setup& setup,
                std::span<const Missing> points, std::span<const std::uint64_t> seeds,
                std::vector<Searched>& searched) {
  std::vector<Job> jobs;
  for (const Missing& point : points) {
    const Arm& arm = searched[point.arm].arm;
    for (const std::uint64_t seed : seeds) {
      jobs.push_back(make_job(lab.problems, {.problem = setup.at(seed),
                                             .training = arm.training,
                                             .rates = {point.g_log2, arm.ratio_log2},
                                             .seed = seed}));
    }
  }
  const std::vector<Json> results = lab.runner.run(phase, jobs);
  std::size_t next = 0;
  for (const Missing& point : points) {
    Point made{point.g_log2};
    for (std::size_t i = 0; i < seeds.size(); ++i) {
      const Outcome outcome = read_outcome(results[next++]);
      made.losses.push_back(std::log(outcome.loss));
      made.diverged += outcome.diverged ? 1 : 0;
    }
    searched[point.arm].points.push_back(std::move(made));
  }
  for (Searched& arm : searched) {
    std::sort(arm.points.begin(), arm.points.end(),
              [](const Point& a, const Point& b) { return a.g_log2 < b.g_log2; });
    const auto best =
        std::min_element(arm.points.begin(), arm.points.end(),
                         [](const Point& a, const Point& b) { return a.mean() < b.mean(); });
    arm.best = static_cast<std::size_t>(best - arm.points.begin());
  }
}

/// Four more rates at the side where the best one is the last, unless that is far enough.
void extend(const Searched& searched, std::size_t index, std::vector<Missing>& missing) {
  const Arm& arm = searched.arm;
  const double lowest = searched.points.front().g_log2;
  const double highest = searched.points.back().g_log2;
  for (int i = 1; i <= 4; ++i) {
    if (searched.best == 0 && lowest > arm.low_log2 - largest_extension_log2) {
      missing.push_back({index, lowest - i * arm.step_log2});
    }
    if (searched.best + 1 == searched.points.size() &&
        highest < arm.high_log2 + largest_extension_log2) {
      missing.push_back({index, highest + i * arm.step_log2});
    }
  }
}

}  // namespace

ProblemKey Setup::at(std::uint64_t seed) const {
  ProblemKey key = problem;
  key.seed = 1 + seed % static_cast<std::uint64_t>(networks);
  return key;
}

std::vector<std::uint64_t> Seeds::to_tune() const {
  return count_from(1, tuning);
}

std::vector<std::uint64_t> Seeds::to_report() const {
  return count_from(1001, reporting);
}

int Searched::trials() const {
  return static_cast<int>(points.size() * points.front().losses.size());
}

int Searched::diverged() const {
  return std::accumulate(points.begin(), points.end(), 0,
                         [](int sum, const Point& point) { return sum + point.diverged; });
}

Searched::Minimum Searched::minimum(std::span<const std::size_t> seeds) const {
  std::vector<double> means;
  for (const Point& point : points) {
    double sum = 0;
    for (const std::size_t seed : seeds) {
      sum += point.losses[seed];
    }
    means.push_back(sum / static_cast<double>(seeds.size()));
  }
  const auto least = std::min_element(means.begin(), means.end());
  const auto at = static_cast<std::size_t>(least - means.begin());
  Minimum found{*least, points[at].g_log2};
  if (at == 0 || at + 1 == means.size()) return found;
  const double curvature = means[at - 1] - 2 * means[at] + means[at + 1];
  if (curvature > 0) {
    const double shift = (means[at - 1] - means[at + 1]) / (2 * curvature);
    found.g_log2 += shift * arm.step_log2;
  }
  return found;
}

Searched::Minimum Searched::minimum() const {
  std::vector<std::size_t> all(points.front().losses.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  return minimum(all);
}

std::vector<Searched> search(Lab& lab, const std::string& phase, const Setup& setup,
                             std::span<const Arm> arms, std::span<const std::uint64_t> seeds) {
  std::vector<Searched> searched;
  std::vector<Missing> missing;
  for (const Arm& arm : arms) {
    const auto steps = std::lround((arm.high_log2 - arm.low_log2) / arm.step_log2);
    for (long i = 0; i <= steps; ++i) {
      missing.push_back({searched.size(), arm.low_log2 + static_cast<double>(i) * arm.step_log2});
    }
    searched.push_back({arm});
  }
  while (!missing.empty()) {
    try_points(lab, phase, setup, missing, seeds, searched);
    missing.clear();
    for (std::size_t i = 0; i < searched.size(); ++i) {
      extend(searched[i], i, missing);
    }
  }
  return searched;
}

double Reported::geometric_mean() const {
  return std::exp(mean(losses));
}

std::vector<Reported> report(Lab& lab, const std::string& phase, const Setup& setup,
                             std::span<const Searched> searched,
                             std::span<const std::uint64_t> seeds) {
  std::vector<Job> jobs;
  for (const Searched& arm : searched) {
    for (const std::uint64_t seed : seeds) {
      jobs.push_back(make_job(lab.problems, {.problem = setup.at(seed),
                                             .training = arm.arm.training,
                                             .rates = arm.best_rates(),
                                             .seed = seed,
                                             .judge = Judge::test}));
    }
  }
  const std::vector<Json> results = lab.runner.run(phase, jobs);
  std::vector<Reported> reported;
  std::size_t next = 0;
  for (const Searched& arm : searched) {
    Reported made{arm.arm, arm.best_rates(), {}};
    for (std::size_t i = 0; i < seeds.size(); ++i) {
      const Outcome outcome = read_outcome(results[next++]);
      made.losses.push_back(std::log(outcome.loss));
      made.diverged += outcome.diverged ? 1 : 0;
    }
    reported.push_back(std::move(made));
  }
  return reported;
}

Estimate gain(const Reported& baseline, const Reported& arm) {
  std::vector<double> differences;
  for (std::size_t i = 0; i < arm.losses.size(); ++i) {
    differences.push_back(baseline.losses[i] - arm.losses[i]);
  }
  return paired_t(differences);
}

std::string judgement(const Estimate& gain, double p_value) {
  const double margin = std::log1p(tie_margin);
  if (-margin <= gain.interval.low && gain.interval.high <= margin) return "tie";
  if (p_value < 0.05) return gain.mean > 0 ? "better" : "worse";
  return "open";
}

}  // namespace lab
