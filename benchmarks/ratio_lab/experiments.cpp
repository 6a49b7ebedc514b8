#include "experiments.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace lab {
namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();

std::string init_name(bool b_random) {
  return b_random ? "B random, A = 0 (Init[2])" : "A random, B = 0 (Init[1])";
}

Arm ratio_arm(const Training& training, int ratio_log2, double low_log2, double high_log2) {
  return {.name = ratio_log2 == 0 ? "LoRA" : "LoRA+ " + ratio_text(ratio_log2),
          .training = training,
          .ratio_log2 = ratio_log2,
          .low_log2 = low_log2,
          .high_log2 = high_log2};
}

const Searched& with_ratio(std::span<const Searched> searched, int ratio_log2) {
  const auto found = std::find_if(searched.begin(), searched.end(), [&](const Searched& arm) {
    return arm.arm.ratio_log2 == ratio_log2;
  });
  if (found == searched.end()) {
    throw std::invalid_argument("the ratio " + ratio_text(ratio_log2) +
                                " is not among those tried");
  }
  return *found;
}

/// The arm whose best rate has the least loss.
const Searched& least(std::span<const Searched> searched) {
  return *std::min_element(searched.begin(), searched.end(),
                           [](const Searched& a, const Searched& b) {
                             return a.points[a.best].mean() < b.points[b.best].mean();
                           });
}

/// The least loss and where it is for each ratio, over some of the seeds.
std::vector<Searched::Minimum> minima(const std::vector<Searched>& by_ratio,
                                      std::span<const std::size_t> seeds) {
  std::vector<Searched::Minimum> found;
  for (const Searched& arm : by_ratio) {
    found.push_back(arm.minimum(seeds));
  }
  return found;
}

double least_loss(const std::vector<Searched::Minimum>& found) {
  double loss = infinite;
  for (const auto& minimum : found) {
    loss = std::min(loss, minimum.loss);
  }
  return loss;
}

/// The slope of something against log2 of the width, its interval by drawing the seeds anew.
/// @param value from what a width gave and the seeds to use
template <typename Value>
Line slope_over_seeds(const WidthStudy& study, Value&& value) {
  std::vector<double> log_widths;
  for (const auto& at : study.widths) {
    log_widths.push_back(std::log2(static_cast<double>(at.width)));
  }
  const std::size_t seeds = study.widths.front().by_ratio.front().points.front().losses.size();
  const auto line = [&](std::span<const std::size_t> drawn) {
    std::vector<double> values;
    for (const auto& at : study.widths) {
      values.push_back(value(at, drawn));
    }
    return fit_line(log_widths, values);
  };
  std::vector<std::size_t> all(seeds);
  std::iota(all.begin(), all.end(), std::size_t{0});
  Line found = line(all);
  found.slope_interval =
      bootstrap(seeds, [&](std::span<const std::size_t> drawn) { return line(drawn).slope; });
  return found;
}

std::string slope_text(const Line& line) {
  char text[96];
  std::snprintf(text, sizeof text, "%.2f [%.2f, %.2f]", line.slope, line.slope_interval.low,
                line.slope_interval.high);
  return text;
}

std::string estimate_text(const Estimate& estimate) {
  return gain_text(estimate.mean) + " [" + gain_text(estimate.interval.low) + ", " +
         gain_text(estimate.interval.high) + "]";
}

std::string task_name(const std::string& task) {
  if (task == "teacher") return "synthetic teacher";
  if (task == "rotate15") return "Fashion-MNIST turned by 15 degrees";
  if (task == "rotate90") return "Fashion-MNIST turned by 90 degrees";
  return "Fashion-MNIST inverted, labels shifted";
}

std::string training_text(const Training& training) {
  return std::string(name_of(training.rule)) + ", rank " + std::to_string(training.rank) + ", " +
         std::to_string(training.steps) + " steps, " +
         (training.batch == 0 ? std::string("all samples at once")
                              : "batches of " + std::to_string(training.batch));
}

