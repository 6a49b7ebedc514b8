#include "theory.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lab {
namespace {

using loraplus::Adam;
using loraplus::Initialization;
using loraplus::LoraOptions;
using loraplus::LoraPlus;
using loraplus::LowRank;
using loraplus::MeanSquaredError;
using loraplus::Sgd;

Matrix<double> random_matrix(Index rows, Index cols, double deviation, std::uint64_t seed) {
  std::mt19937_64 generator{seed};
  Matrix<double> matrix(rows, cols);
  loraplus::fill_normal(matrix, generator, deviation);
  return matrix;
}

/// Trains factors by themselves, y = s B A x, on a regression; calls `after` with them after each
/// step.
template <typename Optimizer, typename After>
void train_factors(LowRank<double>& factors, Optimizer& optimizer, const Matrix<double>& x,
                   const Matrix<double>& target, int steps, After&& after) {
  Matrix<double> h(factors.rank(), x.cols()), z(factors.rank(), x.cols());
  Matrix<double> y(factors.out_features(), x.cols()), dy(factors.out_features(), x.cols());
  for (int step = 0; step < steps; ++step) {
    factors.project(x, h);
    y.setZero();
    loraplus::kernels::expand<double>(factors.b(), h, y);
    MeanSquaredError::evaluate<double>(y, target, dy);
    factors.backward(x, dy, h, z);
    optimizer.step(factors);
    after(factors);
  }
}

// T1

std::vector<Matrix<double>> products(const LoraOptions& options, double rate, double ratio) {
  constexpr Index out = 24, in = 40, samples = 16;
  std::mt19937_64 generator{7};
  LowRank<double> factors(out, in, options, generator);
  LoraPlus optimizer(Adam{.learning_rate = rate, .epsilon = 0}, {.ratio = ratio}, factors);
  std::vector<Matrix<double>> made;
  train_factors(factors, optimizer, random_matrix(in, samples, 1, 8),
                random_matrix(out, samples, 1, 9), 200,
                [&](const LowRank<double>& trained) { made.push_back(trained.b() * trained.a()); });
  return made;
}

/// The largest relative difference of B A over 200 steps: by a ratio of p^2, and by an
/// initialisation p times as large with one rate.
double rescaling_error(double p, Initialization initialization) {
  const double rate = 1e-3;
  const bool b_random = initialization == Initialization::b_uniform;
  const LoraOptions plain{.rank = 4, .alpha = 8, .initialization = initialization};
  LoraOptions rescaled = plain;
  rescaled.init_scale = b_random ? 1 / p : p;
  const auto by_ratio = products(plain, rate, p * p);
  const auto by_scale = products(rescaled, p * rate, 1);
  double largest = 0;
  for (std::size_t i = 0; i < by_ratio.size(); ++i) {
    largest = std::max(largest, (by_ratio[i] - by_scale[i]).norm() / by_scale[i].norm());
  }
  return largest;
}

// T2 and T4: f(x) = b a'x, one sample with x'x = n, loss (f - y)^2 / 2. With s = a'x gradient
// descent is b -= eta_b s u, s -= (n eta_a) b u, u = b s - y.

struct LinearModel {
  double b;
  double s;

