// The counters of a benchmark, that say how much of what the machine can do it reaches.
#pragma once

#include <benchmark/benchmark.h>

#include "machine.hpp"

namespace bench {

/// Counters of a benchmark.
/// @param multiply_adds of an iteration
/// @param bytes_read that an iteration must read from memory at least
/// @param bytes_held by the weights and what belongs to them
inline void count(benchmark::State& state, double multiply_adds, double bytes_read,
                  double bytes_held) {
  using Counter = benchmark::Counter;
  constexpr auto rate = Counter::kIsIterationInvariantRate;
  state.counters["GFLOP/s"] = Counter(2e-9 * multiply_adds, rate);
  state.counters["of_peak"] = Counter(2 * multiply_adds / peak_flops(), rate);
  state.counters["of_read_bandwidth"] = Counter(bytes_read / read_bandwidth(), rate);
  state.counters["bytes_held"] = Counter(bytes_held, Counter::kDefaults, Counter::kIs1024);
}

}  // namespace bench