/// Colours from blue over grey to red, for `count` curves.
std::string palette() {
  return "set palette defined (0 '#08306b', 0.35 '#4292c6', 0.65 '#c6dbef', 1 '#fff5eb')\n";
}

/// Loss against g, a curve for each ratio.
Picture curves_picture(const WidthStudy& study, const WidthStudy::At& at, const std::string& name) {
  std::string data;
  std::string plots;
  for (std::size_t i = 0; i < at.by_ratio.size(); ++i) {
    const Searched& arm = at.by_ratio[i];
    data += "$r" + std::to_string(i) + " << EOD\n";
    for (const Point& point : arm.points) {
      data += std::to_string(std::exp2(point.g_log2)) + ' ' +
              std::to_string(std::exp(point.mean())) + '\n';
    }
    data += "EOD\n";
    plots += (i == 0 ? "plot " : ", ") + ("$r" + std::to_string(i)) +
             " with linespoints pt 7 ps 0.4 lw 1.8 lc palette frac " +
             std::to_string(0.9 * static_cast<double>(i) /
                            std::max<double>(1, static_cast<double>(at.by_ratio.size() - 1))) +
             " title 'ratio " + ratio_text(arm.arm.ratio_log2) + "'";
  }
  return {
      name,
      "Validation loss against the mean rate g, n = " + std::to_string(at.width) + ", " +
          init_name(study.training.b_random) + ".",
      data +
          "set palette defined (0 '#0072b2', 0.5 '#999999', 1 '#d55e00')\nunset colorbox\n"
          "set logscale xy 2\nset format x '2^%L'\nset xlabel 'g = sqrt(rate of A x rate of B)'\n"
          "set ylabel 'validation loss'\nset key outside\n" +
          plots + '\n'};
}

/// The best ratio, and the largest that is nearly as good, against the width.
Picture ratio_picture(const std::array<WidthStudy, 2>& studies, const std::string& name) {
  std::string data;
  for (std::size_t i = 0; i < studies.size(); ++i) {
    data += "$d" + std::to_string(i) + " << EOD\n";
    for (const auto& at : studies[i].widths) {
      std::vector<std::size_t> all(at.by_ratio.front().points.front().losses.size());
      std::iota(all.begin(), all.end(), std::size_t{0});
      const auto found = minima(at.by_ratio, all);
      const double loss = least_loss(found);
      double best = 0;
      double largest = -infinite;
      for (std::size_t r = 0; r < found.size(); ++r) {
        const double ratio_log2 = at.by_ratio[r].arm.ratio_log2;
        if (found[r].loss == loss) best = ratio_log2;
        if (found[r].loss <= loss + std::log1p(tie_margin)) largest = ratio_log2;
      }
      data += std::to_string(at.width) + ' ' + std::to_string(std::exp2(best)) + ' ' +
              std::to_string(std::exp2(largest)) + '\n';
    }
    data += "EOD\n";
  }
  return {
      name,
      "The ratio that was best on the tuning seeds, and the largest one within 5 % of its loss.",
      data +
          "set logscale xy 2\nset xlabel 'width n'\nset ylabel 'ratio'\nset key outside\n"
          "plot $d0 using 1:2 with linespoints lw 2 pt 7 lc '#0072b2' title 'A random: best', "
          "$d0 using 1:3 with linespoints lw 1 dt 2 pt 6 lc '#0072b2' title 'largest good', "
          "$d1 using 1:2 with linespoints lw 2 pt 5 lc '#d55e00' title 'B random: best', "
          "$d1 using 1:3 with linespoints lw 1 dt 2 pt 4 lc '#d55e00' title 'largest good'\n"};
}

/// The same names and order for the gains that are judged together.
std::vector<double> corrected(std::span<const Estimate> gains) {
  std::vector<double> p_values;
  for (const Estimate& estimate : gains) {
    p_values.push_back(estimate.p_value);
  }
  return holm(p_values);
}

