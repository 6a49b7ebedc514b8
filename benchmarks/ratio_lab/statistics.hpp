// What may be concluded from a few runs: intervals, tests and corrections for many of them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace lab {

struct Interval {
  double low;
  double high;

  bool contains(double value) const { return low <= value && value <= high; }
};

/// @param values not empty; infinite ones are allowed
double median(std::vector<double> values);

double mean(std::span<const double> values);

/// With n - 1; NaN for less than two values.
double standard_deviation(std::span<const double> values);

/// P(T <= t) of Student's distribution.
double student_cdf(double t, double degrees);

/// The t with P(T <= t) = p, 0 < p < 1.
double student_quantile(double p, double degrees);

/// A mean with its confidence interval and the two-sided p-value of "the mean is 0".
struct Estimate {
  double mean;
  Interval interval;
  double p_value;
};

/// Student's t for the mean of values that are each a difference of a pair. Values that are all the
/// same have an interval of no width, and the p-value 0, or 1 if they are 0. One value alone has
/// an infinite interval and the p-value 1.
Estimate paired_t(std::span<const double> differences, double confidence = 0.95);

/// Holm's step-down correction: p-values that may be held against one level, all together.
std::vector<double> holm(std::span<const double> p_values);

/// The least-squares line through points, and the slope's interval by Student's t (n - 2). With two
/// points the interval is infinite.
struct Line {
  double slope;
  double intercept;
  Interval slope_interval;
};
Line fit_line(std::span<const double> x, std::span<const double> y, double confidence = 0.95);

/// The percentile bootstrap interval of a statistic of `count` things, drawn anew with replacement.
/// @param statistic from the indices that were drawn; a result that is NaN is left out
Interval bootstrap(std::size_t count,
                   const std::function<double(std::span<const std::size_t>)>& statistic,
                   double confidence = 0.95, int resamples = 2000, std::uint64_t seed = 1);

}  // namespace lab
