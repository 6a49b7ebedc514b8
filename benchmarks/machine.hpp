// What the machine can do, measured in the same process.
#pragma once

#include <algorithm>
#include <chrono>
#include <loraplus/loraplus.hpp>

namespace bench {

using loraplus::Index;
using loraplus::Matrix;

/// Uniform coefficients in [-1, 1], rows x cols.
inline Matrix<float> random_batch(Index rows, Index cols) {
  return Matrix<float>::Random(rows, cols);
}

/// A value that the compiler knows nothing of from here on, and must have made until here.
template <typename Value>
inline void opaque(Value& value) {
  asm volatile("" : "+m"(value) : : "memory");
}

/// The best rate of several short runs: `amount` per second of `work`.
template <typename Work>
double best_rate(int runs, double amount, Work&& work) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  for (int run = 0; run < runs; ++run) {
    const auto start = Clock::now();
    work();
    const std::chrono::duration<double> time = Clock::now() - start;
    best = std::max(best, amount / time.count());
  }
  return best;
}

/// Chains of multiply-adds of float in registers. A function by itself, as sum_streams: inlined
/// into a larger one, g++ may keep some of the registers in memory.
// latency x units are 8 to 10; no more than LORAPLUS_UNROLL writes out with g++
constexpr int chains = loraplus::kernels::vector_registers >= 32 ? 16 : 12;
[[gnu::noinline]] inline void multiply_add_chains(Index steps, float small, float* to) {
  namespace kernels = loraplus::kernels;
  kernels::Packet<float> sums[chains];
  LORAPLUS_UNROLL
  for (int i = 0; i < chains; ++i) {
    sums[i] = kernels::broadcast(static_cast<float>(i));
  }
  const auto factor = kernels::broadcast(small);
  for (Index step = 0; step < steps; ++step) {
    LORAPLUS_UNROLL
    for (int i = 0; i < chains; ++i) {
      sums[i] = kernels::multiply_add(sums[i], factor, sums[i]);
      kernels::keep_in_register<float>(sums[i]);
    }
  }
  LORAPLUS_UNROLL
  for (int i = 0; i < chains; ++i) {
    kernels::store(to + i * kernels::packet_size<float>, sums[i]);
  }
}

/// Multiply-adds of float from registers, two operations each, on one thread.
inline double peak_flops() {
  constexpr Index width = loraplus::kernels::packet_size<float>, steps = 1 << 20;
  constexpr double flops = 2.0 * chains * static_cast<double>(width * steps);
  static const double peak = best_rate(20, flops, [] {
    float small = 1e-9F, sink[chains * width];
    opaque(small);  // else clang knows what comes out
    multiply_add_chains(steps, small, sink);
    opaque(sink);
  });
  return peak;
}

/// Sums `size` coefficients, read as `Streams` consecutive parts side by side.
template <int Streams>
[[gnu::noinline]] float sum_streams(const float* data, Index size) {
  namespace kernels = loraplus::kernels;
  constexpr int unrolled = 8 / Streams;
  constexpr Index width = kernels::packet_size<float>;
  const Index part = size / Streams;
  kernels::Packet<float> sums[8];
  LORAPLUS_UNROLL
  for (int i = 0; i < 8; ++i) {
    sums[i] = kernels::broadcast(0.0F);
  }
  const auto one = kernels::broadcast(1.0F);
  for (Index at = 0; at < part; at += unrolled * width) {
    LORAPLUS_UNROLL
    for (int i = 0; i < 8; ++i) {
      const float* from = data + i % Streams * part + at + i / Streams * width;
      sums[i] = kernels::multiply_add(kernels::load(from), one, sums[i]);
    }
  }
  float totals[8];
  kernels::store_sums<8>(sums, 1.0F, false, totals);
  return *std::max_element(totals, totals + 8);
}

/// Bytes a second that one thread reads from memory: 256 MiB, as one stream or as four, whichever
/// is faster.
inline double read_bandwidth() {
  static const double bandwidth = [] {
    const loraplus::Vector<float> data = loraplus::Vector<float>::Ones(Index{1} << 26);
    const double bytes = static_cast<double>(data.size()) * sizeof(float);
    const auto measure = [&](auto sum) {
      return best_rate(8, bytes, [&] {
        float total = sum(data.data(), data.size());
        opaque(total);
      });
    };
    return std::max(measure(sum_streams<1>), measure(sum_streams<4>));
  }();
  return bandwidth;
}

}  // namespace bench