WidthStudy::At study_width(Lab& lab, const WidthOptions& options, const Training& training,
                           Index width) {
  const Setup setup = make_setup(options.task, width, options.mup);
  const std::string phase = options.task + " n=" + std::to_string(width);
  std::vector<Arm> arms;
  for (const int ratio : options.ratios_log2) {
    arms.push_back(ratio_arm(training, ratio, options.low_log2, options.high_log2));
  }
  auto searched = search(lab, phase + ": tuning", setup, arms, options.seeds.to_tune());
  const std::vector<Searched> chosen = {with_ratio(searched, 0), with_ratio(searched, 4),
                                        least(searched)};
  auto reported = report(lab, phase + ": reporting", setup, chosen, options.seeds.to_report());
  const Estimate gain16 = gain(reported[0], reported[1]);
  const Estimate gain_best = gain(reported[0], reported[2]);
  return {width,
          std::move(searched),
          std::move(reported[0]),
          std::move(reported[1]),
          std::move(reported[2]),
          gain16,
          gain_best};
}

/// The first step at which a curve is at the target or below; infinite if at none.
double steps_to(const std::vector<double>& curve, double target, Index interval) {
  for (std::size_t i = 0; i < curve.size(); ++i) {
    if (curve[i] <= target) return static_cast<double>(interval) * static_cast<double>(i + 1);
  }
  return infinite;
}

/// Runs with validation curves, one for each mean rate and seed, in that order.
std::vector<std::vector<double>> curves(Lab& lab, const std::string& phase, const Setup& setup,
                                        const Trial& trial, std::span<const double> g_log2,
                                        std::span<const std::uint64_t> seeds) {
  std::vector<Job> jobs;
  for (const double g : g_log2) {
    for (const std::uint64_t seed : seeds) {
      Trial made = trial;
      made.problem = setup.at(seed);
      made.rates.g_log2 = g;
      made.seed = seed;
      jobs.push_back(make_job(lab.problems, made));
    }
  }
  std::vector<std::vector<double>> found;
  for (const Json& json : lab.runner.run(phase, jobs)) {
    found.push_back(read_outcome(json).curve);
  }
  return found;
}

/// The mean rate with the fewest steps to the target: by the mean of the logarithm of the steps,
/// where not to reach it counts as twice the steps there were.
double fastest_rate(std::span<const double> g_log2, const std::vector<std::vector<double>>& runs,
                    std::size_t seeds, double target, Index interval, double limit) {
  double fewest = infinite;
  double found = g_log2.front();
  for (std::size_t i = 0; i < g_log2.size(); ++i) {
    double sum = 0;
    for (std::size_t seed = 0; seed < seeds; ++seed) {
      sum += std::log(std::min(2 * limit, steps_to(runs[i * seeds + seed], target, interval)));
    }
    if (sum < fewest) {
      fewest = sum;
      found = g_log2[i];
    }
  }
  return found;
}

/// The median of what curves are at one of their points.
double median_at(std::span<const std::vector<double>> runs, std::size_t point) {
  std::vector<double> losses;
  for (const auto& curve : runs) {
    losses.push_back(curve[point]);
  }
  return median(std::move(losses));
}

/// The median of the ratios of two methods' steps, pair by pair; a pair of which neither reached
/// the target is left out.
double median_ratio(std::span<const double> a, std::span<const double> b,
                    std::span<const std::size_t> pairs) {
  std::vector<double> ratios;
  for (const std::size_t i : pairs) {
    if (std::isfinite(a[i]) || std::isfinite(b[i])) ratios.push_back(a[i] / b[i]);
  }
  if (ratios.empty()) return std::numeric_limits<double>::quiet_NaN();
  return median(std::move(ratios));
}

std::pair<double, Interval> compare_steps(std::span<const double> a, std::span<const double> b) {
  std::vector<std::size_t> all(a.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  return {median_ratio(a, b, all), bootstrap(a.size(), [&](std::span<const std::size_t> drawn) {
            return median_ratio(a, b, drawn);
          })};
}

}  // namespace

