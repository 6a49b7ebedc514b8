#include "verdicts.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace lab {
namespace {

constexpr const char* reproduced = "reproduced";
constexpr const char* partial = "partial";
constexpr const char* failed = "failed";
constexpr const char* not_tested = "not tested";

std::string format(const char* pattern, double a, double b = 0, double c = 0) {
  char text[160];
  std::snprintf(text, sizeof text, pattern, a, b, c);
  return text;
}

std::string text_of(const Line& line) {
  return format("%.2f [%.2f, %.2f]", line.slope, line.slope_interval.low, line.slope_interval.high);
}

std::string text_of(const Estimate& estimate) {
  return gain_text(estimate.mean) + " [" + gain_text(estimate.interval.low) + ", " +
         gain_text(estimate.interval.high) + "]";
}

/// The result of several studies together.
std::string together(const std::vector<std::string>& results) {
  if (results.empty()) return not_tested;
  const bool same = std::all_of(results.begin(), results.end(),
                                [&](const std::string& r) { return r == results.front(); });
  return same ? results.front() : partial;
}

std::string sign_of(const Interval& interval, double zero = 0) {
  if (interval.low > zero) return reproduced;
  return interval.high < zero ? failed : partial;
}

void append(std::string& evidence, const std::string& more) {
  evidence += (evidence.empty() ? "" : "; ") + more;
}

/// Per reporting seed what the best ratio gains over LoRA, the mean over the widths.
std::vector<double> gains_by_seed(const WidthStudy& study) {
  std::vector<double> gains(study.widths.front().lora.losses.size(), 0.0);
  for (const auto& at : study.widths) {
    for (std::size_t seed = 0; seed < gains.size(); ++seed) {
      gains[seed] +=
          (at.lora.losses[seed] - at.best.losses[seed]) / static_cast<double>(study.widths.size());
    }
  }
  return gains;
}

}  // namespace

Verdict judge_theory(const Exactness& exactness, std::span<const Scheme> schemes,
                     std::span<const WidthStudy> studies) {
  double worst = 0;
  for (const Scheme& scheme : schemes) {
    for (const Exponent& exponent : scheme.exponents) {
      worst = std::max(worst, exponent.deviation());
    }
  }
  bool rates_hold = !studies.empty();
  std::string slopes;
  for (const WidthStudy& study : studies) {
    for (const Searched& arm : study.widths.front().by_ratio) {
      const double slope = study.mean_rate(arm.arm.ratio_log2).slope;
      rates_hold = rates_hold && std::abs(slope - rate_slope) <= rate_slope_tolerance;
      slopes += (slopes.empty() ? "" : ", ") + std::string(study.training.b_random ? "B" : "A") +
                " random, ratio " + ratio_text(arm.arm.ratio_log2) + ": " + format("%.2f", slope);
    }
  }
  const bool exponents_hold = worst <= exponent_tolerance;
  std::string result = failed;
  if (exactness.holds() && exponents_hold) result = rates_hold ? reproduced : partial;
  return {
      "R1",
      "A ratio is a rescaled initialisation, and the updates and best rates follow the theory's "
      "powers of the width.",
      "T1 and T2 exact, every exponent of T3 within 0.15 of theory, and the slope of log g on "
      "log n within 0.2 of -1/2 at every ratio; partial if only the last fails.",
      result,
      "T1 " + std::to_string(exactness.same_bits) + " of " + std::to_string(exactness.pairs) +
          " pairs bit for bit; T2 within " + brief(exactness.width_error) +
          "; T3 worst deviation " + format("%.3f", worst) + "; T5 slopes: " + slopes};
}

