#include "ratio_lab/trial.hpp"

#include <cmath>
#include <set>

#include "benchmarks/ratio_lab/lab.hpp"
#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/idx_data.hpp"
#include "support/matrices.hpp"

using lab::Index;
using lab::Judge;
using lab::Method;
using lab::Outcome;
using lab::Problem;
using lab::ProblemKey;
using lab::Rule;
using lab::Trial;
using loraplus::Matrix;

namespace {

Trial small_trial() {
  return {.problem = {.task = "teacher", .width = 24},
          .training = {.rank = 3, .steps = 30},
          .rates = {-4, 2}};
}

const Problem& small_problem() {
  static const Problem problem = lab::make_teacher_problem(small_trial().problem);
  return problem;
}

}  // namespace

TEST_CASE("the rates of a trial have their mean and ratio") {
  const lab::Rates rates{-5.5, 4};
  CHECK(std::sqrt(rates.a() * rates.b()) == Approx(rates.mean()));
  CHECK(rates.b() / rates.a() == Approx(16));
  CHECK(rates.ratio() == 16);
}

TEST_CASE("a key tells all that decides a trial, and nothing twice") {
  const Trial base = small_trial();
  std::vector<Trial> others(13, base);
  others[0].problem.width = 25;
  others[1].problem.seed = 2;
  others[2].training.rank = 4;
  others[3].training.b_random = true;
  others[4].training.steps = 31;
  others[5].training.batch = 8;
  others[6].training.init_log2 = 1;
  others[7].training.scaling = 2;
  others[8].training.method = Method::riemannian;
  others[9].rates.g_log2 = -4.5;
  others[10].rates.ratio_log2 = 3;
  others[11].seed = 2;
  others[12].judge = Judge::test;
  std::set<std::string> keys{base.key()};
  for (const Trial& trial : others) {
    keys.insert(trial.key());
  }
  CHECK(keys.size() == others.size() + 1);
  CHECK(small_trial().key() == base.key());
}

// The independent way: the library's own layers and training step over the whole network, with the
// product of the frozen weight computed in each step.
TEST_CASE("a trial over cached products is the training of the whole network") {
  const Problem& problem = small_problem();
  for (const bool b_random : {false, true}) {
    Trial trial = small_trial();
    trial.training.b_random = b_random;
    const Outcome outcome = lab::run_trial(problem, trial);

    std::mt19937_64 generator(2 * trial.seed);
    const Index n = problem.width();
    loraplus::Sequential network{
        loraplus::LoraLinear{
            loraplus::SharedWeight<float>(problem.layer->weight(), problem.layer->bias()),
            {.rank = 3,
             .alpha = 3,
             .initialization = b_random ? loraplus::Initialization::b_uniform
                                        : loraplus::Initialization::a_uniform},
            generator},
        loraplus::ActivationLayer<float>(loraplus::Activation::relu, n),
        loraplus::FrozenLinear{
            loraplus::SharedWeight<float>(Matrix<float>(problem.head.transpose()))}};
    loraplus::LoraPlus optimizer(loraplus::Adam{.learning_rate = trial.rates.a(), .epsilon = 0},
                                 {.ratio = trial.rates.ratio()}, network);
    loraplus::TrainingStep<decltype(network), loraplus::MeanSquaredError> step(
        network, problem.train.size());
    for (Index i = 0; i < trial.training.steps; ++i) {
      step(network, optimizer, problem.train.z, problem.train.values, generator);
    }
    const Matrix<float> y = loraplus::predict(network, problem.validation.z);
    const double loss = (y - problem.validation.values).cast<double>().squaredNorm() /
                        static_cast<double>(y.size());
    CAPTURE(b_random);
    CHECK(outcome.loss == Approx(loss).epsilon(1e-3));
    CHECK(outcome.loss < 0.9 * problem.loss_before);  // it learns
    CHECK_FALSE(outcome.diverged);
  }
}

TEST_CASE("a trial repeats itself bit for bit, on one thread or on many") {
  std::vector<Trial> trials;
  for (const Rule rule : {Rule::adam, Rule::adamw, Rule::sgd, Rule::momentum}) {
    for (const Method method : {Method::lora, Method::lora_fa, Method::riemannian, Method::full}) {
      Trial trial = small_trial();
      trial.training.rule = rule;
      trial.training.method = method;
      trial.training.batch = 48;
      trial.training.steps = 12;
      trial.curve_interval = 4;
      trials.push_back(trial);
    }
  }
  std::vector<std::vector<lab::Json>> found;
  for (const unsigned threads : {1U, 3U}) {
    test::Laboratory laboratory("trial_threads", threads);
    std::vector<lab::Job> jobs;
    for (const Trial& trial : trials) {
      jobs.push_back(lab::make_job(laboratory.problems(), trial));
    }
    found.push_back(laboratory.runner().run("test", jobs));
  }
  CHECK(found[0] == found[1]);
  for (const auto& json : found[0]) {
    const Outcome outcome = lab::read_outcome(json);
    CHECK(std::isfinite(outcome.loss));
    CHECK(outcome.curve.size() == 3);
    CHECK(outcome.curve.back() == outcome.loss);
  }
}