Setup make_setup(const std::string& task, Index width, bool mup) {
  return {.problem = {.task = task, .width = width, .mup = mup}};
}

Line WidthStudy::best_ratio() const {
  return slope_over_seeds(*this, [](const At& at, std::span<const std::size_t> seeds) {
    const auto found = minima(at.by_ratio, seeds);
    const auto best = std::min_element(
        found.begin(), found.end(), [](const auto& a, const auto& b) { return a.loss < b.loss; });
    return static_cast<double>(
        at.by_ratio[static_cast<std::size_t>(best - found.begin())].arm.ratio_log2);
  });
}

Line WidthStudy::largest_good_ratio() const {
  return slope_over_seeds(*this, [](const At& at, std::span<const std::size_t> seeds) {
    const auto found = minima(at.by_ratio, seeds);
    const double limit = least_loss(found) + std::log1p(tie_margin);
    double largest = -infinite;
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (found[i].loss <= limit) {
        largest = std::max<double>(largest, at.by_ratio[i].arm.ratio_log2);
      }
    }
    return largest;
  });
}

Line WidthStudy::mean_rate(int ratio_log2) const {
  return slope_over_seeds(*this, [&](const At& at, std::span<const std::size_t> seeds) {
    return with_ratio(at.by_ratio, ratio_log2).minimum(seeds).g_log2;
  });
}

std::array<WidthStudy, 2> study_widths(Lab& lab, const WidthOptions& options) {
  std::array<WidthStudy, 2> studies;
  for (const bool b_random : {false, true}) {
    WidthStudy& study = studies[b_random ? 1 : 0];
    study.task = options.task;
    study.training = options.training;
    study.training.b_random = b_random;
  }
  for (const Index width : options.widths) {
    lab.problems.clear();
    for (WidthStudy& study : studies) {
      study.widths.push_back(study_width(lab, options, study.training, width));
    }
  }
  return studies;
}

Section width_section(const std::array<WidthStudy, 2>& studies, const std::string& tag) {
  Section section{task_name(studies[0].task) + ": the best ratio against the width", {}};
  section.blocks.emplace_back(
      "Adam's mean rate g is tuned for each ratio. What LoRA+ gains is the mean of "
      "log(LoRA's test loss / its own) over seeds that had no part in tuning, paired (at +5 % "
      "LoRA's loss is 5 % higher), then its 95 % interval. 'Tie': the interval lies within 5 %; "
      "'open': it tells neither. Gains in one table are corrected together (Holm). Training: " +
      training_text(studies[0].training) + ".");
  if (studies[0].widths.size() > 1) {
    section.blocks.emplace_back(ratio_picture(studies, tag + "-ratio"));
  }
  for (const WidthStudy& study : studies) {
    Table table{init_name(study.training.b_random),
                {"n", "LoRA: g", "test loss", "best ratio", "g", "its gain", "", "gain of ratio 16",
                 "", "trials", "diverged", "edge"},
                {}};
    std::vector<Estimate> gains;
    for (const auto& at : study.widths) {
      gains.push_back(at.gain_best);
      gains.push_back(at.gain16);
    }
    const auto p_values = corrected(gains);
    for (std::size_t i = 0; i < study.widths.size(); ++i) {
      const auto& at = study.widths[i];
      int trials = 0;
      int diverged = 0;
      bool at_edge = false;
      for (const Searched& arm : at.by_ratio) {
        trials += arm.trials();
        diverged += arm.diverged();
        at_edge = at_edge || arm.at_edge();
      }
      table.rows.push_back({std::to_string(at.width), power_text(at.lora.rates.g_log2),
                            brief(at.lora.geometric_mean()), ratio_text(at.best.arm.ratio_log2),
                            power_text(at.best.rates.g_log2), estimate_text(at.gain_best),
                            judgement(at.gain_best, p_values[2 * i]), estimate_text(at.gain16),
                            judgement(at.gain16, p_values[2 * i + 1]), std::to_string(trials),
                            std::to_string(diverged), at_edge ? "yes" : "no"});
    }
    section.blocks.emplace_back(std::move(table));
    if (study.widths.size() < 2) continue;
    Table slopes{
        "Slopes against log2 n, with the bootstrap interval over the tuning seeds: of log2 g "
        "at each ratio (theory: -1/2 where both factors have learned), and of log2 of the "
        "best ratio and of the largest within 5 % of its loss",
        {"what", "slope"},
        {}};
    for (const Searched& arm : study.widths.front().by_ratio) {
      slopes.rows.push_back({"g at ratio " + ratio_text(arm.arm.ratio_log2),
                             slope_text(study.mean_rate(arm.arm.ratio_log2))});
    }
    slopes.rows.push_back({"best ratio", slope_text(study.best_ratio())});
    slopes.rows.push_back({"largest good ratio", slope_text(study.largest_good_ratio())});
    section.blocks.emplace_back(std::move(slopes));
    section.blocks.emplace_back(
        curves_picture(study, study.widths.back(),
                       tag + (study.training.b_random ? "-init2" : "-init1") + "-curves"));
  }
  return section;
}