  void step(double rate_b, double n_rate_a, double target) {
    const double residual = b * s - target;
    const double old_b = b;
    b -= rate_b * s * residual;
    s -= n_rate_a * old_b * residual;
  }
};

double width_error(Index n) {
  constexpr double k = 0.2, rate_b = 0.3, target = 1.7, start = 0.6;
  const auto width = static_cast<double>(n);
  std::mt19937_64 generator{1};
  LowRank<double> factors(1, n, {.rank = 1, .alpha = 1}, generator);
  factors.set_factors(Matrix<double>::Constant(1, n, start / width), Matrix<double>::Zero(1, 1));
  // half the rates: the gradient of the mean square is twice that of the loss above
  LoraPlus optimizer(Sgd{.learning_rate = k / width / 2}, {.ratio = rate_b / k * width}, factors);
  LinearModel model{0, start};
  double largest = 0;
  train_factors(factors, optimizer, Matrix<double>::Ones(n, 1),
                Matrix<double>::Constant(1, 1, target), 60, [&](const LowRank<double>& trained) {
                  model.step(rate_b, k, target);
                  const double f = trained.b()(0, 0) * trained.a().sum();
                  largest = std::max(largest, std::abs(f - model.b * model.s));
                });
  return largest;
}

constexpr double never = 1000;

/// Steps until |f - 1| < 0.1 for good.
double steps_to_converge(LinearModel model, double rate_b, double n_rate_a) {
  double steps = 0;
  for (double step = 1; step <= never; ++step) {
    model.step(rate_b, n_rate_a, 1);
    const double residual = std::abs(model.b * model.s - 1);
    if (!std::isfinite(residual)) return never;
    if (residual >= 0.1) steps = step;
    if (residual < 1e-6) break;
  }
  return std::min(never, steps + 1);
}

/// The mean over the starts.
double mean_steps(bool b_random, double rate_b, double n_rate_a) {
  double sum = 0;
  for (const double start : {0.3, 0.6, 0.9, 1.2, 1.7}) {
    const LinearModel model = b_random ? LinearModel{start, 0} : LinearModel{0, start};
    sum += steps_to_converge(model, rate_b, n_rate_a);
  }
  return sum / 5;
}

/// One learning rate for both, the best.
double equal_rate_steps(bool b_random, double n) {
  double best = never;
  for (double log2 = -40; log2 < 4; log2 += 1.0 / 32) {
    const double rate = std::exp2(log2);
    best = std::min(best, mean_steps(b_random, rate, n * rate));
  }
  return best;
}

/// The best rates, which by T2 are those of every width: eta_b and n eta_a.
double lora_plus_steps() {
  double best = never;
  for (double a = -5; a < 3; a += 1.0 / 8) {
    for (double b = -5; b < 3; b += 1.0 / 8) {
      best = std::min(best, mean_steps(false, std::exp2(b), std::exp2(a)));
    }
  }
  return best;
}

// T3

struct Rates3 {
  const char* name;
  Initialization initialization;
  double constant_a, power_a;  // eta_a = constant_a n^power_a
  double constant_b, power_b;
  std::array<double, 5> theory;  // of d1, d2, d3, A z, B A z
};

constexpr std::array<const char*, 5> quantities = {"d1", "d2", "d3", "A z", "B A z"};

const std::array<Rates3, 6>& rate_schemes() {
  constexpr auto a_random = Initialization::a_uniform, b_random = Initialization::b_uniform;
  static const std::array<Rates3, 6> schemes = {{
      {"A random, one rate n^-1/2", a_random, 0.3, -0.5, 0.3, -0.5, {0, 0, 0, 0.5, 0}},
      {"A random, one rate n^-1", a_random, 0.3, -1, 0.3, -1, {-1, -1, -1, 0, -1}},
      {"A random, LoRA+ (n^-1, 1)", a_random, 0.3, -1, 0.3, 0, {0, 0, 0, 0, 0}},
      {"B random, LoRA+ (n^-1, 1)", b_random, 0.3, -1, 0.05, 0, {0, 0, 0, 0, 0}},
      {"B random, one rate n^-1", b_random, 0.05, -1, 0.05, -1, {0, -1, -1, 0, 0}},
      {"B random, one rate n^-1/2", b_random, 0.05, -0.5, 0.05, -0.5, {0.5, 0, 0, 0.5, 0.5}},
  }};
  return schemes;
}

double root_mean_square(const Matrix<double>& matrix) {
  return std::sqrt(matrix.squaredNorm() / static_cast<double>(matrix.size()));
}

/// Logarithms of the five quantities in the eighth step of sign descent, for one network: the head
/// is of size 1/n and the target so far that the residual never changes its sign.
std::array<double, 5> sizes_after_training(const Rates3& scheme, Index n, std::uint64_t seed) {
  constexpr Index inputs = 8, samples = 32;
  constexpr int steps = 8;
  constexpr double target = 30;
  const auto width = static_cast<double>(n);
  const std::uint64_t base = 100 * seed;
  const Matrix<double> x = random_matrix(inputs, samples, 1, base);
  const Matrix<double> z =
      (random_matrix(n, inputs, 1 / std::sqrt(double{inputs}), base + 1) * x).cwiseMax(0.0);
  const Matrix<double> p0 = random_matrix(n, n, std::sqrt(2 / width), base + 2) * z;
  const Matrix<double> head = random_matrix(1, n, 1 / width, base + 3);
  std::mt19937_64 generator{base + 4};
  LowRank<double> factors(n, n, {.rank = 4, .alpha = 4, .initialization = scheme.initialization},
                          generator);
  const double rate_a = scheme.constant_a * std::pow(width, scheme.power_a);
  const double rate_b = scheme.constant_b * std::pow(width, scheme.power_b);
  // Adam without memory is sign descent
  LoraPlus optimizer(Adam{.learning_rate = rate_a, .beta1 = 0, .beta2 = 0, .epsilon = 0},
                     {.ratio = rate_b / rate_a}, factors);
  Matrix<double> h(4, samples), dz(4, samples), a, b;
  for (int step = 0; step < steps; ++step) {
    factors.project(z, h);
    Matrix<double> p = p0;
    loraplus::kernels::expand<double>(factors.b(), h, p);
    const Matrix<double> residual = (head * p.cwiseMax(0.0)).array() - target;  // 1 x samples
    const Matrix<double> dp =
        (head.transpose() * residual).cwiseProduct((p.array() > 0).cast<double>().matrix());
    factors.backward(z, dp, h, dz);
    a = factors.a();
    b = factors.b();
    optimizer.step(factors);
  }
  const Matrix<double> da = factors.a() - a, db = factors.b() - b;
  const Matrix<double> az = a * z, da_z = da * z;
  const Matrix<double> new_az = factors.a() * z;
  const std::array<Matrix<double>, 5> all = {b * da_z, db * az, db * da_z, new_az,
                                             factors.b() * new_az};
  std::array<double, 5> logs{};
  for (std::size_t i = 0; i < all.size(); ++i) {
    logs[i] = std::log(root_mean_square(all[i]));
  }
  return logs;
}

std::string interval_text(const Interval& interval) {
  char text[64];
  std::snprintf(text, sizeof text, "[%.2f, %.2f]", interval.low, interval.high);
  return text;
}

std::string two_digits(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", value);
  return text;
}

}  // namespace

