// A training step: one layer (forward, backward with dx, AdamW) and the main job's network,
// 784-256-256-10. "of_peak" counts the multiply-adds of the cheapest plan, so whatever a variant
// does beside them shows. The learning rates are zero: a model that learned the one batch by heart
// would end in denormal numbers, which are slow.
#include "counters.hpp"
#include "eigen_lora.hpp"

namespace {

using namespace loraplus;
using bench::random_batch;

constexpr Index rank = 8;

struct Shape {
  Index out;
  Index in;
};

/// The multiply-adds of the products of a LoRA step in the cheaper plan, with dx or without.
double lora_multiply_adds(Shape shape, Index n, bool with_dx = true) {
  const auto i = static_cast<double>(shape.in), o = static_cast<double>(shape.out);
  const auto s = static_cast<double>(n), r = static_cast<double>(rank);
  const double frozen = (with_dx ? 2 : 1) * s * i * o;
  const double low_rank = 2 * s * r * (i + o);  // h, z, dA and dB
  const double riding = s * r * (with_dx ? i + o : o);
  return frozen + low_rank + std::min(riding, r * i * o);
}

/// Both passes read W; held: W with what it is packed into, and each parameter with its gradient
/// and two moments.
template <typename Model>
void count_step(benchmark::State& state, const Model& model, double multiply_adds, Shape shape,
                double weight_bytes) {
  bench::count(state, multiply_adds, 8.0 * static_cast<double>(shape.in * shape.out),
               weight_bytes + 16.0 * static_cast<double>(parameter_count(model)));
}

template <FrozenWeight Weight>
LoraLinear<Weight> make_layer(Weight weight, Plan plan) {
  std::mt19937_64 generator{1};
  const Index out = weight.out_features(), in = weight.in_features();
  LoraLinear<Weight> layer(std::move(weight), {.rank = rank}, generator);
  layer.set_factors(random_batch(rank, in), random_batch(out, rank));
  layer.set_plan(plan);
  return layer;
}

/// A step of a layer of the library.
template <Layer L, typename Optimizer>
void run_layer(benchmark::State& state, Shape shape, L& layer, Optimizer& optimizer,
               double multiply_adds, double weight_bytes) {
  const Index n = state.range(0);
  auto cache = layer.make_cache(n);
  const auto x = random_batch(shape.in, n), dy = random_batch(shape.out, n);
  Matrix<float> y(shape.out, n), dx(shape.in, n);
  for (auto _ : state) {
    layer.forward(x, y, cache);
    layer.backward(x, dy, dx, cache);
    optimizer.step(layer);
    benchmark::ClobberMemory();
  }
  count_step(state, layer, multiply_adds, shape, weight_bytes);
}

void lora(benchmark::State& state, Shape shape, Copies copies, Plan plan) {
  const PackedWeight<float> weight(random_batch(shape.out, shape.in), {}, {copies});
  auto layer = make_layer(weight, plan);
  Optimizer optimizer{AdamW{.learning_rate = 0}, layer};
  const auto bytes = static_cast<double>(weight.bytes()) * (plan == Plan::merged ? 2 : 1);
  run_layer(state, shape, layer, optimizer, lora_multiply_adds(shape, state.range(0)), bytes);
}

/// The same by two threads: compare real times.
void lora_two_threads(benchmark::State& state, Shape shape) {
  Eigen::setNbThreads(2);
  lora(state, shape, Copies::two, Plan::unmerged);
  Eigen::setNbThreads(1);
}

void lora_plus(benchmark::State& state, Shape shape, double ratio) {
  const PackedWeight<float> weight(random_batch(shape.out, shape.in));
  auto layer = make_layer(weight, Plan::unmerged);
  LoraPlus optimizer{AdamW{.learning_rate = 0}, {.ratio = ratio}, layer};
  run_layer(state, shape, layer, optimizer, lora_multiply_adds(shape, state.range(0)),
            static_cast<double>(weight.bytes()));
}

void lora_unpacked(benchmark::State& state, Shape shape) {
  const Matrix<float> w = random_batch(shape.out, shape.in);
  auto layer = make_layer(WeightView{w}, Plan::automatic);
  Optimizer optimizer{AdamW{.learning_rate = 0}, layer};
  run_layer(state, shape, layer, optimizer, lora_multiply_adds(shape, state.range(0)),
            4.0 * static_cast<double>(w.size()));
}

void full_fine_tuning(benchmark::State& state, Shape shape) {
  Linear<float> layer(random_batch(shape.out, shape.in));
  Optimizer optimizer{AdamW{.learning_rate = 0}, layer};
  const auto count = 3.0 * static_cast<double>(shape.in * shape.out * state.range(0));
  run_layer(state, shape, layer, optimizer, count, 0);
}

void eigen_lora(benchmark::State& state, Shape shape, bench::Order order) {
  const Index n = state.range(0);
  bench::EigenLora layer(random_batch(shape.out, shape.in), rank, n, order);
  Optimizer optimizer{AdamW{.learning_rate = 0}, layer};
  const auto x = random_batch(shape.in, n), dy = random_batch(shape.out, n);
  Matrix<float> y(shape.out, n), dx(shape.in, n);
  for (auto _ : state) {
    layer.forward(x, y);
    layer.backward(x, dy, dx);
    optimizer.step(layer);
    benchmark::ClobberMemory();
  }
  const double matrices = order == bench::Order::nntrainer ? 2 : 1;
  count_step(state, layer, lora_multiply_adds(shape, n), shape,
             4.0 * matrices * static_cast<double>(shape.in * shape.out));
}

constexpr Index input = 784, hidden = 256, classes = 10;

std::vector<int> labels(Index n) {
  std::vector<int> made;
  for (Index i = 0; i < n; ++i) {
    made.push_back(static_cast<int>(i % classes));
  }
  return made;
}

Mlp<Linear<float>> network() {
  std::mt19937_64 generator{1};
  return make_mlp<float>({input, hidden, hidden, classes}, Activation::relu, generator);
}

/// Multiply-adds of a batch: forward, and backward without dx at the first layer.
double mlp_full_multiply_adds(Index n) {
  const Index inner = hidden * hidden + hidden * classes;
  return static_cast<double>(n * (2 * input * hidden + 3 * inner));
}

/// Multiply-adds of a batch.
double mlp_lora_multiply_adds(Index n) {
  return lora_multiply_adds({hidden, input}, n, false) + lora_multiply_adds({hidden, hidden}, n) +
         lora_multiply_adds({classes, hidden}, n);
}

template <typename Model, typename Optimizer>
void train_mlp(benchmark::State& state, Model& model, Optimizer& optimizer, double multiply_adds,
               double weight_bytes) {
  const Index n = state.range(0);
  std::mt19937_64 generator{1};
  TrainingStep step(model, n);
  const auto x = random_batch(input, n);
  const auto target = labels(n);
  for (auto _ : state) {
    benchmark::DoNotOptimize(step(model, optimizer, x, target, generator));
  }
  const Index weights = input * hidden + hidden * hidden + hidden * classes;
  bench::count(state, multiply_adds, 4.0 * static_cast<double>(weights),
               weight_bytes + 16.0 * static_cast<double>(parameter_count(model)));
}

void mlp_full_fine_tuning(benchmark::State& state) {
  auto model = network();
  Optimizer optimizer{AdamW{.learning_rate = 0}, model};
  train_mlp(state, model, optimizer, mlp_full_multiply_adds(state.range(0)), 0);
}

template <typename MakeOptimizer>
void mlp_lora(benchmark::State& state, MakeOptimizer make_optimizer) {
  std::mt19937_64 generator{1};
  const auto frozen = freeze(network());
  auto model = adapt(frozen, {.lora = {.rank = rank}}, generator);
  double bytes = 0;
  for (const auto& stage : model.stages()) {
    const auto& layer = *stage.layer.get_if<LoraLinear<PackedWeight<float>>>();
    const bool is_merged = layer.plan(state.range(0)) == Plan::merged;  // into another copy
    bytes += static_cast<double>(layer.weight().bytes()) * (is_merged ? 2 : 1);
  }
  auto optimizer = make_optimizer(model);
  train_mlp(state, model, optimizer, mlp_lora_multiply_adds(state.range(0)), bytes);
}

template <typename Function, typename... Arguments>
auto* add(const std::string& name, Function function, Arguments... arguments) {
  return benchmark::RegisterBenchmark(
             name.c_str(), [=](benchmark::State& state) { function(state, arguments...); })
      ->ArgName("n");
}

void add_layers(Shape shape) {
  const std::string size = "/" + std::to_string(shape.out) + "x" + std::to_string(shape.in);
  benchmark::internal::Benchmark* const all[] = {
      add("lora" + size, lora, shape, Copies::two, Plan::unmerged),
      add("lora_two_threads" + size, lora_two_threads, shape)->UseRealTime(),
      add("lora_plus" + size, lora_plus, shape, 16.0),
      add("lora_merged_plan" + size, lora, shape, Copies::two, Plan::merged),
      add("lora_one_copy" + size, lora, shape, Copies::one, Plan::unmerged),
      add("lora_unpacked" + size, lora_unpacked, shape),
      add("full_fine_tuning" + size, full_fine_tuning, shape),
      add("eigen_plain" + size, eigen_lora, shape, bench::Order::plain),
      add("eigen_unsloth_order" + size, eigen_lora, shape, bench::Order::unsloth),
      add("eigen_nntrainer_order" + size, eigen_lora, shape, bench::Order::nntrainer)};
  for (auto* made : all) {
    for (const Index n : {1, 8, 32, 128, 512}) {
      made->Arg(n);
    }
  }
}

/// What a ratio costs: nothing, whatever it is.
void add_ratios() {
  for (const int ratio : {1, 4, 16, 64}) {
    add("lora_plus_ratio_" + std::to_string(ratio) + "/1024x1024", lora_plus, Shape{1024, 1024},
        static_cast<double>(ratio))
        ->Arg(8)
        ->Arg(128);
  }
}

void add_mlps() {
  const auto adam = [](auto& model) { return Optimizer{AdamW{.learning_rate = 0}, model}; };
  const auto plus = [](auto& model) {
    return LoraPlus{AdamW{.learning_rate = 0}, {.ratio = 16}, model};
  };
  const auto with_lora = [=](benchmark::State& state) { mlp_lora(state, adam); };
  const auto with_lora_plus = [=](benchmark::State& state) { mlp_lora(state, plus); };
  benchmark::internal::Benchmark* const all[] = {add("mlp_full_fine_tuning", mlp_full_fine_tuning),
                                                 add("mlp_lora", with_lora),
                                                 add("mlp_lora_plus", with_lora_plus)};
  for (auto* made : all) {
    made->Arg(1)->Arg(64)->Arg(256);
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  Eigen::setNbThreads(1);
  for (const Shape shape : {Shape{256, 256}, {256, 784}, {1024, 1024}, {3072, 768}, {4096, 4096}}) {
    add_layers(shape);
  }
  add_ratios();
  add_mlps();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