Sweep sweep(Lab& lab, const SweepOptions& options) {
  const Setup setup = make_setup(options.task, options.width);
  const auto seeds = options.seeds.to_tune();
  std::vector<Arm> arms;
  for (int ratio = options.lowest_ratio_log2; ratio <= options.highest_ratio_log2; ++ratio) {
    arms.push_back(ratio_arm(options.training, ratio, options.low_log2, options.high_log2));
  }
  std::vector<Searched> searched = search(lab, "sweep", setup, arms, seeds);
  // Two more ratios at the side where the best one is the last, and not much further than that.
  constexpr int furthest = 16;
  while (true) {
    const int best = least(searched).arm.ratio_log2;
    const int low = searched.front().arm.ratio_log2, high = searched.back().arm.ratio_log2;
    std::vector<Arm> more;
    for (int i = 1; i <= 2; ++i) {
      if (best == low && low > -furthest) {
        more.push_back(ratio_arm(options.training, low - i, options.low_log2, options.high_log2));
      }
      if (best == high && high < furthest) {
        more.push_back(ratio_arm(options.training, high + i, options.low_log2, options.high_log2));
      }
    }
    if (more.empty()) break;
    for (Searched& made : search(lab, "sweep, further ratios", setup, more, seeds)) {
      searched.push_back(std::move(made));
    }
    std::sort(searched.begin(), searched.end(), [](const Searched& a, const Searched& b) {
      return a.arm.ratio_log2 < b.arm.ratio_log2;
    });
  }
  const std::vector<Searched> chosen = {with_ratio(searched, 0), least(searched)};
  auto reported = report(lab, "sweep, reporting", setup, chosen, options.seeds.to_report());
  const Estimate found = gain(reported[0], reported[1]);
  return {options, std::move(searched), std::move(reported[0]), std::move(reported[1]), found};
}

