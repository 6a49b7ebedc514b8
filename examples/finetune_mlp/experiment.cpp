#include "experiment.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <loraplus/io/state_dict.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/train/evaluate.hpp>
#include <utility>

#include "interrupt.hpp"
#include "parallel.hpp"
#include "run.hpp"
#include "tasks.hpp"

namespace finetune {
namespace {

using loraplus::StepReport;
using Clock = std::chrono::steady_clock;

constexpr Index hidden_width = 256;
constexpr Index pretrain_batch = 128;
constexpr Index curve_points = 20;  // about as many as a curve has

/// The middle of the learning rates that every method tries, the same for all methods. Neighbours
/// differ by a factor; both were set wide enough that no method's best is at the edge.
struct Grid {
  double centre;
  double factor;
};

Grid grid_of(Rule rule) {
  if (rule == Rule::sgd) return {0x1p-3, 2};
  return {0x1p-8, 2};
}

/// By rising value.
std::vector<Trial> make_trials(const Options& options) {
  const Grid grid = grid_of(options.optimizer);
  std::vector<Trial> trials;
  for (int i = 0; i < options.trials; ++i) {
    trials.push_back({grid.centre * std::pow(grid.factor, i - (options.trials - 1) / 2.0)});
  }
  return trials;
}

/// Images on which accuracies are measured by several threads. The parts are always the same, so
/// the result does not depend on the number of threads.
class TestSet {
 public:
  TestSet(const Labelled& data, unsigned threads) : size_(data.size()), threads_(threads) {
    constexpr Index part = 1280;
    for (Index first = 0; first < data.size(); first += part) {
      const Index count = std::min(part, data.size() - first);
      const auto labels = data.labels.begin() + first;
      parts_.push_back({data.inputs.middleCols(first, count), {labels, labels + count}});
    }
  }

  template <typename Model>
  double accuracy(const Model& model) const {
    std::vector<double> correct(parts_.size());
    parallel_for(parts_.size(), threads_, [&](std::size_t i) {
      correct[i] = loraplus::accuracy(model, parts_[i]) * static_cast<double>(parts_[i].size());
    });
    double total = 0;
    for (const double count : correct) {
      total += std::round(count);  // a whole number but for the last bits
    }
    return total / static_cast<double>(size_);
  }

