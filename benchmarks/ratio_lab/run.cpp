#include "run.hpp"

#include <algorithm>
#include <chrono>
#include <stdexcept>

#include "../machine.hpp"
#include "finetune_mlp/parallel.hpp"
#include "finetune_mlp/text.hpp"
#include "reproduce.hpp"

namespace lab {
namespace {

Rule rule_of(const std::string& name) {
  for (const Rule rule : {Rule::adam, Rule::adamw, Rule::sgd, Rule::momentum}) {
    if (name == name_of(rule)) return rule;
  }
  throw std::invalid_argument("no optimizer is called '" + name + "'");
}

Training training_of(const Json& settings, bool b_random) {
  return {.rule = rule_of(settings.at("optimizer")),
          .b_random = b_random,
          .rank = settings.at("rank"),
          .scaling = settings.at("scaling"),
          .steps = settings.at("steps"),
          .batch = settings.at("batch")};
}

Seeds seeds_of(const Json& settings) {
  return {settings.at("tuning_seeds"), settings.at("reporting_seeds")};
}

/// Where a search for g begins: rates of gradient descent are larger than Adam's.
std::pair<double, double> range_of(const Json& settings) {
  const Rule rule = rule_of(settings.at("optimizer"));
  if (rule == Rule::sgd || rule == Rule::momentum) return {-6, 2};
  return settings.at("task") == "teacher" ? std::pair(-8.0, -2.0) : std::pair(-11.0, -4.0);
}

std::vector<bool> inits_of(const Json& settings) {
  const std::string init = settings.at("init");
  if (init == "a") return {false};
  if (init == "b") return {true};
  return {false, true};
}

Document run_theory(const Json& settings, Lab& lab) {
  std::vector<Index> widths;
  for (Index n = 64; n <= settings.at("largest_width").get<Index>(); n *= 2) {
    widths.push_back(n);
  }
  Plan plan = plan_for("60s");
  plan.exponent_widths = widths;
  plan.exponent_seeds = settings.at("reporting_seeds");
  std::erase_if(plan.teacher.widths, [&](Index n) { return n > widths.back(); });
  plan.teacher.seeds = seeds_of(settings);
  Document document = reproduce(lab, plan);
  document.title = "The theory of LoRA+ tested";
  document.verdicts.resize(1);  // R1; the others are not asked
  return document;
}

Document run_sweep(const Json& settings, Lab& lab) {
  Document document{"The loss over both learning rates"};
  for (const bool b_random : inits_of(settings)) {
    SweepOptions options{.task = settings.at("task"),
                         .width = settings.at("width"),
                         .training = training_of(settings, b_random),
                         .seeds = seeds_of(settings)};
    std::tie(options.low_log2, options.high_log2) = range_of(settings);
    document.sections.push_back(
        sweep_section(sweep(lab, options), b_random ? "map-init2" : "map-init1"));
  }
  return document;
}

Document run_width(const Json& settings, Lab& lab) {
  WidthOptions options{.task = settings.at("task"),
                       .widths = settings.at("widths"),
                       .ratios_log2 = settings.at("ratios_log2"),
                       .training = training_of(settings, false),
                       .seeds = seeds_of(settings),
                       .mup = settings.at("parametrisation") == "mup"};
  std::tie(options.low_log2, options.high_log2) = range_of(settings);
  const auto studies = study_widths(lab, options);
  return {"The best ratio against the width", {}, {width_section(studies, "width")}};
}

Document run_speed(const Json& settings, Lab& lab) {
  std::vector<Speed> speeds;
  for (const bool b_random : inits_of(settings)) {
    SpeedOptions options{.task = settings.at("task"),
                         .width = settings.at("width"),
                         .training = training_of(settings, b_random),
                         .ratio_log2 = settings.at("ratio_log2"),
                         .seeds = seeds_of(settings)};
    std::tie(options.low_log2, options.high_log2) = range_of(settings);
    speeds.push_back(measure_speed(lab, options));
  }
  return {"Steps to LoRA's loss", {}, {speed_section(speeds)}};
}

Document run_compare(const Json& settings, Lab& lab) {
  Document document{"Methods at equal numbers of trials"};
  for (const bool b_random : inits_of(settings)) {
    CompareOptions options{.task = settings.at("task"),
                           .width = settings.at("width"),
                           .training = training_of(settings, b_random),
                           .seeds = seeds_of(settings)};
    std::tie(options.low_log2, options.high_log2) = range_of(settings);
    document.sections.push_back(compare_section(compare(lab, options)));
  }
  return document;
}

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

Document run(const Json& settings, Lab& lab) {
  const std::string command = settings.at("command");
  if (command == "theory") return run_theory(settings, lab);
  if (command == "sweep") return run_sweep(settings, lab);
  if (command == "width") return run_width(settings, lab);
  if (command == "speed") return run_speed(settings, lab);
  if (command == "compare") return run_compare(settings, lab);
  if (command == "reproduce") return reproduce(lab, plan_for(settings.at("budget")));
  throw std::invalid_argument("no command is called '" + command + "'");
}

bool needs_images(const Json& settings) {
  if (settings.at("command") == "reproduce") return !plan_for(settings.at("budget")).images.empty();
  return settings.value("task", "teacher") != "teacher";
}

Document measure_pace(unsigned threads) {
  Trial trial{.problem = {.task = "teacher", .width = 1024},
              .training = {.rank = 4, .steps = 100},
              .rates = {-6, 0}};
  const Problem problem = make_teacher_problem(trial.problem);
  constexpr std::size_t count = 40;
  std::vector<double> one, many, ratios;
  const auto rate = [&](unsigned used) {
    return static_cast<double>(count) / seconds_of([&] {
             finetune::parallel_for(count, used, [&](std::size_t) { run_trial(problem, trial); });
           });
  };
  for (int repetition = 0; repetition < 5; ++repetition) {  // in turn: the machine is shared
    one.push_back(rate(1));
    many.push_back(rate(threads));
    ratios.push_back(many.back() / one.back());
  }
  const double flops = 2 * multiply_adds(problem, trial.training) * median(one);
  const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  Table table{
      "",
      {"", "median of 5 rounds of 40 trials"},
      {{"a trial on one thread", finetune::fixed(1000 / median(one), 1) + " ms"},
       {"its products", finetune::fixed(flops * 1e-9, 1) + " GFLOP/s"},
       {"of the multiply-add peak", finetune::percent(flops / bench::peak_flops())},
       {"trials/s on one thread", finetune::fixed(median(one), 1)},
       {"trials/s on " + std::to_string(threads) + " threads", finetune::fixed(median(many), 1)},
       {"ratio", finetune::fixed(median(ratios), 2) + " (" + finetune::fixed(*least, 2) + " - " +
                     finetune::fixed(*most, 2) + ")"}}};
  return {"", {}, {{"A synthetic trial: n = 1024, rank 4, 256 samples, 100 steps", {table}}}};
}

}  // namespace lab
