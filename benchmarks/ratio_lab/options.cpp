#include "options.hpp"

#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "finetune_mlp/options.hpp"

namespace lab {
namespace {

/// What subcommands have in common; each uses some of it.
struct Values {
  std::string task = "teacher";
  std::string data = finetune::Options{}.data;
  std::string init = "both";
  std::string optimizer = "adam";
  std::string parametrisation = "mup";
  std::string budget = "60s";
  long width = 256;
  std::vector<long> widths = {64, 128, 256, 512, 1024};
  std::vector<double> ratios = {0.25, 1, 4, 16, 64, 256};
  double ratio = 16;
  long largest_width = 2048;
  long rank = 4;
  double scaling = 1;
  long steps = 100;
  long batch = 0;
  int tuning_seeds = 3;
  int reporting_seeds = 10;
};

/// A ratio that is a power of two: they have exact names, and 4^k are exact in every respect.
const CLI::Validator power_of_two(
    [](const std::string& text) {
      double value = 0;
      int exponent = 0;
      const bool is_number = CLI::detail::lexical_cast(text, value);
      const bool valid =
          is_number && std::isfinite(value) && value > 0 && std::frexp(value, &exponent) == 0.5;
      return valid ? std::string() : "a ratio is a power of two, found " + text;
    },
    "POWER OF 2");

int log2_of(double power) {
  return static_cast<int>(std::lround(std::log2(power)));
}

void add_seeds(CLI::App& app, Values& values) {
  app.add_option("--tuning-seeds", values.tuning_seeds, "Seeds to choose rates with")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--reporting-seeds", values.reporting_seeds, "Other seeds, to report")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
}

void add_training(CLI::App& app, Values& values) {
  const auto at_least_one = CLI::Range(1L, 1000000L);
  app.add_option("--task", values.task, "What is learned")
      ->check(CLI::IsMember({"teacher", "rotate15", "rotate90", "invert"}))
      ->capture_default_str();
  app.add_option("--data", values.data,
                 "Folder of IDX files for the tasks with images, or synthetic")
      ->capture_default_str();
  app.add_option("--optimizer", values.optimizer, "Update rule")
      ->check(CLI::IsMember({"adam", "adamw", "sgd", "momentum"}))
      ->capture_default_str();
  app.add_option("--rank", values.rank, "Rank r")->check(at_least_one)->capture_default_str();
  app.add_option("--scaling", values.scaling, "Scaling s of the adapter")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--steps", values.steps, "Training steps of a trial")
      ->check(at_least_one)
      ->capture_default_str();
  app.add_option("--batch", values.batch, "Samples in a batch; 0: all at once")
      ->check(CLI::Range(0L, 1000000L))
      ->capture_default_str();
  add_seeds(app, values);
}

void add_init(CLI::App& app, Values& values) {
  app.add_option("--init", values.init, "The random factor: a, b or both, one after the other")
      ->check(CLI::IsMember({"a", "b", "both"}))
      ->capture_default_str();
}

void add_width(CLI::App& app, Values& values) {
  app.add_option("--width", values.width, "Width n of the adapted layer")
      ->check(CLI::Range(1L, 16384L))
      ->capture_default_str();
}

Json training_settings(const std::string& command, const Values& values) {
  return {{"command", command},
          {"task", values.task},
          {"data", values.task == "teacher" ? "" : values.data},
          {"optimizer", values.optimizer},
          {"rank", values.rank},
          {"scaling", values.scaling},
          {"steps", values.steps},
          {"batch", values.batch},
          {"tuning_seeds", values.tuning_seeds},
          {"reporting_seeds", values.reporting_seeds}};
}

Json settings_of(const std::string& command, const Values& values) {
  if (command == "reproduce") {
    return {{"command", command}, {"budget", values.budget}, {"data", values.data}};
  }
  if (command == "theory") {
    return {{"command", command},
            {"data", ""},
            {"largest_width", values.largest_width},
            {"tuning_seeds", values.tuning_seeds},
            {"reporting_seeds", values.reporting_seeds}};
  }
  Json settings = training_settings(command, values);
  if (command == "width") {
    settings["widths"] = values.widths;
    std::vector<int> ratios;
    for (const double ratio : values.ratios) {
      ratios.push_back(log2_of(ratio));
    }
    for (const int needed : {0, 4}) {  // LoRA, and the ratio of the claims
      if (std::find(ratios.begin(), ratios.end(), needed) == ratios.end()) ratios.push_back(needed);
    }
    std::sort(ratios.begin(), ratios.end());
    ratios.erase(std::unique(ratios.begin(), ratios.end()), ratios.end());
    settings["ratios_log2"] = ratios;
    settings["parametrisation"] = values.parametrisation;
    return settings;
  }
  settings["width"] = values.width;
  settings["init"] = values.init;
  if (command == "speed") settings["ratio_log2"] = log2_of(values.ratio);
  return settings;
}

}  // namespace

CommandLine parse(int argc, char** argv) {
  CommandLine line;
  line.threads = std::max(1U, std::thread::hardware_concurrency());
  Values values;
  CLI::App app{
      "Measures what the ratio of LoRA+'s two learning rates is worth. Every finished trial is "
      "kept in OUT/results.jsonl: the same command goes on where it was stopped."};
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--out", line.out, "Folder for the results")->capture_default_str();
  app.add_option("--threads", line.threads, "Trials at a time")
      ->check(CLI::Range(1U, 1024U))
      ->capture_default_str();
  app.add_flag("--quiet", line.quiet, "No progress");

  auto& theory = *app.add_subcommand(
      "theory",
      "T1 to T5: exact equivalences, exponents of the width, steps to converge, best rates");
  theory.add_option("--largest-width", values.largest_width, "Widths are 64, 128, ... up to this")
      ->check(CLI::Range(128L, 16384L))
      ->capture_default_str();
  add_seeds(theory, values);

  auto& sweep = *app.add_subcommand("sweep", "Heat map of the loss over the rates of A and B");
  auto& width = *app.add_subcommand("width", "The best ratio and its gain against the width");
  auto& speed = *app.add_subcommand("speed", "Steps to the loss that tuned LoRA ends with");
  auto& compare = *app.add_subcommand("compare", "Methods at equal numbers of tuning trials");
  for (CLI::App* command : {&sweep, &width, &speed, &compare}) {
    add_training(*command, values);
  }
  for (CLI::App* command : {&sweep, &speed, &compare}) {
    add_init(*command, values);
    add_width(*command, values);
  }
  width.add_option("--widths", values.widths, "Widths n")
      ->check(CLI::Range(1L, 16384L))
      ->capture_default_str();
  width.add_option("--ratios", values.ratios, "Ratios to try; 1 and 16 are always among them")
      ->check(power_of_two)
      ->capture_default_str();
  width
      .add_option("--parametrisation", values.parametrisation,
                  "How networks for images are trained")
      ->check(CLI::IsMember({"mup", "standard"}))
      ->capture_default_str();
  speed.add_option("--ratio", values.ratio, "LoRA+'s ratio")
      ->check(power_of_two)
      ->capture_default_str();

  auto& reproduce = *app.add_subcommand(
      "reproduce", "All of it in a budget of time, ending in the verdicts R1 to R5");
  reproduce.add_option("--budget", values.budget, "On two cores")
      ->check(CLI::IsMember({"60s", "30m", "8h"}))
      ->capture_default_str();
  reproduce.add_option("--data", values.data, "Folder of IDX files, or synthetic")
      ->capture_default_str();
  auto& report =
      *app.add_subcommand("report", "The page, tables and pictures of results in OUT again");
  auto& pace = *app.add_subcommand("pace", "How fast trials are here; keeps nothing");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    line.exit_code = app.exit(error, std::cout, std::cerr) == 0 ? 0 : 2;
    return line;
  }
  line.report_only = report.parsed();
  line.pace = pace.parsed();
  if (!line.report_only && !line.pace) {
    line.settings = settings_of(app.get_subcommands().front()->get_name(), values);
  }
  return line;
}

}  // namespace lab
