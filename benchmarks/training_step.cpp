// The training step of the main job's network, 784-256-256-10, with AdamW: full fine-tuning, LoRA
// and LoRA+ on all three layers, and a LoRA layer by itself, beside its products written as bare
// Eigen expressions on matrices made before. "flops" counts two for each multiply-add of the
// products alone, so what the step does beside them shows as a lower rate. The learning rates are
// zero: a model that learned the one batch by heart would end in denormal numbers, which are slow.
#include <benchmark/benchmark.h>

#include <loraplus/loraplus.hpp>

namespace {

using namespace loraplus;

constexpr Index input = 784, hidden = 256, classes = 10, rank = 8;

Matrix<float> random_batch(Index rows, Index cols, unsigned seed) {
  std::mt19937_64 generator{seed};
  Matrix<float> batch(rows, cols);
  fill_normal(batch, generator, 1);
  return batch;
}

std::vector<int> labels(Index n) {
  std::vector<int> made;
  for (Index i = 0; i < n; ++i) {
    made.push_back(static_cast<int>(i % classes));
  }
  return made;
}

void count_flops(benchmark::State& state, Index multiply_adds) {
  state.counters["flops"] = benchmark::Counter(2.0 * static_cast<double>(multiply_adds),
                                               benchmark::Counter::kIsIterationInvariantRate);
}

/// Multiply-adds a sample of all layers: forward, and backward without dx at the first layer.
Index full_multiply_adds() {
  const Index inner = hidden * hidden + hidden * classes;
  return 2 * input * hidden + 3 * inner;
}

Index lora_multiply_adds() {
  const Index inner = hidden * hidden + hidden * classes;
  const Index low_rank = 3 * rank * (input + hidden + 2 * hidden + hidden + classes) - rank * input;
  return input * hidden + 2 * inner + low_rank;
}

template <typename Model, typename MakeOptimizer>
void train(benchmark::State& state, Model model, MakeOptimizer make_optimizer,
           Index multiply_adds) {
  const Index n = state.range(0);
  std::mt19937_64 generator{1};
  auto optimizer = make_optimizer(model);
  TrainingStep step(model, n);
  const auto x = random_batch(input, n, 2);
  const auto target = labels(n);
  for (auto _ : state) {
    benchmark::DoNotOptimize(step(model, optimizer, x, target, generator));
  }
  count_flops(state, n * multiply_adds);
}

Mlp<Linear<float>> network() {
  std::mt19937_64 generator{1};
  return make_mlp<float>({input, hidden, hidden, classes}, Activation::relu, generator);
}

auto adapted_network() {
  std::mt19937_64 generator{1};
  return adapt(network(), {.lora = {.rank = rank}}, generator);
}

void full_fine_tuning(benchmark::State& state) {
  train(
      state, network(),
      [](auto& model) {
        return Optimizer{AdamW{.learning_rate = 0}, model};
      },
      full_multiply_adds());
}

void lora(benchmark::State& state) {
  train(
      state, adapted_network(),
      [](auto& model) {
        return Optimizer{AdamW{.learning_rate = 0}, model};
      },
      lora_multiply_adds());
}

void lora_plus(benchmark::State& state) {
  train(
      state, adapted_network(),
      [](auto& model) {
        return LoraPlus{AdamW{.learning_rate = 0}, {.ratio = 16}, model};
      },
      lora_multiply_adds());
}

/// Forward and backward of one layer, dx included.
void lora_layer(benchmark::State& state) {
  const Index n = state.range(0), width = state.range(1);
  std::mt19937_64 generator{1};
  LoraLinear layer{SharedWeight<float>(random_batch(width, width, 1)), {.rank = rank}, generator};
  auto cache = layer.make_cache(n);
  const auto x = random_batch(width, n, 2), dy = random_batch(width, n, 3);
  Matrix<float> y(width, n), dx(width, n);
  for (auto _ : state) {
    layer.forward(x, y, cache);
    layer.backward(x, dy, dx, cache);
    benchmark::ClobberMemory();
  }
  count_flops(state, n * (2 * width * width + 6 * rank * width));
}

/// The same eight products, and nothing else.
void lora_layer_bare_eigen(benchmark::State& state) {
  const Index n = state.range(0), width = state.range(1);
  const auto w = random_batch(width, width, 1), x = random_batch(width, n, 2),
             dy = random_batch(width, n, 3), b = random_batch(width, rank, 5);
  const RowMajorMatrix<float> a = random_batch(rank, width, 4);
  Matrix<float> y(width, n), dx(width, n), h(rank, n), z(rank, n), grad_b = b;
  RowMajorMatrix<float> grad_a = a;
  for (auto _ : state) {
    y.noalias() = w * x;
    h.noalias() = a * x;
    y.noalias() += b * h;
    z.noalias() = b.transpose() * dy;
    grad_b.noalias() += dy * h.transpose();
    grad_a.noalias() += z * x.transpose();
    dx.noalias() = w.transpose() * dy;
    dx.noalias() += a.transpose() * z;
    benchmark::ClobberMemory();
  }
  count_flops(state, n * (2 * width * width + 6 * rank * width));
}

BENCHMARK(full_fine_tuning)->ArgName("n")->Arg(1)->Arg(64)->Arg(256);
BENCHMARK(lora)->ArgName("n")->Arg(1)->Arg(64)->Arg(256);
BENCHMARK(lora_plus)->ArgName("n")->Arg(1)->Arg(64)->Arg(256);
BENCHMARK(lora_layer)->ArgNames({"n", "width"})->ArgsProduct({{8, 128}, {256, 1024}});
BENCHMARK(lora_layer_bare_eigen)->ArgNames({"n", "width"})->ArgsProduct({{8, 128}, {256, 1024}});

}  // namespace