 private:
  std::vector<Labelled> parts_;
  Index size_;
  unsigned threads_;
};

using Pretrained = loraplus::Mlp<loraplus::Linear<float>>;

/// As PyTorch would save it.
void save_network(const Pretrained& network, const std::filesystem::path& file) {
  loraplus::TensorList tensors;
  for (const auto& stage : network.stages()) {
    tensors.add(stage.name + ".weight", stage.layer.weight());
    tensors.add(stage.name + ".bias", stage.layer.bias());
  }
  loraplus::write_safetensors(file, tensors);
}

Pretrained pretrain(const Options& options, const std::vector<Index>& widths, const Labelled& data,
                    const Checkpoints& checkpoints, Progress& progress) {
  const std::filesystem::path finished = checkpoints.file("pretrained.safetensors");
  if (!finished.empty() && std::filesystem::exists(finished)) {
    return loraplus::load_mlp<float>(loraplus::Safetensors(finished)).network;
  }
  const Index batches = (data.size() + pretrain_batch - 1) / pretrain_batch;
  const loraplus::FitOptions fit_options{.steps = options.pretrain_epochs * batches,
                                         .batch = pretrain_batch};
  auto generator = make_generator(options.seed, Stream::pretraining);
  auto network = loraplus::make_mlp<float>(widths, loraplus::Activation::relu, generator);
  loraplus::Optimizer optimizer(
      loraplus::Adam{.learning_rate = 1e-3}, network,
      {.schedule = {.decay = loraplus::Decay::linear, .total_steps = fit_options.steps}});
  progress.begin("1/3 pretraining", fit_options.steps);
  Index counted = 0;
  fit_kept(network, optimizer, data, fit_options, generator, checkpoints.run("pretraining"),
           [&](const StepReport& report) {
             throw_if_interrupted();
             progress.advance(report.step - counted);  // those before a resumption, too
             counted = report.step;
           });
  progress.end();
  if (checkpoints.enabled()) {
    save_network(network, finished);
    std::filesystem::remove(checkpoints.run("pretraining").file);
  }
  return network;
}

/// Trains with the learning rate of the trial and judges it. All trials share one seed.
/// @param part its name among the checkpoints
void try_out(const Problem& problem, Method method, const Labelled& validation,
             const Checkpoints& checkpoints, const std::string& part, Progress& progress,
             Trial& trial) {
  if (const auto before = checkpoints.result(part)) {
    trial.accuracy = before->at("accuracy").get<double>();
    trial.diverged = before->at("diverged");
    progress.advance(problem.options.steps);
    return;
  }
  Index steps = 0;
  const Trained trained = train(
      problem, {method, trial.learning_rate, problem.options.seed},
      [&](const StepReport& report, const Network& /*network*/) {
        throw_if_interrupted();
        progress.advance(report.step - steps);
        steps = report.step;
      },
      checkpoints.run(part));
  progress.advance(problem.options.steps - steps);  // those that divergence has saved
  trial.diverged = trained.diverged;
  trial.accuracy = loraplus::accuracy(trained.network, validation);
  checkpoints.finish(part, {{"accuracy", *trial.accuracy}, {"diverged", trial.diverged}});
}

/// "trial-lora-3"
std::string part_name(const std::string& kind, Method method, std::size_t number) {
  constexpr std::array<const char*, 3> names = {"full", "lora", "lora-plus"};
  return kind + '-' + names[static_cast<std::size_t>(method)] + '-' + std::to_string(number);
}

/// Chooses the learning rate of every method, each among as many.
void tune(const Problem& problem, const Labelled& validation, const Checkpoints& checkpoints,
          Progress& progress, std::vector<MethodResult>& methods) {
  struct Job {
    Method method;
    Trial* trial;
    std::string part;
  };
  std::vector<Job> jobs;
  for (MethodResult& result : methods) {
    result.trials = make_trials(problem.options);
    for (std::size_t i = 0; i < result.trials.size(); ++i) {
      jobs.push_back({result.method, &result.trials[i], part_name("trial", result.method, i + 1)});
    }
  }
  progress.begin("2/3 learning rates", static_cast<Index>(jobs.size()) * problem.options.steps);
  parallel_for(jobs.size(), problem.options.threads, [&](std::size_t i) {
    try_out(problem, jobs[i].method, validation, checkpoints, jobs[i].part, progress,
            *jobs[i].trial);
  });
  progress.end();
  for (MethodResult& result : methods) {
    const auto best = std::max_element(
        result.trials.begin(), result.trials.end(), [](const Trial& a, const Trial& b) {
          return std::pair(!a.diverged, a.accuracy) < std::pair(!b.diverged, b.accuracy);
        });
    result.learning_rate = best->learning_rate;
  }
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Json curve_json(const std::vector<CurvePoint>& curve) {
  Json json = Json::array();
  for (const CurvePoint& point : curve) {
    json.push_back({point.step, point.loss ? Json(*point.loss) : Json(), point.accuracy});
  }
  return json;
}

std::vector<CurvePoint> read_curve(const Json& json) {
  std::vector<CurvePoint> curve;
  for (const Json& point : json) {
    curve.push_back({point[0], {}, point[2]});
    if (!point[1].is_null()) curve.back().loss = point[1].get<double>();
  }
  return curve;
}

/// Takes a finished run from the checkpoints. @return whether it is there
bool read_run(const Checkpoints& checkpoints, const std::string& part, Run& run) {
  const auto before = checkpoints.result(part);
  if (!before) return false;
  run.accuracy = before->at("accuracy");
  run.diverged = before->at("diverged");
  run.seconds_per_step = before->at("seconds_per_step");
  run.state_bytes = before->at("state_bytes");
  run.curve = read_curve(before->at("curve"));
  return true;
}

/// A run whose curve is followed on the test images, and whose steps are timed.
/// @param kept the run as it is stored, without what is kept beside it
/// @param run filled as it goes on; its curve has the start
void final_run(const Problem& problem, const Setting& setting, const TestSet& test, Index interval,
               KeptRun kept, Progress& progress, Run& run) {
  const Index steps = problem.options.steps;
  std::vector<double> step_seconds;
  double loss_sum = 0;
  Index counted = 0;
  kept.notes = [&]() -> Json {
    return {{"curve", curve_json(run.curve)}, {"loss", loss_sum}, {"seconds", step_seconds}};
  };
  kept.restore = [&](const Json& notes) {
    run.curve = read_curve(notes.at("curve"));
    loss_sum = notes.at("loss");
    step_seconds = notes.at("seconds").get<std::vector<double>>();
  };
  auto resumed = Clock::now();
  const Trained trained = train(
      problem, setting,
      [&](const StepReport& report, const Network& network) {
        step_seconds.push_back(seconds_since(resumed));
        throw_if_interrupted();
        progress.advance(report.step - counted);
        counted = report.step;
        loss_sum += report.loss;
        if (report.step % interval == 0 || report.step == steps) {
          const auto passed = static_cast<double>(report.step - run.curve.back().step);
          run.curve.push_back({report.step, loss_sum / passed, test.accuracy(network)});
          loss_sum = 0;
        }
        resumed = Clock::now();
      },
      kept);
  run.diverged = trained.diverged;
  run.accuracy = trained.diverged ? test.accuracy(trained.network) : run.curve.back().accuracy;
  run.seconds_per_step = median(step_seconds);
  run.state_bytes = trained.state_bytes;
}

/// One run after the other, the methods in turn, so that whatever else the computer does meets
/// all of them alike and nothing of our own disturbs the clock.
void make_final_runs(const Problem& problem, const TestSet& test, const Checkpoints& checkpoints,
                     Progress& progress, Results& results) {
  const Options& options = problem.options;
  const Index runs = static_cast<Index>(options.seeds) * static_cast<Index>(all_methods.size());
  progress.begin("3/3 final runs", runs * options.steps);
  for (int i = 1; i <= options.seeds; ++i) {
    for (MethodResult& result : results.methods) {
      const Setting setting{result.method, result.learning_rate,
                            options.seed + static_cast<std::uint64_t>(i)};
      const std::string part = part_name("final", result.method, static_cast<std::size_t>(i));
      Run run{setting.seed};
      run.curve.push_back({0, {}, results.before});
      if (read_run(checkpoints, part, run)) {
        progress.advance(options.steps);
      } else {
        try {
          final_run(problem, setting, test, results.curve_interval, checkpoints.run(part), progress,
                    run);
        } catch (const Interrupted&) {
          result.unfinished = std::move(run);
          throw;
        }
        checkpoints.finish(part, {{"accuracy", run.accuracy},
                                  {"diverged", run.diverged},
                                  {"seconds_per_step", run.seconds_per_step},
                                  {"state_bytes", run.state_bytes},
                                  {"curve", curve_json(run.curve)}});
      }
      result.runs.push_back(std::move(run));
    }
  }
  progress.end();
}

MethodResult describe(const Problem& problem, Method method) {
  Network network = make_network(problem, method, problem.options.seed);
  return {method, loraplus::parameter_count(network)};
}

/// The images that the user of the program says they have.
Labelled take_samples(const Options& options, Labelled pool) {
  const Index samples = options.samples.value_or(pool.size());
  if (samples > pool.size()) {
    throw std::invalid_argument("--samples " + std::to_string(samples) + ": only " +
                                std::to_string(pool.size()) + " images are there to adapt on");
  }
  pool.inputs.conservativeResize(Eigen::NoChange, samples);
  pool.labels.resize(static_cast<std::size_t>(samples));
  return pool;
}

}  // namespace

void run_experiment(const Options& options, Splits splits, const Checkpoints& checkpoints,
                    Progress& progress, Results& results) {
  const Index side = splits.side;
  const Labelled samples =
      shifted(options.task, take_samples(options, std::move(splits.pool)), side);
  const Labelled validation = shifted(options.task, std::move(splits.validation), side);
  results.data_name = splits.name;
  results.samples = samples.size();
  results.validation = validation.size();
  results.test = splits.test.size();

  results.widths = {side * side, hidden_width, hidden_width, classes};

  auto pretrained = pretrain(options, results.widths, splits.pretrain, checkpoints, progress);
  results.parameters = loraplus::parameter_count(pretrained);
  const Problem problem{loraplus::freeze(pretrained), samples, options};

  results.upright = TestSet(splits.test, options.threads).accuracy(problem.network);
  const TestSet test(shifted(options.task, std::move(splits.test), side), options.threads);
  results.before = test.accuracy(problem.network);
  results.target =
      options.target.value_or(results.before + 0.9 * (results.upright - results.before));

  results.curve_interval = std::max<Index>(1, options.steps / curve_points);
  for (const Method method : all_methods) {
    results.methods.push_back(describe(problem, method));
  }
  if (options.learning_rate) {
    for (MethodResult& result : results.methods) {
      result.learning_rate = *options.learning_rate;
    }
  } else {
    tune(problem, validation, checkpoints, progress, results.methods);
  }
  make_final_runs(problem, test, checkpoints, progress, results);
}

}  // namespace finetune
