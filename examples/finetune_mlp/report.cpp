#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <loraplus/version.hpp>
#include <nlohmann/json.hpp>
#include <ostream>
#include <sstream>

#include "run.hpp"
#include "tasks.hpp"
#include "text.hpp"

namespace finetune {
namespace {

using Ordered = nlohmann::ordered_json;

double share(Index part, Index whole) {
  return static_cast<double>(part) / static_cast<double>(whole);
}

/// "86.1 % (85.9 - 86.4)"
std::string accuracy_after(const MethodResult& result) {
  const auto values = result.accuracies();
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return percent(median(values)) + " (" + fixed(100 * *least, 1) + " - " + fixed(100 * *most, 1) +
         ')';
}

Index reached(const MethodResult& result, double target) {
  const auto steps = result.steps_to(target);
  return std::count_if(steps.begin(), steps.end(),
                       [](double value) { return std::isfinite(value); });
}

/// "120 (5 of 5)"
std::string steps_to_target(const MethodResult& result, double target) {
  const double steps = median(result.steps_to(target));
  return (std::isfinite(steps) ? fixed(steps, 0) : "-") + " (" +
         std::to_string(reached(result, target)) + " of " + std::to_string(result.runs.size()) +
         ')';
}

using Row = std::vector<std::string>;

void print_table(std::ostream& out, const std::vector<Row>& rows) {
  std::vector<std::size_t> widths(rows.front().size());
  for (const Row& row : rows) {
    for (std::size_t column = 0; column < row.size(); ++column) {
      widths[column] = std::max(widths[column], row[column].size());
    }
  }
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t column = 0; column < row.size(); ++column) {
      const std::string padding(widths[column] - row[column].size(), ' ');
      line += column == 0 ? row[column] + padding : "  " + padding + row[column];
    }
    out << line << '\n';
  }
}

const Row heading = {
    "method", "trainable", "share", "before", "after, median (range)", "steps to target (runs)",
    "a step", "state",     "trials"};

Row table_row(const Options& options, const Results& results, const MethodResult& result) {
  const auto state = static_cast<Index>(result.runs.front().state_bytes);
  return {name_of(result.method),
          grouped(result.parameters),
          percent(share(result.parameters, results.parameters)),
          percent(results.before),
          accuracy_after(result),
          steps_to_target(result, results.target),
          fixed(1e3 * median(result.step_seconds()), 2) + " ms",
          grouped(state / 1024) + " KiB",
          options.learning_rate ? "-" : std::to_string(result.trials.size())};
}

/// "784-256-256-10", "fc1, fc2": the values with a separator between them.
template <typename Values>
std::string joined(const Values& values, const char* separator) {
  std::ostringstream text;
  for (const auto& value : values) {
    if (&value != &values.front()) text << separator;
    text << value;
  }
  return text.str();
}

double weight_decay(Rule rule) {
  return rule == Rule::adamw ? adamw_weight_decay : 0;
}

void print_setting(std::ostream& out, const Options& options, const Results& results) {
  out << results.data_name << ", images " << description(options.task) << "\n\n";
  out << "  network   " << joined(results.widths, "-") << ", " << grouped(results.parameters)
      << " parameters, pretrained on upright images; adapted: "
      << joined(layers_to_adapt(options.task), ", ") << '\n';
  out << "  adapters  rank " << options.rank << ", alpha " << brief(options.alpha) << ", "
      << name_of(options.init) << "; LoRA+ ratio " << brief(options.ratio) << '\n';
  out << "  training  " << options.steps << " steps of " << description(options.optimizer)
      << ", its rate falling to 0; batches of " << options.batch << " from "
      << grouped(results.samples) << " images;\n            gradients clipped to norm "
      << brief(clip_norm) << ", weight decay " << brief(weight_decay(options.optimizer)) << '\n';
  out << "  accuracy  upright " << percent(results.upright) << ", shifted "
      << percent(results.before) << "; target " << percent(results.target)
      << (options.target ? "" : ", which wins back 90 % of what the shift took") << "\n\n";
}

