// The thin products of an adapter, ours and as plain Eigen expressions. A' (in x r) and B (out x r)
// lie in memory alike, so each row of figures serves the two products that its name gives.
#include <loraplus/kernels/reference.hpp>

#include "counters.hpp"

namespace {

using namespace loraplus;
using bench::random_batch;

/// The operands of one product: F rows x r, x rows x n, h r x n.
struct Operands {
  Matrix<float> f, x, h;

  Operands(Index rows, Index r, Index n)
      : f(random_batch(rows, r)), x(random_batch(rows, n)), h(random_batch(r, n)) {}
};

template <typename Product>
void measure(benchmark::State& state, Product product) {
  const Index rows = state.range(0), r = state.range(1), n = state.range(2);
  Operands operands(rows, r, n);
  for (auto _ : state) {
    product(operands);
    benchmark::ClobberMemory();
  }
  const auto count = static_cast<double>(rows * r * n);
  bench::count(state, count, 4 * static_cast<double>(rows * n),
               4 * static_cast<double>(operands.f.size()));
}

constexpr float s = 0.5F;  // alpha / r; its value costs nothing

template <typename Product>
void add(const char* name, Product product) {
  benchmark::RegisterBenchmark(name, [=](benchmark::State& state) { measure(state, product); })
      ->ArgNames({"rows", "r", "n"})
      ->ArgsProduct({{256, 1024, 3072}, {1, 4, 8, 16, 64}, {8, 128}});
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  Eigen::setNbThreads(1);
  namespace reference = kernels::reference;
  add("h=sAx,z=sB'dy/ours", [](Operands& o) { kernels::project<float>(s, o.f, o.x, o.h); });
  add("h=sAx,z=sB'dy/eigen", [](Operands& o) { reference::project(s, o.f, o.x, o.h); });
  add("y+=Bh,dx+=A'z/ours", [](Operands& o) { kernels::expand<float>(o.f, o.h, o.x); });
  add("y+=Bh,dx+=A'z/eigen", [](Operands& o) { reference::expand(o.f, o.h, o.x); });
  add("dB+=dyh',dA+=zx'/ours", [](Operands& o) { kernels::accumulate<float>(o.x, o.h, o.f); });
  add("dB+=dyh',dA+=zx'/eigen", [](Operands& o) { reference::accumulate(o.x, o.h, o.f); });
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
