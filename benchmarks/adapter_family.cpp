// What the members of the family cost beside the plain adapter: DoRA, an adapter for each sample,
// changing the active adapter, convolutions. Compare times within one run, with
// --benchmark_enable_random_interleaving=true.
#include "counters.hpp"

namespace {

using namespace loraplus;
using bench::random_batch;

constexpr Index size = 1024, rank = 8;

PackedWeight<float> square_weight() {
  return PackedWeight<float>(random_batch(size, size));
}

/// An adapter whose B is not zero.
template <FrozenWeight Weight>
Adapter<float> make_adapter(const Weight& weight, const LoraOptions& options) {
  std::mt19937_64 generator{1};
  Adapter<float> adapter(weight, options, generator);
  adapter.factors().set_factors(random_batch(options.rank, weight.in_features()),
                                random_batch(weight.out_features(), options.rank));
  return adapter;
}

/// A training step, forward, backward with dx and AdamW, at n = 128.
void step(benchmark::State& state, bool dora) {
  constexpr Index n = 128;
  std::mt19937_64 generator{1};
  LoraLinear layer{square_weight(), {.rank = rank, .dora = dora}, generator};
  layer.set_factors(random_batch(rank, size), random_batch(size, rank));
  layer.set_plan(Plan::unmerged);
  Optimizer optimizer{AdamW{.learning_rate = 0}, layer};
  auto cache = layer.make_cache(n);
  const auto x = random_batch(size, n), dy = random_batch(size, n);
  Matrix<float> y(size, n), dx(size, n);
  for (auto _ : state) {
    layer.forward(x, y, cache);
    layer.backward(x, dy, dx, cache);
    // With a rate of 0 the factors stay; a real step changes them, and with them the norm.
    if (dora) cache.adapter.magnitude->scaling = 0;
    optimizer.step(layer);
    benchmark::ClobberMemory();
  }
}

/// A forward pass of 64 samples through so many adapters, dealt out in turn.
void mixed_batch(benchmark::State& state) {
  constexpr Index n = 64;
  LoraSet set(square_weight());
  std::vector<std::string> names;
  for (Index i = 0; i < n; ++i) {
    names.push_back(std::to_string(i % state.range(0)));
  }
  for (Index i = 0; i < state.range(0); ++i) {
    set.add(std::to_string(i), make_adapter(set.weight(), {.rank = rank}));
  }
  auto cache = set.make_cache(n);
  if (state.range(0) > 1) set.assign(cache, names);
  const auto x = random_batch(size, n);
  Matrix<float> y(size, n);
  for (auto _ : state) {
    set.forward(x, y, cache);
    benchmark::ClobberMemory();
  }
}

/// Another adapter of a thousand becomes the active one.
void switch_active(benchmark::State& state) {
  LoraSet set(SharedWeight<float>(random_batch(16, 16)));
  for (Index i = 0; i < 1000; ++i) {
    set.add(std::to_string(i), make_adapter(set.weight(), {.rank = rank}));
  }
  const std::vector<std::string> first{"17"}, second{"953"};
  bool which = false;
  for (auto _ : state) {
    set.set_active((which = !which) ? first : second);
  }
}

/// A convolution of 64 channels to 64, 3 x 3, on 32 x 32: forward, and backward with dx.
void convolution(benchmark::State& state, bool adapted) {
  constexpr Index n = 4;
  const ConvGeometry geometry{.channels = 64,
                              .height = {.size = 32, .kernel = 3, .padding = 1},
                              .width = {.size = 32, .kernel = 3, .padding = 1}};
  std::mt19937_64 generator{1};
  LoraConv layer{
      PackedWeight<float>(random_batch(64, geometry.patch())), geometry, {.rank = rank}, generator};
  layer.layer().set_factors(random_batch(rank, geometry.patch()), random_batch(64, rank));
  layer.layer().set_plan(Plan::unmerged);
  layer.layer().set_enabled(adapted);
  auto cache = layer.make_cache(n);
  const auto x = random_batch(layer.in_features(), n), dy = random_batch(layer.out_features(), n);
  Matrix<float> y(layer.out_features(), n), dx(layer.in_features(), n);
  for (auto _ : state) {
    layer.forward(x, y, cache);
    layer.backward(x, dy, dx, cache);
    benchmark::ClobberMemory();
  }
  // Multiply-adds of a step beside those of the frozen convolution, 2 o k: h, y, z, dB, dA, dx.
  const double o = 64, k = static_cast<double>(geometry.patch()), r = rank;
  state.counters["counted"] = adapted ? 1 + 3 * r * (o + k) / (2 * o * k) : 1;
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  Eigen::setNbThreads(1);
  const auto add = [](const char* name, auto run) {
    return benchmark::RegisterBenchmark(name, run);
  };
  add("step/lora", [](benchmark::State& state) { step(state, false); });
  add("step/dora", [](benchmark::State& state) { step(state, true); });
  add("mixed_batch", mixed_batch)->ArgName("adapters")->Arg(1)->Arg(32);
  add("switch_active/1000_adapters", switch_active);
  add("convolution/frozen", [](benchmark::State& state) { convolution(state, false); });
  add("convolution/lora", [](benchmark::State& state) { convolution(state, true); });
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