Section sweep_section(const Sweep& sweep, const std::string& tag) {
  const SweepOptions& options = sweep.options;
  Section section{task_name(options.task) + ", n = " + std::to_string(options.width) + ", " +
                      init_name(options.training.b_random) + ": loss over both rates",
                  {}};
  section.blocks.emplace_back(
      "Training: " + training_text(options.training) +
      ". Each cell is the geometric mean of the validation loss over " +
      std::to_string(options.seeds.tuning) + " seeds. Best of all: ratio " +
      ratio_text(sweep.best.arm.ratio_log2) + ", g = " + power_text(sweep.best.rates.g_log2) +
      "; best with one rate: g = " + power_text(sweep.lora.rates.g_log2) + ". On " +
      std::to_string(options.seeds.reporting) +
      " fresh seeds and the test samples the former gains " + estimate_text(sweep.gain) + " (" +
      judgement(sweep.gain, sweep.gain.p_value) + ").");
  std::string data = "$map << EOD\n";
  double lowest = infinite;
  for (const Searched& arm : sweep.by_ratio) {
    lowest = std::min(lowest, arm.points[arm.best].mean());
  }
  Table table{"By ratio", {"ratio", "best g", "loss", "trials", "diverged", "edge"}, {}};
  for (const Searched& arm : sweep.by_ratio) {
    for (const Point& point : arm.points) {
      const Rates rates{point.g_log2, arm.arm.ratio_log2};
      data += brief(std::log2(rates.a())) + ' ' + brief(std::log2(rates.b())) + ' ' +
              std::to_string(std::min(std::exp(point.mean()), 4 * std::exp(lowest))) + '\n';
    }
    table.rows.push_back({ratio_text(arm.arm.ratio_log2), power_text(arm.points[arm.best].g_log2),
                          brief(std::exp(arm.points[arm.best].mean())),
                          std::to_string(arm.trials()), std::to_string(arm.diverged()),
                          arm.at_edge() ? "yes" : "no"});
  }
  data += "EOD\n";
  section.blocks.emplace_back(Picture{
      tag,
      "Validation loss over both learning rates (colours end at four times the least loss); "
      "the line is one rate for both factors.",
      data + palette() +
          "set size ratio -1\nset xlabel 'log2 of the rate of A'\n"
          "set ylabel 'log2 of the rate of B'\nset logscale cb\nset cblabel 'loss'\n"
          "set key off\n"
          "set offsets 0.7, 0.7, 0.7, 0.7\n"  // the diamonds of the cells tile the plane
          "plot $map using 1:2:3 with points pt 13 ps 1.75 palette, x lw 1.5 lc '#d55e00'\n"});
  section.blocks.emplace_back(std::move(table));
  return section;
}

Speed measure_speed(Lab& lab, const SpeedOptions& options) {
  Speed found{.options = options};
  const Index interval = std::min(options.interval, options.training.steps);
  const Setup setup = make_setup(options.task, options.width);
  const auto tuning = options.seeds.to_tune();
  const auto reporting = options.seeds.to_report();
  const std::vector<Arm> lora = {
      ratio_arm(options.training, 0, options.low_log2, options.high_log2)};
  const auto tuned = search(lab, "speed: LoRA's loss", setup, lora, tuning);
  std::vector<double> g_log2;
  for (double g = tuned[0].points.front().g_log2; g <= tuned[0].points.back().g_log2; g += 0.5) {
    g_log2.push_back(g);
  }
  Trial trial{.training = options.training, .curve_interval = interval};
  trial.training.steps = 2 * options.training.steps;
  const auto limit = static_cast<double>(trial.training.steps);
  const auto curves_at = [&](int ratio_log2) {
    trial.rates.ratio_log2 = ratio_log2;
    return curves(lab, "speed: tuning", setup, trial, g_log2, tuning);
  };
  const auto fastest = [&](int ratio_log2, const std::vector<std::vector<double>>& runs) {
    return Rates{fastest_rate(g_log2, runs, tuning.size(), found.target, interval, limit),
                 ratio_log2};
  };
  const auto steps = [&](const Rates& rates, std::span<const std::uint64_t> seeds) {
    trial.rates = rates;
    std::vector<double> made;
    for (const auto& curve :
         curves(lab, "speed: reporting", setup, trial, std::span(&rates.g_log2, 1), seeds)) {
      made.push_back(steps_to(curve, found.target, interval));
    }
    return made;
  };
  const auto lora_curves = curves_at(0);
  found.target =
      median_at(std::span(lora_curves).subspan(tuned[0].best * tuning.size(), tuning.size()),
                static_cast<std::size_t>(options.training.steps / interval - 1));
  found.lora = fastest(0, lora_curves);
  found.lora_plus = fastest(options.ratio_log2, curves_at(options.ratio_log2));
  found.lora_steps = steps(found.lora, reporting);
  found.plus_steps = steps(found.lora_plus, reporting);
  // the null: as many runs of LoRA again, on seeds that share the frozen networks but nothing else
  std::vector<std::uint64_t> others;
  for (const std::uint64_t seed : reporting) {
    others.push_back(seed + 1000 * static_cast<std::uint64_t>(setup.networks));
  }
  found.other_lora_steps = steps(found.lora, others);
  std::tie(found.ratio, found.interval) = compare_steps(found.lora_steps, found.plus_steps);
  std::tie(found.null_ratio, found.null_interval) =
      compare_steps(found.lora_steps, found.other_lora_steps);
  return found;
}

