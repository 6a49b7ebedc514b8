#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <loraplus/io/checkpoint.hpp>
#include <loraplus/loraplus.hpp>
#include <thread>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/killed.hpp"
#include "support/matrices.hpp"

namespace {

namespace fs = std::filesystem;
using namespace loraplus;
using test::contains;

/// A run with all that has a state: dropout, moments, batches of an epoch, accumulation.
class Run {
 public:
  explicit Run(Index steps = 40, Index rank = 3, Index samples = 37, double rate = 1e-2)
      : generator_(3),
        network_(adapt(make(generator_),
                       {.lora = {.rank = rank, .dropout = 0.2, .bias = BiasMode::lora_only},
                        .targets = {"fc1"},
                        .train = {"fc2"}},
                       generator_)),
        data_{test::random_matrix<float>(5, samples, 1), test::random_matrix<float>(2, samples, 2)},
        options_{.steps = steps, .batch = 8},
        optimizer_(AdamW{.learning_rate = rate}, {.ratio = 4}, network_,
                   {.schedule = {.decay = Decay::cosine, .warmup_steps = 5, .total_steps = 40},
                    .clip_norm = 1,
                    .accumulation = 3}),
        progress_(samples, options_) {}

  template <typename AfterStep>
  void go(AfterStep&& after_step) {
    fit<MeanSquaredError>(network_, optimizer_, data_, options_, generator_, progress_,
                          [&](const StepReport& report) { return after_step(report); });
  }
  void go() {
    go([](const StepReport&) { return true; });
  }

  void save(const fs::path& file, const std::map<std::string, std::string>& notes = {}) {
    save_checkpoint(file, network_, optimizer_, generator_, progress_, notes);
  }
  auto load(const fs::path& file) {
    return load_checkpoint(file, network_, optimizer_, generator_, progress_);
  }

  /// All that decides how the run goes on.
  std::string state(const fs::path& folder) {
    save(folder / "state");
    return test::read(folder / "state");
  }
  Index step() const { return progress_.step; }

 private:
  static Mlp<Linear<float>> make(std::mt19937_64& generator) {
    return make_mlp<float>({5, 7, 2}, Activation::tanh, generator);
  }

  std::mt19937_64 generator_;
  AdaptedMlp<PackedWeight<float>> network_;
  PairedData<float> data_;
  FitOptions options_;
  LoraPlus<AdamW, float> optimizer_;
  FitProgress progress_;
};

}  // namespace

TEST_CASE("a run that goes on from a checkpoint of any step ends bit for bit as one without") {
  const fs::path folder = test::fresh_folder("checkpoint");
  Run whole;
  whole.go([&](const StepReport& report) {
    whole.save(folder / std::to_string(report.step));
    return true;
  });
  const std::string end = whole.state(folder);
  for (Index step = 1; step <= 40; ++step) {
    Run resumed;
    resumed.load(folder / std::to_string(step));
    CHECK(resumed.step() == step);
    CHECK(resumed.state(folder) == test::read(folder / std::to_string(step)));
    resumed.go();
    CHECK(resumed.state(folder) == end);
  }
}

TEST_CASE("notes are found again as they were") {
  const fs::path folder = test::fresh_folder("checkpoint_notes");
  const std::map<std::string, std::string> notes = {{"best", "0.25"}, {"format", "\"mine\"\n"}};
  Run run;
  run.save(folder / "run", notes);
  CHECK(run.load(folder / "run") == notes);
}

TEST_CASE("a checkpoint of another run is refused by name, and nothing is changed") {
  const fs::path folder = test::fresh_folder("checkpoint_refused");
  Run run;
  run.go([](const StepReport& report) { return report.step < 7; });
  const std::string before = run.state(folder);
  const auto refusal = [&](const fs::path& file) {
    const std::string message = test::message_of<FileError>([&] { run.load(file); });
    CHECK(run.state(folder) == before);
    return message;
  };
  const auto checkpoint_of = [&](Run&& other) {
    other.go([](const StepReport& report) { return report.step < 5; });
    other.save(folder / "other");
    return folder / "other";
  };
  CHECK(contains(refusal(checkpoint_of(Run(40, 2))),
                 "'model.fc1.lora_A' (F32, 2 x 5) must be 3 x 5"));
  CHECK(contains(refusal(checkpoint_of(Run(40, 3, 36))), "not an order of 37 samples"));
  CHECK(contains(refusal(checkpoint_of(Run(40, 3, 37, 2e-2))), "was made with the rates"));
  CHECK(contains(refusal(folder / "none"), "No such file"));

  TensorList adapter;
  adapter.add("x", Vector<float>(Vector<float>::Ones(2)));
  write_safetensors(folder / "adapter", adapter);
  CHECK(contains(refusal(folder / "adapter"), "is no checkpoint: its metadata have no 'format'"));

  const Safetensors good(folder / "state");
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, std::string>>{{"format", "loraplus checkpoint 0"},
                                                        {"generator", "nonsense"},
                                                        {"step", "many"},
                                                        {"optimizer.pending", "3"},
                                                        {"sampler.dealt", "38"}}) {
    auto metadata = good.metadata();
    metadata[key] = value;
    TensorList tensors;
    for (const std::string& name : good.names()) {
      tensors.add(good.at(name));
    }
    write_safetensors(folder / "changed", tensors, metadata);
    CAPTURE(key);
    CHECK(contains(refusal(folder / "changed"), "changed"));
  }
}

TEST_CASE("killed at any moment of writing, a checkpoint is whole, and the run goes on from it") {
  const fs::path folder = test::fresh_folder("checkpoint_killed");
  Run whole(400);
  whole.go();
  const std::string end = whole.state(folder);
  std::mt19937_64 generator{5};
  int kills = 0;
  bool done = false;
  while (!done && kills < 50) {
    done = test::ends_before_kill(uniform(generator, 5.0, 40.0 + 4 * kills), [&] {
      Run run(400);
      if (fs::exists(folder / "run")) run.load(folder / "run");
      run.go([&](const StepReport&) {
        run.save(folder / "run");
        return true;
      });
    });
    ++kills;
    if (!fs::exists(folder / "run")) continue;
    Run resumed(400);
    CHECK_NOTHROW(resumed.load(folder / "run"));
  }
  Run resumed(400);
  resumed.load(folder / "run");
  CHECK(resumed.step() > 1);
  resumed.go();
  CHECK(resumed.state(folder) == end);
  CHECK(kills > 2);
}
