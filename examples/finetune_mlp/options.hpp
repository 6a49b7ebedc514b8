// What the user of the program may choose, and the command line that chooses it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <loraplus/adapter/lora_options.hpp>
#include <optional>
#include <string>

namespace finetune {

using loraplus::Index;

/// The shift that a pretrained network is adapted to.
enum class Task { rotate15, rotate90, invert };

/// The update rule, the same for all methods.
enum class Rule { sgd, adam, adamw };

const char* name_of(Task task);
const char* name_of(Rule rule);
const char* name_of(loraplus::Initialization initialization);

/// "SGD with momentum 0.9"
const char* description(Rule rule);

struct Options {
  Task task = Task::rotate15;
  std::string data = "/usr/share/datasets/fashion-mnist";  ///< a folder, or "synthetic"
  std::optional<Index> samples = {};  ///< to adapt on; none: all that are set aside for it
  Index pretrain_epochs = 3;

  Index rank = 8;
  double alpha = 8;
  double ratio = 8;
  loraplus::Initialization init = loraplus::Initialization::a_uniform;

  Rule optimizer = Rule::adamw;
  std::optional<double> learning_rate = {};  ///< of all methods; none: tuned for each
  Index batch = 64;
  Index steps = 500;

  int trials = 9;
  int seeds = 5;
  std::optional<double> target = {};  ///< an accuracy; none: 90 % of the loss is recovered
  std::uint64_t seed = 1;

  std::filesystem::path out = "out";
  bool checkpoint = false;  ///< keep what is done in out/checkpoint, to go on from
  bool resume = false;      ///< go on from there, and keep what is done
  unsigned threads = 1;
  bool quiet = false;

  bool synthetic() const { return data == "synthetic"; }
};

/// What the program is told, or the exit code with which it ends at once: after --help, or after
/// a value that it has refused and explained.
struct CommandLine {
  Options options;
  std::optional<int> exit_code;
};

CommandLine parse(int argc, char** argv);

}  // namespace finetune