Exactness test_exactness(Lab& lab) {
  constexpr std::array inits = {Initialization::a_uniform, Initialization::b_uniform};
  std::vector<Job> jobs;
  const auto add = [&](double p, Initialization initialization) {
    const bool b_random = initialization == Initialization::b_uniform;
    jobs.push_back({"T1 ratio=" + brief(p * p) + (b_random ? " init2" : " init1"),
                    [=] { return Json(rescaling_error(p, initialization)); }});
  };
  constexpr std::array exact = {0.5, 2.0, 4.0, 8.0, 16.0};
  constexpr std::array rounded = {std::numbers::sqrt2, 3.0};
  for (const auto initialization : inits) {
    for (const double p : exact) {
      add(p, initialization);
    }
    for (const double p : rounded) {
      add(p, initialization);
    }
  }
  const std::size_t rescalings = jobs.size();
  for (const Index n : {1, 64, 1024, 16384}) {
    jobs.push_back({"T2 n=" + std::to_string(n), [=] { return Json(width_error(n)); }});
  }
  const auto results = lab.runner.run("T1, T2", jobs);
  Exactness found;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const double error = results[i];
    if (i >= rescalings) {
      found.width_error = std::max(found.width_error, error);
    } else if (i % (exact.size() + rounded.size()) < exact.size()) {
      ++found.pairs;
      found.same_bits += error == 0 ? 1 : 0;
    } else {
      found.other_ratios = std::max(found.other_ratios, error);
    }
  }
  return found;
}