/// "0.00391", or "A 0.00276, B 0.0221"
std::string rates(const MethodResult& result, double ratio) {
  if (result.method != Method::lora_plus) return brief(result.learning_rate);
  const FactorRates factors = factor_rates(result.learning_rate, ratio);
  return "A " + brief(factors.a) + ", B " + brief(factors.b) + " (geometric mean " +
         brief(result.learning_rate) + ')';
}

void print_learning_rates(std::ostream& out, const Options& options, const Results& results) {
  if (options.learning_rate) {
    out << "Learning rates, as given:\n";
  } else {
    const auto& trials = results.methods.front().trials;
    out << "Learning rates, of each method the best of " << trials.size() << " from "
        << brief(trials.front().learning_rate) << " to " << brief(trials.back().learning_rate)
        << " by " << grouped(results.validation) << " validation images:\n";
  }
  for (const MethodResult& result : results.methods) {
    out << "  " << name_of(result.method) << ": " << rates(result, options.ratio)
        << (result.chosen_at_edge() ? ", at the edge of the range: a better one may lie beyond"
                                    : "")
        << '\n';
  }
}

void print_diverged(std::ostream& out, const Results& results) {
  for (const MethodResult& result : results.methods) {
    const auto diverged = std::count_if(result.runs.begin(), result.runs.end(),
                                        [](const Run& run) { return run.diverged; });
    if (diverged > 0) {
      out << name_of(result.method) << ": " << diverged << " of " << result.runs.size()
          << " runs diverged\n";
    }
  }
}

void write_curve(std::ostream& csv, Method method, const Run& run) {
  for (const CurvePoint& point : run.curve) {
    csv << name_of(method) << ',' << run.seed << ',' << point.step << ',';
    if (point.loss) csv << *point.loss;
    csv << ',' << point.accuracy << '\n';
  }
}

std::string compiler() {
#if defined(__clang__)
  return __VERSION__;
#elif defined(__GNUC__)
  return "GCC " __VERSION__;
#else
  return "unknown";
#endif
}

Ordered settings_json(const Options& options, const Results& results) {
  return {{"task", name_of(options.task)},
          {"data", options.data},
          {"samples", results.samples},
          {"pretrain_epochs", options.pretrain_epochs},
          {"rank", options.rank},
          {"alpha", options.alpha},
          {"ratio", options.ratio},
          {"init", name_of(options.init)},
          {"optimizer", name_of(options.optimizer)},
          {"weight_decay", weight_decay(options.optimizer)},
          {"clip_norm", clip_norm},
          {"schedule", "linear to 0"},
          {"learning_rate", options.learning_rate ? Ordered(*options.learning_rate) : Ordered()},
          {"batch", options.batch},
          {"steps", options.steps},
          {"trials", options.trials},
          {"seeds", options.seeds},
          {"target", options.target ? Ordered(*options.target) : Ordered()},
          {"seed", options.seed},
          {"threads", options.threads}};
}

Ordered range_json(const std::vector<double>& values) {
  if (values.empty()) return nullptr;
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return {{"median", median(values)}, {"min", *least}, {"max", *most}};
}

Ordered rates_json(const MethodResult& result, double ratio) {
  if (result.learning_rate == 0) return nullptr;  // not chosen yet
  if (result.method != Method::lora_plus) return {{"all", result.learning_rate}};
  const FactorRates factors = factor_rates(result.learning_rate, ratio);
  return {{"geometric_mean", result.learning_rate}, {"a", factors.a}, {"b", factors.b}};
}

Ordered trials_json(const MethodResult& result) {
  Ordered trials = Ordered::array();
  for (const Trial& trial : result.trials) {
    trials.push_back(
        {{"learning_rate", trial.learning_rate},
         {"validation_accuracy", trial.accuracy ? Ordered(*trial.accuracy) : Ordered()},
         {"diverged", trial.diverged}});
  }
  return trials;
}

