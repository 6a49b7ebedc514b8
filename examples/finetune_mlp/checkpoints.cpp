#include "checkpoints.hpp"

#include <fstream>
#include <stdexcept>
#include <vector>

#include "files.hpp"

namespace finetune {
namespace {

namespace fs = std::filesystem;

template <typename Value>
Json optional_json(const std::optional<Value>& value) {
  return value ? Json(*value) : Json();
}

/// The options that decide what the parts compute.
Json settings_of(const Options& options) {
  return {{"--task", name_of(options.task)},
          {"--data", options.data},
          {"--samples", optional_json(options.samples)},
          {"--pretrain-epochs", options.pretrain_epochs},
          {"--rank", options.rank},
          {"--alpha", options.alpha},
          {"--ratio", options.ratio},
          {"--init", name_of(options.init)},
          {"--optimizer", name_of(options.optimizer)},
          {"--learning-rate", optional_json(options.learning_rate)},
          {"--batch", options.batch},
          {"--steps", options.steps},
          {"--trials", options.trials},
          {"--seed", options.seed}};
}

Json read_json(const fs::path& file) {
  std::ifstream stream(file);
  Json json = Json::parse(stream, nullptr, false);
  if (json.is_discarded()) throw std::runtime_error(file.string() + " is damaged: it is no JSON");
  return json;
}

/// Whether a file of this name can be one that Checkpoints keeps, or a part of one.
bool is_kept(const fs::path& file) {
  const std::string name = file.filename().string();
  const std::string extension = file.extension().string();
  if (extension == ".part") return name[0] == '.';
  const bool is_part = name.starts_with("trial-") || name.starts_with("final-");
  return name == "settings.json" || name == "pretrained.safetensors" ||
         (is_part && (extension == ".json" || extension == ".safetensors"));
}

/// Takes away what an earlier program kept in a folder; nothing if it holds anything else, which a
/// user may have put there.
void clear(const fs::path& folder) {
  std::vector<fs::path> kept;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (!is_kept(entry.path()) || !entry.is_regular_file()) {
      throw std::runtime_error("--checkpoint: " + entry.path().string() +
                               " was not made by this program; move it, or choose another --out");
    }
    kept.push_back(entry.path());
  }
  for (const fs::path& file : kept) {
    fs::remove(file);
  }
}

}  // namespace

Checkpoints::Checkpoints(fs::path folder, const Options& options, bool resume)
    : folder_(std::move(folder)) {
  const fs::path settings_file = folder_ / "settings.json";
  const Json settings = settings_of(options);
  if (!resume) {
    prepare_folder(folder_);
    clear(folder_);
    write_atomically(settings_file, settings.dump(2) + '\n');
    return;
  }
  if (!fs::exists(settings_file)) {
    throw std::runtime_error("--resume: there is nothing to go on with in " + folder_.string() +
                             "; --checkpoint keeps what is done");
  }
  const Json before = read_json(settings_file);
  for (const auto& [option, value] : settings.items()) {
    if (before.value(option, Json()) == value) continue;
    throw std::runtime_error("--resume: " + folder_.string() + " was made with " + option + ' ' +
                             before.value(option, Json()).dump() + ", now it is " + value.dump());
  }
}

KeptRun Checkpoints::run(const std::string& part) const {
  return {file(part + ".safetensors")};
}

std::optional<Json> Checkpoints::result(const std::string& part) const {
  const fs::path stored = file(part + ".json");
  if (!enabled() || !fs::exists(stored)) return std::nullopt;
  return std::make_optional(read_json(stored));
}

void Checkpoints::finish(const std::string& part, const Json& result) const {
  if (!enabled()) return;
  write_atomically(file(part + ".json"), result.dump() + '\n');
  fs::remove(file(part + ".safetensors"));
}

fs::path Checkpoints::file(const std::string& name) const {
  return enabled() ? folder_ / name : fs::path();
}

}  // namespace finetune