Section speed_section(const std::vector<Speed>& speeds) {
  Table table{
      "Steps to the validation loss (of 1,024 samples) that LoRA, tuned for its last loss, ends "
      "with (the median over the tuning seeds); then each method has the rate that gets there "
      "soonest. Median "
      "of the ratio over pairs of fresh seeds, with its bootstrap interval; 'null' is LoRA "
      "against LoRA on other seeds, and must cover 1.",
      {"task", "n", "random", "steps of LoRA", "of LoRA+ ", "ratio", "interval", "null",
       "interval"},
      {}};
  const auto interval_text = [](const Interval& interval) {
    return "[" + brief(interval.low) + ", " + brief(interval.high) + "]";
  };
  for (const Speed& speed : speeds) {
    table.rows.push_back({task_name(speed.options.task), std::to_string(speed.options.width),
                          speed.options.training.b_random ? "B" : "A",
                          brief(median(speed.lora_steps)), brief(median(speed.plus_steps)),
                          brief(speed.ratio), interval_text(speed.interval),
                          brief(speed.null_ratio), interval_text(speed.null_interval)});
  }
  return {"Speed: LoRA+ with ratio " +
              ratio_text(speeds.empty() ? 4 : speeds.front().options.ratio_log2),
          {table}};
}

Comparison compare(Lab& lab, const CompareOptions& options) {
  const Setup setup = make_setup(options.task, options.width);
  const auto arm = [&](const std::string& name, const Training& training, int ratio_log2, int rates,
                       double shift_log2) {
    const double span = options.high_log2 - options.low_log2;
    return Arm{.name = name,
               .training = training,
               .ratio_log2 = ratio_log2,
               .low_log2 = options.low_log2 + shift_log2,
               .high_log2 = options.high_log2 + shift_log2,
               .step_log2 = span / static_cast<double>(rates - 1)};
  };
  // Families of arms: a family's best arm is its method. All have as many trials to begin with.
  struct Family {
    std::string name;
    std::vector<Arm> arms;
  };
  std::vector<Family> families;
  const int all_rates = options.rates * static_cast<int>(options.ratios_log2.size());
  const auto add_single = [&](const std::string& name, const Training& training,
                              double shift_log2 = 0) {
    families.push_back({name, {arm(name, training, 0, all_rates, shift_log2)}});
  };
  Training training = options.training;
  add_single("LoRA", training);
  Family plus{"LoRA+ (ratio swept)", {}}, rescaled{"LoRA, initialisation scale swept", {}};
  for (const int ratio : options.ratios_log2) {
    plus.arms.push_back(arm("LoRA+", training, ratio, options.rates, 0));
    Training scaled = training;
    scaled.init_log2 = (training.b_random ? -1 : 1) * ratio / 2;
    rescaled.arms.push_back(arm("LoRA, scaled", scaled, 0, options.rates, 0));
  }
  families.push_back(plus);
  families.push_back(rescaled);
  if (!training.b_random) {  // with A = 0 a frozen A never learns
    training.method = Method::lora_fa;
    add_single("LoRA-FA (A frozen)", training);
  }
  training.method = Method::riemannian;
  add_single("Riemannian preconditioning", training);
  training = options.training;
  training.scaling = std::sqrt(static_cast<double>(training.rank));
  add_single("rank-stabilised scaling", training);
  training = options.training;
  training.method = Method::full;
  add_single("full fine-tuning", training, -4);

  std::vector<Arm> arms;
  for (const Family& family : families) {
    arms.insert(arms.end(), family.arms.begin(), family.arms.end());
  }
  const auto searched = search(lab, "compare: tuning", setup, arms, options.seeds.to_tune());

  Comparison comparison{options, {}};
  std::vector<Searched> best;
  std::size_t first = 0;
  for (const Family& family : families) {
    const auto of_family = std::span(searched).subspan(first, family.arms.size());
    first += family.arms.size();
    best.push_back(least(of_family));
    Comparison::Row row{family.name, {}, 0, 0, false, {}, 1};
    for (const Searched& made : of_family) {
      row.trials += made.trials();
      row.diverged += made.diverged();
    }
    row.at_edge = best.back().at_edge();
    comparison.rows.push_back(std::move(row));
  }
  const std::size_t ratios = options.ratios_log2.size();
  for (std::size_t i = 0; i < ratios; ++i) {
    const auto &by_ratio = searched[1 + i].points, &by_scale = searched[1 + ratios + i].points;
    for (std::size_t j = 0; j < std::min(by_ratio.size(), by_scale.size()); ++j) {
      for (std::size_t seed = 0; seed < by_ratio[j].losses.size(); ++seed) {
        comparison.family_difference =
            std::max(comparison.family_difference,
                     std::abs(by_ratio[j].losses[seed] - by_scale[j].losses[seed]));
      }
    }
  }
  auto reported = report(lab, "compare: reporting", setup, best, options.seeds.to_report());
  std::vector<Estimate> gains;
  for (std::size_t i = 0; i < reported.size(); ++i) {
    comparison.rows[i].reported = reported[i];
    comparison.rows[i].gain = gain(reported[0], reported[i]);
    if (i > 0) gains.push_back(comparison.rows[i].gain);
  }
  const auto p_values = corrected(gains);
  for (std::size_t i = 1; i < comparison.rows.size(); ++i) {
    comparison.rows[i].p_value = p_values[i - 1];
  }
  return comparison;
}

