#include "options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace finetune {
namespace {

constexpr int exit_usage = 2;

template <typename Enum, std::size_t Count>
using Names = std::array<std::pair<Enum, const char*>, Count>;

constexpr Names<Task, 3> task_names = {{
    {Task::rotate15, "rotate15"},
    {Task::rotate90, "rotate90"},
    {Task::invert, "invert"},
}};
constexpr Names<Rule, 3> rule_names = {{
    {Rule::sgd, "sgd"},
    {Rule::adam, "adam"},
    {Rule::adamw, "adamw"},
}};
constexpr Names<loraplus::Initialization, 3> init_names = {{
    {loraplus::Initialization::a_uniform, "a_uniform"},
    {loraplus::Initialization::a_gaussian, "a_gaussian"},
    {loraplus::Initialization::b_uniform, "b_uniform"},
}};

template <typename Enum, std::size_t Count>
const char* find_name(const Names<Enum, Count>& names, Enum value) {
  return std::find_if(names.begin(), names.end(),
                      [&](const auto& entry) { return entry.first == value; })
      ->second;
}

/// Positive numbers up to `most`; CLI::PositiveNumber would let "nan" and "inf" pass.
CLI::Validator positive_number(double most = std::numeric_limits<double>::max()) {
  const auto check = [most](std::string& text) {
    double value = 0;
    if (CLI::detail::lexical_cast(text, value) && value > 0 && value <= most) return std::string();
    return "'" + text + "' is not a positive number" + (most == 1 ? " of at most 1" : "");
  };
  return CLI::Validator(check, "");
}

/// "  --rank N [8]": the default in brackets.
class Help : public CLI::Formatter {
 public:
  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_type_size() == 0) return {};  // a flag
    const std::string initial = option->get_default_str();
    return ' ' + option->get_type_name() + (initial.empty() ? "" : " [" + initial + ']');
  }
};

/// Adds a group of options.
class Group {
 public:
  Group(CLI::App& app, std::string title) : app_(app), title_(std::move(title)) {}

  template <typename T>
  CLI::Option* add(const std::string& name, T& value, const char* type, const std::string& help) {
    return app_.add_option(name, value, help)
        ->capture_default_str()
        ->type_name(type)
        ->group(title_);
  }

  /// An option that may be left out; the help says what holds then.
  template <typename T>
  CLI::Option* add(const std::string& name, std::optional<T>& value, const char* type,
                   const std::string& help) {
    return app_
        .add_option_function<T>(
            name, [&value](const T& given) { value = given; }, help)
        ->type_name(type)
        ->group(title_);
  }

  /// A whole number from 1 to `most`.
  template <typename T>
  void add_count(const std::string& name, T& value, int most, const std::string& help) {
    add(name, value, "N", help)->check(CLI::Validator(CLI::Range(1, most)).description(""));
  }

  template <typename Enum, std::size_t Count>
  void add_choice(const std::string& name, Enum& value, const Names<Enum, Count>& names,
                  const std::string& help) {
    std::vector<std::string> choices;
    for (const auto& entry : names) {
      choices.emplace_back(entry.second);
    }
    const auto choose = [&value, &names](const std::string& given) {
      value = std::find_if(names.begin(), names.end(), [&](const auto& entry) {
                return given == entry.second;
              })->first;
    };
    app_.add_option_function<std::string>(name, choose, help)
        ->check(CLI::Validator(CLI::IsMember(choices)).description(""))
        ->default_str(find_name(names, value))
        ->type_name(CLI::detail::join(choices, "|"))
        ->group(title_);
  }

 private:
  CLI::App& app_;
  std::string title_;
};

