#include "statistics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <loraplus/core/random.hpp>
#include <numeric>

namespace lab {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();

/// The continued fraction of the incomplete beta function, by Lentz's method (Abramowitz and
/// Stegun, 26.5.8).
double beta_fraction(double x, double a, double b) {
  constexpr double tiny = 1e-300;
  const auto away_from_zero = [](double value) { return std::abs(value) < tiny ? tiny : value; };
  double c = 1;
  double d = 1 / away_from_zero(1 - (a + b) * x / (a + 1));
  double fraction = d;
  for (int m = 1; m < 500; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / away_from_zero(1 + even * d);
    c = away_from_zero(1 + even / c);
    fraction *= d * c;
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / away_from_zero(1 + odd * d);
    c = away_from_zero(1 + odd / c);
    fraction *= d * c;
    if (std::abs(d * c - 1) < 1e-15) break;
  }
  return fraction;
}

/// The regularised incomplete beta function I_x(a, b).
double incomplete_beta(double x, double a, double b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log1p(-x));
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(x, a, b) / a;
  return 1 - front * beta_fraction(1 - x, b, a) / b;
}

}  // namespace

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  if (values.size() % 2 == 1) return values[middle];
  if (values[middle - 1] == values[middle]) return values[middle];  // both may be infinite
  return (values[middle - 1] + values[middle]) / 2;
}

double mean(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double standard_deviation(std::span<const double> values) {
  const double centre = mean(values);
  double squares = 0;
  for (const double value : values) {
    squares += (value - centre) * (value - centre);
  }
  return std::sqrt(squares / (static_cast<double>(values.size()) - 1));
}

double student_cdf(double t, double degrees) {
  if (std::isinf(t)) return t > 0 ? 1 : 0;
  const double tail = incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2;
  return t > 0 ? 1 - tail : tail;
}

double student_quantile(double p, double degrees) {
  if (p < 0.5) return -student_quantile(1 - p, degrees);
  double low = 0;
  double high = 1;
  while (student_cdf(high, degrees) < p) {
    high *= 2;
  }
  for (int i = 0; i < 200 && low < high; ++i) {
    const double middle = low + (high - low) / 2;
    if (middle == low || middle == high) break;
    (student_cdf(middle, degrees) < p ? low : high) = middle;
  }
  return high;
}

Estimate paired_t(std::span<const double> differences, double confidence) {
  const double centre = mean(differences);
  if (differences.size() < 2) return {centre, {-infinite, infinite}, 1};
  const auto n = static_cast<double>(differences.size());
  const double error = standard_deviation(differences) / std::sqrt(n);
  if (error == 0) return {centre, {centre, centre}, centre == 0 ? 1.0 : 0.0};
  const double margin = student_quantile(0.5 + confidence / 2, n - 1) * error;
  const double p_value = 2 * student_cdf(-std::abs(centre / error), n - 1);
  return {centre, {centre - margin, centre + margin}, p_value};
}

std::vector<double> holm(std::span<const double> p_values) {
  std::vector<std::size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> corrected(p_values.size());
  double largest = 0;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const auto left = static_cast<double>(order.size() - rank);
    largest = std::max(largest, std::min(1.0, left * p_values[order[rank]]));
    corrected[order[rank]] = largest;
  }
  return corrected;
}

Line fit_line(std::span<const double> x, std::span<const double> y, double confidence) {
  const double x_mean = mean(x);
  const double y_mean = mean(y);
  double xx = 0;
  double xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - x_mean) * (x[i] - x_mean);
    xy += (x[i] - x_mean) * (y[i] - y_mean);
  }
  const double slope = xy / xx;
  const double intercept = y_mean - slope * x_mean;
  if (x.size() < 3) return {slope, intercept, {-infinite, infinite}};
  double residual = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double distance = y[i] - intercept - slope * x[i];
    residual += distance * distance;
  }
  const auto degrees = static_cast<double>(x.size()) - 2;
  const double margin =
      student_quantile(0.5 + confidence / 2, degrees) * std::sqrt(residual / degrees / xx);
  return {slope, intercept, {slope - margin, slope + margin}};
}

Interval bootstrap(std::size_t count,
                   const std::function<double(std::span<const std::size_t>)>& statistic,
                   double confidence, int resamples, std::uint64_t seed) {
  std::mt19937_64 generator{seed};
  std::vector<std::size_t> drawn(count);
  std::vector<double> values;
  for (int i = 0; i < resamples; ++i) {
    for (std::size_t& index : drawn) {
      index = static_cast<std::size_t>(
          loraplus::uniform_index(generator, static_cast<loraplus::Index>(count)));
    }
    const double value = statistic(drawn);
    if (!std::isnan(value)) values.push_back(value);
  }
  if (values.empty()) return {-infinite, infinite};
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    return values[static_cast<std::size_t>(std::lround(place))];
  };
  return {at((1 - confidence) / 2), at((1 + confidence) / 2)};
}

}  // namespace lab