TEST_CASE("every method learns at a fitting rate") {
  const Problem& problem = small_problem();
  struct Case {
    Method method;
    Rule rule;
    double g_log2;
  };
  for (const Case& c : {Case{Method::lora, Rule::adam, -5},
                        {Method::lora_fa, Rule::adam, -5},
                        {Method::riemannian, Rule::adam, -5},
                        {Method::full, Rule::adam, -7},
                        {Method::lora, Rule::momentum, -2}}) {
    Trial trial = small_trial();
    trial.training.method = c.method;
    trial.training.rule = c.rule;
    trial.training.steps = 60;
    trial.rates = {c.g_log2, 0};
    CAPTURE(lab::name_of(c.method), lab::name_of(c.rule));
    CHECK(lab::run_trial(problem, trial).loss < 0.9 * problem.loss_before);
  }
}

TEST_CASE("what diverges is counted, with the loss that it is capped at") {
  const Problem& problem = small_problem();
  Trial trial = small_trial();
  trial.curve_interval = 10;
  for (const double g_log2 : {60.0, 100.0}) {
    trial.rates = {g_log2, 0};
    const Outcome outcome = lab::run_trial(problem, trial);
    CAPTURE(g_log2);
    CHECK(outcome.diverged);
    CHECK(outcome.loss == lab::divergence_factor * problem.loss_before);
    for (const double loss : outcome.curve) {
      CHECK(std::isfinite(loss));
    }
  }
}

TEST_CASE("under Adam a ratio and a rescaled initialisation are one trial, bit for bit") {
  const Problem& problem = small_problem();
  for (const bool b_random : {false, true}) {
    for (const int ratio_log2 : {-2, 2, 4, 8}) {
      Trial by_ratio = small_trial();
      by_ratio.training.b_random = b_random;
      by_ratio.rates.ratio_log2 = ratio_log2;
      Trial by_scale = by_ratio;
      by_scale.rates.ratio_log2 = 0;
      by_scale.training.init_log2 = (b_random ? -1 : 1) * ratio_log2 / 2;
      CAPTURE(b_random, ratio_log2);
      CHECK(lab::run_trial(problem, by_ratio).loss == lab::run_trial(problem, by_scale).loss);
    }
  }
}

TEST_CASE("the problems of the synthetic teacher have one task at every width") {
  const Problem& narrow = small_problem();
  const Problem wide = lab::make_teacher_problem({.task = "teacher", .width = 60, .seed = 2});
  CHECK(test::same_bits(narrow.train.values, wide.train.values));
  CHECK(test::same_bits(narrow.test.values, wide.test.values));
  CHECK(std::abs(narrow.train.values.mean()) < 1e-4F);
  CHECK(narrow.train.values.squaredNorm() / 256 == Approx(1).epsilon(1e-3));
  CHECK_FALSE(narrow.train.values.leftCols(100) == narrow.validation.values.leftCols(100));
  CHECK(narrow.loss_before == Approx(1).epsilon(0.3));  // the head is small: it predicts about 0
}

TEST_CASE("a network for images is trained, frozen and cached") {
  const auto folder = std::filesystem::path(RATIO_LAB_FOLDER) / "images";
  test::make_idx_data(folder);  // 270 to train on, 60 to adapt on, 30 to validate, 60 to test
  lab::Problems problems(folder.string());
  for (const bool mup : {true, false}) {
    const ProblemKey key{.task = "rotate15", .width = 16, .mup = mup, .pretrain_steps = 60};
    const auto problem = problems.get(key);
    CHECK(problems.get(key) == problem);
    CHECK(problem->train.size() == 60);
    CHECK(problem->validation.size() == 30);
    CHECK(problem->test.size() == 60);
    CHECK(problem->train.labels.size() == 60);
    CHECK(problem->train.z.minCoeff() >= 0);  // behind a relu
    const Matrix<float> p0 = (problem->layer->weight() * problem->test.z).colwise() +
                             loraplus::Vector<float>(problem->layer->bias());
    CHECK(test::relative_distance(problem->test.p0, p0) < 1e-5);
    ProblemKey other = key;
    other.task = "rotate90";
    CHECK(problems.get(other)->layer->weight() == problem->layer->weight());  // the same network
    other.seed = 2;
    CHECK_FALSE(problems.get(other)->layer->weight() == problem->layer->weight());
  }
  finetune::Options options;
  options.data = folder.string();
  const auto splits = finetune::load(options);
  for (const bool mup : {true, false}) {
    const auto network = lab::pretrain({.width = 16, .mup = mup, .pretrain_steps = 300}, splits);
    CHECK(loraplus::accuracy(network, splits.pretrain) > 0.5);
  }
  CHECK_THROWS_AS(problems.get({.task = "flip", .width = 16, .pretrain_steps = 20}),
                  std::invalid_argument);
  CHECK_THROWS_AS(lab::Problems("/nonexistent").get({.task = "invert"}), finetune::NoData);
}