void add_options(CLI::App& app, Options& options) {
  Group task(app, "The task");
  task.add_choice("--task", options.task, task_names,
                  "the shift: images turned by 15 or by 90 degrees; or inverted,\n"
                  "with label k made k + 1 (9 made 0) under a frozen last layer");
  task.add("--data", options.data, "DIR",
           "a folder with the four IDX files of Fashion-MNIST, gzipped or\n"
           "not; or 'synthetic', a built-in task of the same shape that\n"
           "needs no files");
  task.add_count("--samples", options.samples, 1'000'000,
                 "images to adapt on; a sixth of the training images is set\n"
                 "aside for it [all of those]");
  task.add_count("--pretrain-epochs", options.pretrain_epochs, 1000,
                 "passes over upright images before the network is frozen");

  Group adapters(app, "The adapters");
  adapters.add_count("--rank", options.rank, 4096, "rank r of every adapter");
  adapters.add("--alpha", options.alpha, "X", "an adapter's output is scaled by alpha / r")
      ->check(positive_number());
  adapters
      .add("--ratio", options.ratio, "X",
           "LoRA+: learning rate of B over that of A; the paper found 4 to\n"
           "8 good if A is random at the start, about 16 if B is")
      ->check(positive_number());
  adapters.add_choice("--init", options.init, init_names,
                      "the factor that is random at the start; the other is zero");

  Group training(app, "Training");
  training.add_choice("--optimizer", options.optimizer, rule_names,
                      "update rule of all methods; sgd has a momentum of 0.9");
  training
      .add("--learning-rate", options.learning_rate, "X",
           "learning rate of all methods at the first step; for LoRA+ the\n"
           "geometric mean of those of A and B [tuned for each method]")
      ->check(positive_number());
  training.add_count("--batch", options.batch, 65536, "images in a batch");
  training.add_count("--steps", options.steps, 1'000'000, "training steps of a run");

  Group comparison(app, "The comparison");
  comparison.add_count("--trials", options.trials, 50,
                       "learning rates tried for each method, on validation images");
  comparison.add_count("--seeds", options.seeds, 1000,
                       "final runs of each method, with seeds new to the tuning");
  comparison
      .add("--target", options.target, "X",
           "accuracy to be reached, up to 1 [90 % of what the shift took is\n"
           "won back]")
      ->check(positive_number(1));
  comparison.add("--seed", options.seed, "N", "all random numbers follow from it")
      ->check(
          CLI::Validator(CLI::Range(Index{0}, std::numeric_limits<Index>::max())).description(""));

  Group program(app, "The program");
  program.add("--out", options.out, "DIR", "folder for summary.json, curves.csv and curves.svg");
  program.add_count("--threads", options.threads, 256,
                    "threads for tuning and for evaluation; the final runs are\n"
                    "trained and timed on one");
  app.add_flag("--checkpoint", options.checkpoint,
               "keep what is done in OUT/checkpoint, so that a run that was\n"
               "killed goes on with --resume")
      ->group("The program");
  app.add_flag("--resume", options.resume,
               "go on from OUT/checkpoint, with the same options; all else\n"
               "comes out as if the program had never stopped, but times")
      ->group("The program");
  app.add_flag("--quiet", options.quiet, "no progress, only the result")->group("The program");
  app.set_help_flag("-h,--help", "this text")->group("The program");
}

}  // namespace

const char* name_of(Task task) {
  return find_name(task_names, task);
}

const char* name_of(Rule rule) {
  return find_name(rule_names, rule);
}

const char* name_of(loraplus::Initialization initialization) {
  return find_name(init_names, initialization);
}

const char* description(Rule rule) {
  switch (rule) {
    case Rule::sgd:
      return "SGD with momentum 0.9";
    case Rule::adam:
      return "Adam";
    case Rule::adamw:
      return "AdamW";
  }
  return "";
}

CommandLine parse(int argc, char** argv) {
  CommandLine line;
  line.options.threads = std::clamp(std::thread::hardware_concurrency(), 1U, 256U);
  CLI::App app(
      "Pretrains a 784-256-256-10 network on upright images, freezes it, and adapts it to shifted\n"
      "images in three ways: full fine-tuning, LoRA and LoRA+. Each way has its learning rate "
      "chosen\n"
      "by as many trials on validation images; test images serve the reported numbers alone.\n"
      "Ctrl-C stops it and keeps what was done.\n",
      "finetune_mlp");
  app.footer(
      "\nExamples:\n"
      "  finetune_mlp\n"
      "  finetune_mlp --task invert --init b_uniform --ratio 16\n"
      "  finetune_mlp --data synthetic --samples 500 --optimizer sgd --out my_results\n");
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.formatter(std::make_shared<Help>());
  app.get_formatter()->column_width(30);
  add_options(app, line.options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    line.exit_code = app.exit(error) == 0 ? 0 : exit_usage;
  }
  return line;
}

}  // namespace finetune