Ordered runs_json(const MethodResult& result, double target) {
  Ordered runs = Ordered::array();
  for (const Run& run : result.runs) {
    const auto steps = run.steps_to(target);
    runs.push_back({{"seed", run.seed},
                    {"accuracy_after", run.accuracy},
                    {"steps_to_target", steps ? Ordered(*steps) : Ordered()},
                    {"milliseconds_per_step", 1e3 * run.seconds_per_step},
                    {"diverged", run.diverged}});
  }
  if (result.unfinished) {
    runs.push_back({{"seed", result.unfinished->seed},
                    {"unfinished_after_step", result.unfinished->curve.back().step}});
  }
  return runs;
}

Ordered method_json(const Options& options, const Results& results, const MethodResult& result) {
  Ordered json = {{"method", name_of(result.method)},
                  {"trainable_parameters", result.parameters},
                  {"trainable_share", share(result.parameters, results.parameters)},
                  {"learning_rate", rates_json(result, options.ratio)},
                  {"learning_rate_at_edge", result.chosen_at_edge()},
                  {"trials", trials_json(result)}};
  if (!result.runs.empty()) {
    const double steps = median(result.steps_to(results.target));
    json["accuracy_after"] = range_json(result.accuracies());
    json["steps_to_target"] = {{"median", std::isfinite(steps) ? Ordered(steps) : Ordered()},
                               {"reached", reached(result, results.target)},
                               {"runs", result.runs.size()}};
    json["milliseconds_per_step"] = 1e3 * median(result.step_seconds());
    json["optimizer_state_bytes"] = result.runs.front().state_bytes;
  }
  json["runs"] = runs_json(result, results.target);
  return json;
}

}  // namespace

void print_report(std::ostream& out, const Options& options, const Results& results) {
  std::vector<Row> rows = {heading};
  for (const MethodResult& result : results.methods) {
    if (!result.runs.empty()) rows.push_back(table_row(options, results, result));
  }
  if (rows.size() == 1) return;
  print_setting(out, options, results);
  print_table(out, rows);
  out << "\nSteps are told to the next " << results.curve_interval
      << ": so often the accuracy is measured.\n";
  if (results.upright <= results.before) {
    out << "The shift takes nothing from the pretrained network: the target says nothing here.\n";
  }
  print_learning_rates(out, options, results);
  print_diverged(out, results);
}

std::string summary_json(const Options& options, const Results& results) {
  Ordered methods = Ordered::array();
  for (const MethodResult& result : results.methods) {
    methods.push_back(method_json(options, results, result));
  }
  Ordered summary = {{"program", "finetune_mlp"},
                     {"version", std::to_string(LORAPLUS_VERSION_MAJOR) + '.' +
                                     std::to_string(LORAPLUS_VERSION_MINOR) + '.' +
                                     std::to_string(LORAPLUS_VERSION_PATCH)},
                     {"interrupted", results.interrupted},
                     {"seconds", results.seconds},
                     {"compiler", compiler()},
                     {"compiler_flags", FINETUNE_COMPILER_FLAGS},
                     {"settings", settings_json(options, results)},
                     {"data", results.data_name},
                     {"validation_images", results.validation},
                     {"test_images", results.test},
                     {"methods", methods}};
  if (!results.methods.empty()) {
    summary["network_widths"] = results.widths;
    summary["network_parameters"] = results.parameters;
    summary["accuracy_upright"] = results.upright;
    summary["accuracy_before"] = results.before;
    summary["target_accuracy"] = results.target;
    summary["steps_between_accuracies"] = results.curve_interval;
  }
  return summary.dump(2, ' ', false, Ordered::error_handler_t::replace) + '\n';
}

std::string curves_csv(const Results& results) {
  std::ostringstream csv;
  csv << "method,seed,step,loss,accuracy\n";
  for (const MethodResult& result : results.methods) {
    for (const Run& run : result.runs) {
      write_curve(csv, result.method, run);
    }
    if (result.unfinished) write_curve(csv, result.method, *result.unfinished);
  }
  return csv.str();
}

}  // namespace finetune
