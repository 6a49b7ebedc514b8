#include <loraplus/io/checkpoint.hpp>
#include <loraplus/loraplus.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/killed.hpp"
#include "support/matrices.hpp"

namespace {

namespace fs = std::filesystem;
using namespace loraplus;
using test::contains;

struct Setup {
  Index steps = 40;
  Index rank = 3;
  double alpha = 6;
  double dropout = 0.2;
  Activation activation = Activation::tanh;
  unsigned base = 3;  ///< the seed of the frozen network
  Index samples = 37;
  Index batch = 8;
  OptimizerOptions options = {
      .schedule = {.decay = Decay::cosine, .warmup_steps = 5, .total_steps = 40},
      .clip_norm = 1,
      .accumulation = 3};
};

constexpr AdamW adam_w = {.learning_rate = 1e-2};

/// A run with all that has a state: dropout, moments, batches of an epoch, accumulation.
template <typename Rule = AdamW>
class Run {
 public:
  explicit Run(const Setup& setup = {}, const Rule& rule = adam_w)
      : generator_(3),
        network_(adapt(make(setup),
                       {.lora = {.rank = setup.rank,
                                 .alpha = setup.alpha,
                                 .dropout = setup.dropout,
                                 .bias = BiasMode::lora_only},
                        .targets = {"fc1"},
                        .train = {"fc3"}},
                       generator_)),
        data_{test::random_matrix<float>(5, setup.samples, 1),
              test::random_matrix<float>(2, setup.samples, 2)},
        options_{.steps = setup.steps, .batch = setup.batch},
        optimizer_(rule, {.ratio = 4}, network_, setup.options),
        progress_(setup.samples, options_) {}

  template <typename AfterStep>
  void go(AfterStep&& after_step) {
    fit<MeanSquaredError>(network_, optimizer_, data_, options_, generator_, progress_,
                          [&](const StepReport& report) { return after_step(report); });
  }
  void go() {
    go([](const StepReport&) { return true; });
  }

  void save(const fs::path& file, const std::map<std::string, std::string>& notes = {},
            const RunSettings& settings = {}) {
    save_checkpoint(file, network_, optimizer_, generator_, progress_, notes, settings);
  }
  auto load(const fs::path& file, const RunSettings& settings = {}) {
    return load_checkpoint(file, network_, optimizer_, generator_, progress_, settings);
  }

  /// All that decides how the run goes on.
  std::string state(const fs::path& folder) {
    save(folder / "state");
    return test::read(folder / "state");
  }
  Index step() const { return progress_.step; }

 private:
  static Mlp<Linear<float>> make(const Setup& setup) {
    std::mt19937_64 generator(setup.base);
    return make_mlp<float>({5, 7, 6, 2}, setup.activation, generator);
  }

