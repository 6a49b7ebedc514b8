// The blocks of docs/embedding.md.
#include <chrono>
#include <filesystem>
#include <iostream>
#include <loraplus/io/checkpoint.hpp>
#include <loraplus/loraplus.hpp>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/docs.hpp"
#include "support/matrices.hpp"

namespace docs_embedding {

using namespace loraplus;

class BackgroundTraining {
 public:
  BackgroundTraining(AdaptedMlp<PackedWeight<float>>& network, const LabelledData<float>& data,
                     Index batch)
      : network_(network),
        data_(data),
        optimizer_(AdamW{.learning_rate = 2e-3}, {.ratio = 4}, network),
        sampler_(data.size(), batch),
        batch_(data.make_batch(batch)),
        train_(network, batch) {}

  /// Trains until `deadline`, as far as the longest step so far lets expect. Allocates nothing.
  void run_until(std::chrono::steady_clock::time_point deadline) {
    auto now = std::chrono::steady_clock::now();
    while (now + longest_ < deadline) {
      const auto indices = sampler_.next(rng_);
      const auto samples = static_cast<Index>(indices.size());
      data_.gather(indices, batch_);
      train_(network_, optimizer_, batch_.inputs.leftCols(samples), batch_.targets(samples), rng_);
      const auto after = std::chrono::steady_clock::now();
      longest_ = std::max(longest_, after - now);
      now = after;
    }
  }

  Index steps() const { return optimizer_.steps(); }

 private:
  AdaptedMlp<PackedWeight<float>>& network_;
  const LabelledData<float>& data_;
  LoraPlus<AdamW, float> optimizer_;
  BatchSampler sampler_;
  LabelledData<float> batch_;
  TrainingStep<AdaptedMlp<PackedWeight<float>>> train_;
  std::mt19937_64 rng_{1};
  std::chrono::steady_clock::duration longest_{};
};

LabelledData<float> make_samples() {
  LabelledData<float> data{test::random_matrix<float>(5, 40, 1), std::vector<int>(40)};
  for (std::size_t i = 0; i < 40; ++i) {
    data.labels[i] = static_cast<int>(i % 3);
  }
  return data;
}

TEST_CASE("docs/embedding.md: between frames") {
  std::mt19937_64 rng{1};
  auto network = adapt(make_mlp<float>({5, 8, 3}, Activation::relu, rng), {}, rng);
  const auto samples = make_samples();
  const int frames = 2;
  BackgroundTraining training(network, samples, 16);
  for (int frame = 0; frame < frames; ++frame) {
    const auto next_frame = std::chrono::steady_clock::now() + std::chrono::milliseconds(16);
    // ... what the application does ...
    training.run_until(next_frame);
  }
  CHECK(training.steps() > 0);

  const long before = test::allocations.count;
  const Index steps = training.steps();
  Eigen::internal::set_is_malloc_allowed(false);
  training.run_until(std::chrono::steady_clock::now() + std::chrono::milliseconds(200));
  Eigen::internal::set_is_malloc_allowed(true);
  CHECK(test::allocations.count == before);
  CHECK(training.steps() > steps);
}

TEST_CASE("docs/embedding.md: memory") {
  std::mt19937_64 rng{1};
  const auto w = test::random_matrix<float>(64, 32, 1);
  const PackedWeight<float> two{w}, one{w, {}, {.copies = Copies::one}};
  CHECK(two.bytes() >= 2 * 64 * 32 * sizeof(float));
  CHECK(one.bytes() < two.bytes());
  LoraLinear layer{two, {.rank = 3}, rng};
  CHECK(parameter_count(layer) == 3 * (64 + 32));
  const Optimizer optimizer{AdamW{}, layer};
  CHECK(optimizer.state_bytes() == 2 * 3 * (64 + 32) * sizeof(float));
}

TEST_CASE("docs/embedding.md: a copy is trained and swapped in") {
  std::mt19937_64 rng{1};
  const auto frozen = freeze(make_mlp<float>({5, 8, 3}, Activation::relu, rng));
  const auto network = adapt(frozen, {}, rng);
  const auto samples = make_samples();
  MultiAdapterMlp serving(frozen);
  serving.add("current", network);

  auto copy = serving.adapted("current");  // a training thread has its own, over the same weights
  LoraPlus optimizer{AdamW{.learning_rate = 2e-3}, {.ratio = 4}, copy};
  fit<SoftmaxCrossEntropy>(copy, optimizer, samples, {.steps = 20, .batch = 16}, rng);
  serving.replace("current", copy);  // at any time, while other threads call serving.forward

  auto cache = serving.make_cache(40);
  Matrix<float> y(3, 40);
  serving.forward(samples.inputs, y, cache);
  CHECK(test::relative_distance(y, predict(copy, samples.inputs)) < 1e-6);
  CHECK(test::relative_distance(y, predict(network, samples.inputs)) > 1e-3);
}

TEST_CASE("docs/embedding.md: a step that is refused") {
  std::mt19937_64 rng{1};
  auto network = adapt(make_mlp<float>({5, 8, 3}, Activation::relu, rng), {}, rng);
  auto [x, labels] = make_samples();
  x(0, 0) = std::numeric_limits<float>::infinity();
  Optimizer optimizer{AdamW{}, network};
  TrainingStep train(network, 40);
  try {
    train(network, optimizer, x, labels, rng);
  } catch (const NonFiniteError& error) {
    std::cerr << "step skipped: " << error.what() << '\n';
    zero_gradients(network);
  }
  CHECK(optimizer.steps() == 0);
}

TEST_CASE("docs/embedding.md: a run that survives") {
  const test::InFolder folder("docs_embedding");
  const auto data = make_samples();
  for (const Index steps : {100, 150}) {
    std::mt19937_64 rng{1};
    auto network = adapt(make_mlp<float>({5, 8, 3}, Activation::relu, rng), {}, rng);
    Optimizer optimizer{AdamW{}, network};
    const FitOptions options{.steps = steps, .batch = 16};

    FitProgress progress(data.size(), options);
    if (std::filesystem::exists("run")) load_checkpoint("run", network, optimizer, rng, progress);
    fit<SoftmaxCrossEntropy>(network, optimizer, data, options, rng, progress,
                             [&](StepReport report) {
                               if (report.step % 100 == 0)
                                 save_checkpoint("run", network, optimizer, rng, progress);
                               return true;
                             });

    CHECK(optimizer.steps() == steps);
  }
  CHECK(std::filesystem::exists("run"));
}

}  // namespace docs_embedding
