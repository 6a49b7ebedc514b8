#include "ratio_lab/statistics.hpp"

#include <cmath>
#include <limits>
#include <loraplus/core/random.hpp>

#include "support/catch.hpp"

using lab::Interval;

namespace {

/// Normal numbers.
std::vector<double> draw(int count, double mean, double deviation, std::mt19937_64& generator) {
  std::vector<double> values;
  for (int i = 0; i < count; ++i) {
    values.push_back(mean + deviation * loraplus::normal(generator));
  }
  return values;
}

}  // namespace

TEST_CASE("Student's distribution has the values of the tables") {
  struct Row {
    double p, degrees, t;
  };
  for (const Row& row : {Row{0.975, 1, 12.7062047},
                         {0.975, 2, 4.30265273},
                         {0.975, 9, 2.26215716},
                         {0.975, 30, 2.04227246},
                         {0.975, 1000, 1.96233908},
                         {0.95, 5, 2.01504837},
                         {0.995, 4, 4.60409487},
                         {0.025, 9, -2.26215716},
                         {0.5, 3, 0}}) {
    CAPTURE(row.p, row.degrees);
    CHECK(lab::student_quantile(row.p, row.degrees) == Approx(row.t).margin(1e-7));
    CHECK(lab::student_cdf(row.t, row.degrees) == Approx(row.p).margin(1e-8));
  }
  CHECK(lab::student_cdf(std::numeric_limits<double>::infinity(), 3) == 1);
}

// Differences 1, 2, 3, 4, 10: mean 4, standard deviation sqrt(12.5), t = 4 / sqrt(2.5).
TEST_CASE("a paired t interval of values worked out by hand") {
  const std::vector<double> values{1, 2, 3, 4, 10};
  const auto estimate = lab::paired_t(values);
  CHECK(estimate.mean == Approx(4));
  CHECK(estimate.interval.low == Approx(4 - 2.776445105 * std::sqrt(2.5)));
  CHECK(estimate.interval.high == Approx(4 + 2.776445105 * std::sqrt(2.5)));
  CHECK(estimate.p_value == Approx(0.0646).margin(5e-4));
}

TEST_CASE("a paired t interval says nothing where there is nothing to say") {
  const std::vector<double> one{3}, same{2, 2, 2}, zeros{0, 0};
  CHECK(lab::paired_t(one).interval.low == -std::numeric_limits<double>::infinity());
  CHECK(lab::paired_t(one).p_value == 1);
  CHECK(lab::paired_t(same).interval.low == 2);
  CHECK(lab::paired_t(same).p_value == 0);
  CHECK(lab::paired_t(zeros).p_value == 1);
}

TEST_CASE("a 95 % interval covers the truth in 95 % of cases, with an effect and without") {
  std::mt19937_64 generator{1};
  for (const double truth : {0.0, 0.3}) {
    int covered = 0, found = 0;
    constexpr int cases = 2000;
    for (int i = 0; i < cases; ++i) {
      const auto estimate = lab::paired_t(draw(10, truth, 1, generator));
      covered += estimate.interval.contains(truth) ? 1 : 0;
      found += estimate.p_value < 0.05 ? 1 : 0;
      CHECK((estimate.p_value < 0.05) == !estimate.interval.contains(0));
    }
    CAPTURE(truth);
    CHECK(covered > 0.935 * cases);
    CHECK(covered < 0.965 * cases);
    if (truth == 0) CHECK(found < 0.065 * cases);
  }
}

TEST_CASE("Holm's correction of an example worked out by hand") {
  const std::vector<double> p{0.01, 0.04, 0.03, 0.005};
  const auto corrected = lab::holm(p);
  CHECK(corrected[3] == Approx(0.02));
  CHECK(corrected[0] == Approx(0.03));
  CHECK(corrected[2] == Approx(0.06));
  CHECK(corrected[1] == Approx(0.06));  // not below the one before it
  CHECK(lab::holm(std::vector<double>{0.9, 0.8}) == std::vector<double>{1, 1});
  CHECK(lab::holm(std::vector<double>{}).empty());
}

TEST_CASE("Holm keeps the chance of any false find among many below 5 %, and finds a real one") {
  std::mt19937_64 generator{2};
  int false_finds = 0, naive_finds = 0, real_finds = 0;
  constexpr int cases = 500;
  for (int i = 0; i < cases; ++i) {
    std::vector<double> p;
    for (int arm = 0; arm < 20; ++arm) {
      p.push_back(lab::paired_t(draw(10, arm == 0 ? 2.0 : 0.0, 1, generator)).p_value);
    }
    const auto corrected = lab::holm(p);
    bool any = false, any_naive = false;
    for (std::size_t arm = 1; arm < p.size(); ++arm) {
      any = any || corrected[arm] < 0.05;
      any_naive = any_naive || p[arm] < 0.05;
    }
    false_finds += any ? 1 : 0;
    naive_finds += any_naive ? 1 : 0;
    real_finds += corrected[0] < 0.05 ? 1 : 0;
  }
  CHECK(false_finds < 0.08 * cases);
  CHECK(naive_finds > 0.4 * cases);  // what it is for
  CHECK(real_finds > 0.9 * cases);
}

// y = 1, 3, 2, 5 at x = 0, 1, 2, 3: slope 1.1, intercept 1.1, residuals 2.7 with 2 degrees.
TEST_CASE("a line through points, with its slope's interval, worked out by hand") {
  const std::vector<double> x{0, 1, 2, 3}, y{1, 3, 2, 5};
  const auto line = lab::fit_line(x, y);
  CHECK(line.slope == Approx(1.1));
  CHECK(line.intercept == Approx(1.1));
  const double error = std::sqrt(2.7 / 2 / 5);
  CHECK(line.slope_interval.low == Approx(1.1 - 4.30265273 * error));
  CHECK(line.slope_interval.high == Approx(1.1 + 4.30265273 * error));
  CHECK(lab::fit_line(std::vector<double>{1, 2}, std::vector<double>{3, 5}).slope == Approx(2));
}

TEST_CASE("a bootstrap interval covers the median of what was drawn, and repeats itself") {
  std::mt19937_64 generator{3};
  int covered = 0;
  constexpr int cases = 300;
  for (int i = 0; i < cases; ++i) {
    const auto values = draw(25, 1, 1, generator);
    const auto statistic = [&](std::span<const std::size_t> drawn) {
      std::vector<double> chosen;
      for (const std::size_t index : drawn) {
        chosen.push_back(values[index]);
      }
      return lab::median(chosen);
    };
    const Interval interval = lab::bootstrap(values.size(), statistic, 0.95, 400);
    const Interval again = lab::bootstrap(values.size(), statistic, 0.95, 400);
    CHECK(interval.low == again.low);
    covered += interval.contains(1) ? 1 : 0;
  }
  CHECK(covered > 0.90 * cases);
  CHECK(covered < 0.99 * cases);
}

TEST_CASE("a median stands with infinite values") {
  const double never = std::numeric_limits<double>::infinity();
  CHECK(lab::median({3, 1, 2}) == 2);
  CHECK(lab::median({4, 1, 2, 3}) == 2.5);
  CHECK(lab::median({never, 1, 2}) == 2);
  CHECK(lab::median({never, never}) == never);
}
