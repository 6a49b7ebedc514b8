// y = W x and dx = W' dy: packed once (two copies, one copy) beside Eigen's product of a plain
// matrix. The rate of one copy is told for both directions, one of which is that of two copies.
#include "counters.hpp"

namespace {

using namespace loraplus;
using bench::random_batch;

struct Shape {
  Index out;
  Index in;
};

/// Runs `product` on n samples of `from` features to `to` features.
template <typename Product>
void measure(benchmark::State& state, Index from, Index to, double bytes_held, Product&& product) {
  const Index n = state.range(0);
  const auto x = random_batch(from, n);
  Matrix<float> y(to, n);
  for (auto _ : state) {
    product(x, y);
    benchmark::ClobberMemory();
  }
  const auto weights = static_cast<double>(from * to);
  bench::count(state, weights * static_cast<double>(n), 4 * weights, bytes_held);
}

void packed(benchmark::State& state, Shape shape, Copies copies, bool forward) {
  const PackedWeight<float> weight(random_batch(shape.out, shape.in), {}, {copies});
  const auto held = static_cast<double>(weight.bytes());
  if (forward) {
    measure(state, shape.in, shape.out, held,
            [&](const auto& x, auto& y) { weight.forward(x, y); });
  } else {
    measure(state, shape.out, shape.in, held,
            [&](const auto& dy, auto& dx) { weight.backward(dy, dx); });
  }
}

void eigen(benchmark::State& state, Shape shape, bool forward) {
  const Matrix<float> w = random_batch(shape.out, shape.in);
  const double held = 4.0 * static_cast<double>(w.size());
  if (forward) {
    measure(state, shape.in, shape.out, held, [&](const auto& x, auto& y) { y.noalias() = w * x; });
  } else {
    measure(state, shape.out, shape.in, held,
            [&](const auto& dy, auto& dx) { dx.noalias() = w.transpose() * dy; });
  }
}

template <typename Function, typename... Arguments>
void add(const std::string& name, Function function, Arguments... arguments) {
  auto* made = benchmark::RegisterBenchmark(
      name.c_str(), [=](benchmark::State& state) { function(state, arguments...); });
  made->ArgName("n");
  for (const Index n : {1, 4, 8, 32, 128, 512}) {
    made->Arg(n);
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  Eigen::setNbThreads(1);
  for (const Shape shape : {Shape{256, 256}, {256, 784}, {1024, 1024}, {3072, 768}, {4096, 4096}}) {
    const std::string size = std::to_string(shape.out) + "x" + std::to_string(shape.in) + "/";
    for (const bool forward : {true, false}) {
      const std::string direction = forward ? "forward" : "backward";
      add("packed_two/" + size + direction, packed, shape, Copies::two, forward);
      add("packed_one/" + size + direction, packed, shape, Copies::one, forward);
      add("eigen/" + size + direction, eigen, shape, forward);
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