Section compare_section(const Comparison& comparison) {
  const CompareOptions& options = comparison.options;
  Table table{
      "Test loss on fresh seeds (geometric mean), and the gain over LoRA, paired, corrected by "
      "Holm",
      {"method", "g", "ratio or scale", "test loss", "gain", "", "trials", "diverged", "edge"},
      {}};
  for (const auto& row : comparison.rows) {
    const Training& training = row.reported.arm.training;
    std::string knob = "-";
    if (row.reported.arm.ratio_log2 != 0) knob = "ratio " + ratio_text(row.reported.arm.ratio_log2);
    if (training.init_log2 != 0) knob = "init x " + power_text(training.init_log2);
    const bool is_lora = &row == &comparison.rows.front();
    table.rows.push_back(
        {row.name, power_text(row.reported.rates.g_log2), knob,
         brief(row.reported.geometric_mean()), is_lora ? "-" : estimate_text(row.gain),
         is_lora ? "-" : judgement(row.gain, row.p_value), std::to_string(row.trials),
         std::to_string(row.diverged), row.at_edge ? "yes" : "no"});
  }
  return {
      "Methods compared: " + task_name(options.task) + ", n = " + std::to_string(options.width) +
          ", " + init_name(options.training.b_random),
      {"Every method has the same number of trials to begin with (a search whose best rate is the "
       "last one goes on). Training: " +
           training_text(options.training) + ".",
       table,
       "Internal check: LoRA+ and LoRA with a swept initialisation scale are one family; the "
       "largest difference of two log losses that must be equal is " +
           brief(comparison.family_difference) + '.'}};
}

}  // namespace lab