  std::mt19937_64 generator_;
  AdaptedMlp<PackedWeight<float>> network_;
  PairedData<float> data_;
  FitOptions options_;
  LoraPlus<Rule, float> optimizer_;
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

TEST_CASE("a run may go on to more steps, and over a base that rounds differently") {
  const fs::path folder = test::fresh_folder("checkpoint_longer");
  Run first;
  first.go();
  first.save(folder / "run");
  Run longer(Setup{.steps = 50});
  longer.load(folder / "run");
  longer.go();
  CHECK(longer.step() == 50);

  const Safetensors stored(folder / "run");
  TensorList tensors;
  for (const std::string& name : stored.names()) {
    if (name != "frozen.layer.fc2") tensors.add(stored.at(name));
  }
  const Vector<float> product = stored.at("frozen.layer.fc2").to_vector<float>();
  tensors.add("frozen.layer.fc2", Vector<float>(product * 1.00001F));
  write_safetensors(folder / "rounded", tensors, stored.metadata());
  CHECK_NOTHROW(Run().load(folder / "rounded"));
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
  const auto refusal_of = [&](auto&& other) {
    other.go([](const StepReport& report) { return report.step < 5; });
    other.save(folder / "other");
    return refusal(folder / "other");
  };
  const auto with_options = [](auto&& change) {
    Setup setup;
    change(setup.options);
    return Run(setup);
  };
  CHECK(contains(refusal_of(Run(Setup{.rank = 2, .alpha = 4})),
                 "'model.fc1.lora_A' (F32, 2 x 5) must be 3 x 5"));
  CHECK(contains(refusal_of(Run(Setup{.samples = 36})), "not an order of 37 samples"));
  CHECK(contains(refusal_of(Run(Setup{.alpha = 5})), "'layer.fc1.scaling'"));
  CHECK(contains(refusal_of(Run(Setup{.dropout = 0.1})),
                 "'layer.fc1.dropout' set to '0.1', now it is '0.2'"));
  CHECK(contains(refusal_of(Run(Setup{.activation = Activation::relu})), "set to 'relu', now"));
  CHECK(contains(refusal_of(Run(Setup{.batch = 9})), "'batch' set to '9', now it is '8'"));
  CHECK(contains(refusal_of(Run(Setup{.base = 4})), "was made over another frozen weight"));
  CHECK(contains(refusal_of(with_options([](auto& o) { o.clip_norm = 2; })),
                 "'clip_norm' set to '2'"));
  CHECK(contains(refusal_of(with_options([](auto& o) { o.accumulation = 2; })), "'accumulation'"));
  CHECK(contains(refusal_of(with_options([](auto& o) { o.schedule.total_steps = 41; })),
                 "'schedule.total_steps'"));
  CHECK(contains(refusal_of(with_options([](auto& o) { o.schedule.decay = Decay::linear; })),
                 "'schedule' set to 'linear', now it is 'cosine'"));
  CHECK(contains(refusal_of(Run<Adam>({}, {.learning_rate = 1e-2, .weight_decay = 1e-2})),
                 "'rule' set to 'Adam', now it is 'AdamW'"));
  CHECK(contains(refusal_of(Run<Riemannian<AdamW>>({}, {adam_w})), "'rule"));
  for (const auto& [rule, name] : std::vector<std::pair<AdamW, std::string>>{
           {{.learning_rate = 2e-2}, "'group.A.learning_rate'"},
           {{.learning_rate = 1e-2, .beta1 = 0.8}, "'rule.beta1' set to '0.8', now it is '0.9'"},
           {{.learning_rate = 1e-2, .beta2 = 0.99}, "'rule.beta2'"},
           {{.learning_rate = 1e-2, .epsilon = 1e-7}, "'rule.epsilon'"},
           {{.learning_rate = 1e-2, .weight_decay = 0}, "'group.A.weight_decay'"}}) {
    CHECK(contains(refusal_of(Run({}, rule)), name));
  }
  Run().save(folder / "settings", {}, {{"loss", "MSE"}});
  CHECK(contains(refusal(folder / "settings"), "'run.loss' set to 'MSE', now it is nothing"));
  CHECK_NOTHROW(Run().load(folder / "settings", {{"loss", "MSE"}}));
  CHECK_THROWS_AS(Run().load(folder / "settings", {{"loss", "MAE"}}), FileError);
  CHECK(contains(refusal(folder / "none"), "No such file"));
}

TEST_CASE("a file that is no checkpoint, or a damaged one, is refused, and nothing is changed") {
  const fs::path folder = test::fresh_folder("checkpoint_damaged");
  Run run;
  run.go([](const StepReport& report) { return report.step < 7; });
  const std::string before = run.state(folder);
  const auto refusal = [&](const fs::path& file) {
    const std::string message = test::message_of<FileError>([&] { run.load(file); });
    CHECK(run.state(folder) == before);
    return message;
  };
  TensorList adapter;
  adapter.add("x", Vector<float>(Vector<float>::Ones(2)));
  write_safetensors(folder / "adapter", adapter);
  CHECK(contains(refusal(folder / "adapter"), "is no checkpoint: its metadata have no 'format'"));

  const Safetensors good(folder / "state");
  const std::string generator = good.metadata().at("generator");
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, std::string>>{{"format", "loraplus checkpoint 1"},
                                                        {"generator", "nonsense"},
                                                        {"generator", generator + " 1"},
                                                        {"generator", generator + "x"},
                                                        {"step", "many"},
                                                        {"step", "-1"},
                                                        {"optimizer.steps", "-1"},
                                                        {"optimizer.pending", "3"},
                                                        {"optimizer.pending", "-1"},
                                                        {"sampler.dealt", "38"}}) {
    auto metadata = good.metadata();
    metadata[key] = value;
    TensorList tensors;
    for (const std::string& name : good.names()) {
      tensors.add(good.at(name));
    }
    write_safetensors(folder / "changed", tensors, metadata);
    CAPTURE(key, value);
    CHECK(contains(refusal(folder / "changed"), "changed"));
  }
}

TEST_CASE("a generator is stored in the digits of the classic locale") {
  struct Grouping : std::numpunct<char> {
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const fs::path folder = test::fresh_folder("checkpoint_locale");
  Run run;
  const std::string classic = run.state(folder);
  const std::locale before = std::locale::global(std::locale(std::locale(), new Grouping));
  CHECK(run.state(folder) == classic);
  CHECK_NOTHROW(run.load(folder / "state"));
  std::locale::global(before);
}

TEST_CASE("killed at any moment of writing, a checkpoint is whole, and the run goes on from it") {
  const fs::path folder = test::fresh_folder("checkpoint_killed");
  const Setup setup{.steps = 200};
  Run whole(setup);
  whole.go();
  const std::string end = whole.state(folder);
  std::mt19937_64 generator{5};
  int kills = 0, gone_on = 0;
  while (kills < 50) {
    const bool is_first = !fs::exists(folder / "run");
    const bool done = test::ends_before_kill(uniform(generator, 1.0, 60.0), [&] {
      Run run(setup);
      if (!is_first) run.load(folder / "run");
      run.go([&](const StepReport&) {
        run.save(folder / "run");
        return true;
      });
    });
    if (!fs::exists(folder / "run")) continue;  // killed before there was anything to lose
    Run resumed(setup);
    REQUIRE_NOTHROW(resumed.load(folder / "run"));
    if (done) {  // and so from the beginning again
      CHECK(resumed.state(folder) == end);
      fs::remove(folder / "run");
      continue;
    }
    ++kills;
    gone_on += is_first ? 0 : 1;
  }
  CHECK(gone_on > 25);
  Run resumed(setup);
  if (fs::exists(folder / "run")) resumed.load(folder / "run");
  resumed.go();
  CHECK(resumed.state(folder) == end);
  resumed.save(folder / "run");
  CHECK(std::distance(fs::directory_iterator(folder), {}) == 2);  // nothing that the killed left
}