Verdict judge_gain_b_random(std::span<const WidthStudy> studies) {
  std::vector<double> p_values;
  for (const WidthStudy& study : studies) {
    p_values.push_back(study.widths.back().gain16.p_value);
  }
  p_values = holm(p_values);
  std::vector<std::string> results;
  std::string evidence;
  for (std::size_t i = 0; i < studies.size(); ++i) {
    const WidthStudy& study = studies[i];
    const Line line = study.best_ratio();
    const Estimate& gain = study.widths.back().gain16;
    const bool wins = gain.interval.low > 0 && p_values[i] < 0.05;
    const bool loses = gain.interval.high < -std::log1p(tie_margin);
    if (line.slope_interval.low > 0 && wins) {
      results.emplace_back(reproduced);
    } else {
      results.emplace_back(line.slope_interval.high < 0 || loses ? failed : partial);
    }
    append(evidence, study.task + ' ' + results.back() + ": slope of the best ratio " +
                         text_of(line) +
                         ", ratio 16 at n = " + std::to_string(study.widths.back().width) +
                         " gains " + text_of(gain) + ", " + judgement(gain, p_values[i]));
  }
  return {
      "R2",
      "With B random (Init[2]) the best ratio grows with the width, and ratio 16 beats LoRA at its "
      "best rate in the widest network.",
      "The slope of log2 of the best ratio on log2 n is above 0 (95 % bootstrap), and the gain of "
      "ratio 16 at the largest n too (95 %, Holm over the tasks). Failed if the slope is below 0, "
      "or ratio 16 loses more than 5 %; else partial. Partial, too, if the tasks do not agree.",
      together(results), evidence};
}

Verdict judge_growth_a_random(std::span<const WidthStudy> studies) {
  std::vector<std::string> results;
  std::string evidence;
  for (const WidthStudy& study : studies) {
    const Line line = study.largest_good_ratio();
    results.push_back(sign_of(line.slope_interval));
    append(evidence, study.task + ' ' + results.back() + ": " + text_of(line));
  }
  return {
      "R3",
      "With A random (Init[1]) the largest ratio that is as good as the best grows with the width.",
      "The slope of log2 of the largest ratio within 5 % of the best, on log2 n, is above 0 (95 % "
      "bootstrap). Failed if it is below 0; else partial, and if the tasks do not agree. A gain is "
      "not asked for.",
      together(results), evidence};
}

Verdict judge_hard_task(std::span<const WidthStudy> easy, std::span<const WidthStudy> hard) {
  std::vector<std::string> results;
  std::string evidence;
  for (std::size_t i = 0; i < easy.size(); ++i) {
    const auto easy_gains = gains_by_seed(easy[i]), hard_gains = gains_by_seed(hard[i]);
    std::vector<double> differences;
    for (std::size_t seed = 0; seed < easy_gains.size(); ++seed) {
      differences.push_back(hard_gains[seed] - easy_gains[seed]);
    }
    const Estimate estimate = paired_t(differences);
    results.push_back(sign_of(estimate.interval));
    append(evidence, std::string(easy[i].training.b_random ? "B" : "A") + " random " +
                         results.back() + ": gain " + gain_text(mean(hard_gains)) +
                         " on the hard task, " + gain_text(mean(easy_gains)) +
                         " on the easy one, difference " + text_of(estimate));
  }
  return {
      "R4",
      "What the best ratio gains over LoRA is larger on the hard task (inverted images, shifted "
      "labels) than on the easy one (turned by 15 degrees).",
      "The difference of the gains, the mean over the widths, is above 0 (95 %, paired by seed). "
      "Failed if it is below 0; else partial, and if the initialisations do not agree.",
      together(results), evidence};
}

Verdict judge_speed(std::span<const Speed> speeds) {
  std::vector<std::string> results;
  std::string evidence;
  for (const Speed& speed : speeds) {
    const bool null_covers = speed.null_interval.contains(1);
    results.push_back(null_covers ? sign_of(speed.interval, 1) : partial);
    append(evidence,
           speed.options.task + ", n = " + std::to_string(speed.options.width) + ' ' +
               results.back() +
               format(": %.2f [%.2f, %.2f]", speed.ratio, speed.interval.low, speed.interval.high) +
               (speed.interval.contains(2) ? ", which covers 2" : "") +
               (null_covers ? "" : ", but LoRA against LoRA does not cover 1"));
  }
  return {
      "R5",
      "With B random LoRA+ takes fewer steps than LoRA to the loss that tuned LoRA ends with.",
      "The median ratio of steps is above 1 (95 % bootstrap), with LoRA against LoRA covering 1. "
      "Failed if it is below 1; else partial, and if tasks and widths do not agree. Twice as fast "
      "only if the interval covers 2.",
      together(results), evidence};
}

}  // namespace lab
