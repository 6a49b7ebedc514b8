// The search for the best mean rate g of each of several arms, and its judgement on fresh seeds.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "runner.hpp"
#include "statistics.hpp"
#include "trial.hpp"

namespace lab {

/// What every experiment works with.
struct Lab {
  Problems& problems;
  Runner& runner;
};

/// A problem of which there are several, with frozen networks of other seeds.
struct Setup {
  ProblemKey problem;
  int networks = 3;

  /// The seed of a trial chooses the frozen network, too.
  ProblemKey at(std::uint64_t seed) const;
};

/// Seeds to tune with and seeds to report: never the same.
struct Seeds {
  int tuning = 3;
  int reporting = 10;

  std::vector<std::uint64_t> to_tune() const;    ///< 1, 2, ...
  std::vector<std::uint64_t> to_report() const;  ///< 1001, 1002, ...
};

/// A method with everything but its mean rate, and where the search for that begins.
struct Arm {
  std::string name = {};
  Training training = {};
  int ratio_log2 = 0;
  double low_log2 = -10;   ///< the lowest g of the first round
  double high_log2 = -2;   ///< the highest
  double step_log2 = 0.5;  ///< a factor of sqrt(2)
};

/// What one g gave.
struct Point {
  double g_log2 = 0;
  std::vector<double> losses = {};  ///< logarithms of validation losses, one a seed
  int diverged = 0;

  double mean() const { return lab::mean(losses); }
};

/// An arm, searched.
struct Searched {
  Arm arm = {};
  std::vector<Point> points = {};  ///< by rising g
  std::size_t best = 0;            ///< by the mean over the seeds

  Rates best_rates() const { return {points[best].g_log2, arm.ratio_log2}; }
  bool at_edge() const { return best == 0 || best + 1 == points.size(); }
  int trials() const;
  int diverged() const;

  /// The least mean over some of the seeds, an index for each; and the g where it is, refined by
  /// the parabola through the neighbours.
  struct Minimum {
    double loss;
    double g_log2;
  };
  Minimum minimum(std::span<const std::size_t> seeds) const;
  Minimum minimum() const;
};

/// How far beyond its first range an arm's search may go, to either side.
inline constexpr double largest_extension_log2 = 12;

/// Tries every arm at all its rates, and goes on at a side as long as the best rate is the last one
/// there.
std::vector<Searched> search(Lab& lab, const std::string& phase, const Setup& setup,
                             std::span<const Arm> arms, std::span<const std::uint64_t> seeds);

/// An arm with its rates chosen, on seeds and samples that had no part in the choice.
struct Reported {
  Arm arm = {};
  Rates rates = {};
  std::vector<double> losses = {};  ///< logarithms of test losses, one a seed
  int diverged = 0;

  double geometric_mean() const;
};

std::vector<Reported> report(Lab& lab, const std::string& phase, const Setup& setup,
                             std::span<const Searched> searched,
                             std::span<const std::uint64_t> seeds);

/// What an arm gains over a baseline: the mean of log(loss of the baseline / loss of the arm) over
/// pairs of runs with the same seed; at +5 % the loss of the baseline is 5 % higher.
Estimate gain(const Reported& baseline, const Reported& arm);

/// "better", "worse", "tie" if the interval lies within 5 % of the loss, else "open".
/// @param p_value of the gain, corrected for all gains that are judged together
std::string judgement(const Estimate& gain, double p_value);

inline constexpr double tie_margin = 0.05;

}  // namespace lab
