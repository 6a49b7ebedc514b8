#include "results.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace finetune {
namespace {

/// What `measure` says of every run.
template <typename Measure>
std::vector<double> of_each(const std::vector<Run>& runs, Measure measure) {
  std::vector<double> values;
  for (const Run& run : runs) {
    values.push_back(measure(run));
  }
  return values;
}

}  // namespace

const char* name_of(Method method) {
  switch (method) {
    case Method::full:
      return "full fine-tuning";
    case Method::lora:
      return "LoRA";
    case Method::lora_plus:
      return "LoRA+";
  }
  return "";
}

std::optional<Index> Run::steps_to(double target) const {
  for (const CurvePoint& point : curve) {
    if (point.step > 0 && point.accuracy >= target) return point.step;
  }
  return std::nullopt;
}

bool MethodResult::chosen_at_edge() const {
  return trials.size() > 1 && (learning_rate == trials.front().learning_rate ||
                               learning_rate == trials.back().learning_rate);
}

std::vector<double> MethodResult::accuracies() const {
  return of_each(runs, [](const Run& run) { return run.accuracy; });
}

std::vector<double> MethodResult::steps_to(double target) const {
  return of_each(runs, [target](const Run& run) {
    const auto steps = run.steps_to(target);
    return steps ? static_cast<double>(*steps) : std::numeric_limits<double>::infinity();
  });
}

std::vector<double> MethodResult::step_seconds() const {
  return of_each(runs, [](const Run& run) { return run.seconds_per_step; });
}

bool Results::has_figures() const {
  return std::any_of(methods.begin(), methods.end(), [](const MethodResult& result) {
    const bool tried = std::any_of(result.trials.begin(), result.trials.end(),
                                   [](const Trial& trial) { return trial.accuracy.has_value(); });
    return tried || !result.runs.empty() || result.unfinished;
  });
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  if (values.size() % 2 == 1) return values[middle];
  return (values[middle - 1] + values[middle]) / 2;
}

FactorRates factor_rates(double mean, double ratio) {
  return {mean / std::sqrt(ratio), mean * std::sqrt(ratio)};
}

}  // namespace finetune
