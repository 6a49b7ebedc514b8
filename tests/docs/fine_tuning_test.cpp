// The blocks of docs/fine-tuning.md.
#include <iostream>
#include <loraplus/loraplus.hpp>
#include <tuple>

#include "support/catch.hpp"
#include "support/docs.hpp"
#include "support/matrices.hpp"

namespace docs_fine_tuning {

using namespace loraplus;

LabelledData<float> make_data(Index samples, unsigned seed) {
  LabelledData<float> data{test::random_matrix<float>(5, samples, seed), {}};
  for (Index i = 0; i < samples; ++i) {
    Index largest = 0;
    data.inputs.col(i).head(3).maxCoeff(&largest);
    data.labels.push_back(static_cast<int>(largest));
  }
  return data;
}

TEST_CASE("docs/fine-tuning.md: the whole of it") {
  std::mt19937_64 rng{1};
  const auto trained = make_mlp<float>({5, 8, 3}, Activation::relu, rng);
  const auto data = make_data(20, 1);
  auto network = adapt(trained, {.lora = {.rank = 8, .alpha = 16}}, rng);
  LoraPlus optimizer{AdamW{.learning_rate = 2e-4},
                     {.ratio = 4},
                     network,
                     {.schedule = {.decay = Decay::cosine, .warmup_steps = 10, .total_steps = 250},
                      .clip_norm = 1,
                      .accumulation = 4}};
  fit<SoftmaxCrossEntropy>(network, optimizer, data, {.steps = 1000, .batch = 64}, rng);
  CHECK(optimizer.steps() == 250);
  CHECK(optimizer.options().schedule.factor(250) == 0);
}

TEST_CASE("docs/fine-tuning.md: layers, ranks, overrides and rules") {
  std::mt19937_64 rng{1};
  const auto frozen = freeze(make_mlp<float>({5, 8, 3}, Activation::relu, rng));
  auto network = adapt(frozen, {}, rng);
  const auto& wide = frozen.layer("fc1").weight();
  network.layer("fc1") = LoraLinear<PackedWeight<float>>(wide, {.rank = 16, .alpha = 16}, rng);
  CHECK(network.layer("fc1").get_if<LoraLinear<PackedWeight<float>>>()->rank() == 16);
  {
    auto biased = adapt(frozen, {.lora = {.rank = 8, .bias = BiasMode::lora_only}}, rng);
    LoraPlus optimizer{AdamW{.learning_rate = 2e-4},
                       {.ratio = 4},
                       biased,
                       {.overrides = {{.role = Role::bias, .learning_rate = 1e-4},
                                      {.parameter = "fc1.lora_A", .weight_decay = 0}}}};
    CHECK(optimizer.group_of("fc1.lora_A").weight_decay == 0);
    CHECK(optimizer.group_of("fc2.bias").learning_rate == 1e-4);
  }
  Optimizer riemannian{Riemannian{AdamW{.learning_rate = 1e-3}, 1e-2}, network};
  CHECK(riemannian.rule().regularization == 1e-2);
}

TEST_CASE("docs/fine-tuning.md: a search") {
  std::mt19937_64 rng{1};
  const auto frozen = freeze(make_mlp<float>({5, 8, 3}, Activation::relu, rng));
  const auto training = make_data(100, 1), validation = make_data(100, 2);
  double best_rate = 0, best = 0;
  for (double rate = 5e-4; rate < 2e-2; rate *= 2) {
    std::mt19937_64 same(1);
    auto candidate = adapt(frozen, {.lora = {.rank = 8, .alpha = 16}}, same);
    Optimizer optimizer{AdamW{.learning_rate = rate}, candidate};
    fit<SoftmaxCrossEntropy>(candidate, optimizer, training, {.steps = 100}, same);
    const double found = accuracy(candidate, validation);
    if (found > best) std::tie(best, best_rate) = std::pair{found, rate};
  }
  CHECK(best_rate > 5e-4);
  CHECK(best > 0.6);
}

TEST_CASE("docs/fine-tuning.md: recommended rates") {
  const test::Printed printed;
  const auto rates =
      recommend_rates({.rate_a = 4e-3, .rate_b = 4e-3, .width = 256, .adapter = {.rank = 8}},
                      {.rank = 16, .alpha = 16}, 4096);
  std::cout << rates.rate_a << ", " << rates.rate_b << " by " << rates.source
            << "; not known: " << rates.unknown << '\n';
  CHECK(printed.text().find("; not known: ") != std::string::npos);
  CHECK(recommend_rates({.rank = 16, .alpha = 16}, 4096).rate_a > 0);
}

}  // namespace docs_fine_tuning