std::vector<Scheme> measure_exponents(Lab& lab, std::span<const Index> widths, int seeds) {
  std::vector<Job> jobs;
  for (const Rates3& scheme : rate_schemes()) {
    for (const Index n : widths) {
      for (int seed = 1; seed <= seeds; ++seed) {
        jobs.push_back({std::string("T3 ") + scheme.name + " n=" + std::to_string(n) +
                            " seed=" + std::to_string(seed),
                        [&scheme, n, seed] {
                          return Json(
                              sizes_after_training(scheme, n, static_cast<std::uint64_t>(seed)));
                        }});
      }
    }
  }
  const auto results = lab.runner.run("T3", jobs);
  std::vector<Scheme> found;
  std::size_t next = 0;
  for (const Rates3& rates : rate_schemes()) {
    std::vector<double> log_widths;
    std::array<std::vector<double>, 5> log_sizes;
    for (const Index n : widths) {
      for (int seed = 0; seed < seeds; ++seed) {
        const auto sizes = results[next++].get<std::array<double, 5>>();
        log_widths.push_back(std::log(static_cast<double>(n)));
        for (std::size_t q = 0; q < sizes.size(); ++q) {
          log_sizes[q].push_back(sizes[q]);
        }
      }
    }
    Scheme scheme{rates.name, {}};
    for (std::size_t q = 0; q < log_sizes.size(); ++q) {
      scheme.exponents[q] = {quantities[q], rates.theory[q], fit_line(log_widths, log_sizes[q])};
    }
    found.push_back(std::move(scheme));
  }
  return found;
}

std::vector<Convergence> measure_convergence(std::span<const double> widths) {
  const double lora_plus = lora_plus_steps();
  std::vector<Convergence> found;
  for (const double n : widths) {
    found.push_back({n, equal_rate_steps(false, n), equal_rate_steps(true, n), lora_plus});
  }
  return found;
}

Section exactness_section(const Exactness& exactness) {
  return {
      "T1, T2: what is exact",
      {"T1. Under Adam a ratio p^2 does what an initialisation does whose random factor is p times "
       "as large (B random: as small), with one rate for both. Of " +
           std::to_string(exactness.pairs) + " pairs of runs, ratios 4^k, 200 steps in double, " +
           std::to_string(exactness.same_bits) +
           " have the same product B A after every step, bit for bit; at ratios that are no 4^k "
           "the largest relative difference is " +
           brief(exactness.other_ratios) + ".",
       "T2. The paper's linear model f = b a'x with the rates (k / n, k') follows one recursion at "
       "every width, 1 to 16384; the largest difference of an output is " +
           brief(exactness.width_error) + "."}};
}

Section exponents_section(const std::vector<Scheme>& schemes) {
  Table table{
      "Exponents of n, measured and [95 % interval]; in brackets what theory says. d1 = B dA z, "
      "d2 = dB A z, d3 = dB dA z.",
      {"rates"},
      {}};
  for (const char* quantity : quantities) {
    table.header.emplace_back(quantity);
  }
  for (const Scheme& scheme : schemes) {
    std::vector<std::string> row = {scheme.name};
    for (const Exponent& exponent : scheme.exponents) {
      row.push_back(two_digits(exponent.line.slope) + ' ' +
                    interval_text(exponent.line.slope_interval) + " (" + brief(exponent.theory) +
                    ')');
    }
    table.rows.push_back(std::move(row));
  }
  return {"T3: how the updates grow with the width", {table}};
}

Section convergence_section(const std::vector<Convergence>& convergence) {
  Table table{
      "Steps of gradient descent until the linear model f = b a'x is within 0.1 of its target "
      "for good; a mean over five starts, with the best rates of each width.",
      {"n", "one rate, A random", "one rate, B random", "LoRA+"},
      {}};
  for (const Convergence& row : convergence) {
    table.rows.push_back({brief(row.width), brief(row.equal_a_random), brief(row.equal_b_random),
                          brief(row.lora_plus)});
  }
  return {"T4: what one rate costs in the linear model", {table}};
}

}  // namespace lab
