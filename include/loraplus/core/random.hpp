// SPDX-License-Identifier: MIT
//
// Random numbers that are the same on every compiler and platform. The engines of <random> are
// fixed by the standard, its distributions are not; these are. Only operations that IEEE 754
// rounds correctly are used (+ - * / sqrt fma), and a product that feeds a sum is an explicit
// fma, so a compiler has nothing left to contract. (Calls within are qualified, lest a function of
// the generator's own namespace be found instead.)
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <loraplus/core/fused_multiply_add.hpp>
#include <loraplus/core/matrix.hpp>
#include <random>
#include <span>
#include <utility>

namespace loraplus::inline v0_1 {

/// A generator of 32 or 64 uniform random bits a call, as std::mt19937_64.
template <typename Generator>
concept RandomBits = std::uniform_random_bit_generator<Generator> && Generator::min()
== 0 && (Generator::max() == std::numeric_limits<std::uint64_t>::max() ||
         Generator::max() == std::numeric_limits<std::uint32_t>::max());

/// 64 random bits: one call of the generator, or two of 32 bits, the high ones first.
template <RandomBits Generator>
std::uint64_t random_bits(Generator& generator) {
  if constexpr (Generator::max() == std::numeric_limits<std::uint32_t>::max()) {
    const std::uint64_t high = generator();
    return (high << 32U) | static_cast<std::uint64_t>(generator());
  } else {
    return generator();
  }
}

/// Uniform in [0, 1), a multiple of 2^-53.
template <RandomBits Generator>
double uniform(Generator& generator) {
  return static_cast<double>(loraplus::random_bits(generator) >> 11U) * 0x1p-53;
}

/// Uniform from low to high; high itself only by rounding.
template <RandomBits Generator>
double uniform(Generator& generator, double low, double high) {
  return detail::fused_multiply_add(high - low, loraplus::uniform(generator), low);
}

/// Uniform in 0 .. count - 1, without bias; count >= 1.
template <RandomBits Generator>
Index uniform_index(Generator& generator, Index count) {
  const auto range = static_cast<std::uint64_t>(count);
  const std::uint64_t rejected = (0 - range) % range;  // 2^64 mod count
  std::uint64_t bits = loraplus::random_bits(generator);
  while (bits < rejected) {
    bits = loraplus::random_bits(generator);
  }
  return static_cast<Index>(bits % range);
}

namespace detail {

/// The natural logarithm of a positive normal number, to about one unit in the last place. The
/// std::log of two C libraries may differ in the last bit; this one cannot.
inline double portable_log(double x) {
  constexpr double ln2 = 0x1.62e42fefa39efp-1;
  constexpr double sqrt_half = 0x1.6a09e667f3bcdp-1;
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);
  if (mantissa < sqrt_half) {
    mantissa *= 2;
    --exponent;
  }
  // log m = 2 artanh t = 2 t (1 + t^2/3 + t^4/5 + ...), |t| < 0.172
  const double t = (mantissa - 1) / (mantissa + 1);
  const double t2 = t * t;
  double series = 1.0 / 25;
  for (int denominator = 23; denominator >= 1; denominator -= 2) {
    series = detail::fused_multiply_add(series, t2, 1.0 / denominator);
  }
  return detail::fused_multiply_add(static_cast<double>(exponent), ln2, 2 * t * series);
}

}  // namespace detail

/// Standard normal: Marsaglia's polar method, of whose two numbers one is used, so that no state
/// lives outside the generator.
template <RandomBits Generator>
double normal(Generator& generator) {
  while (true) {
    const double u = loraplus::uniform(generator, -1, 1);
    const double v = loraplus::uniform(generator, -1, 1);
    const double s = detail::fused_multiply_add(u, u, v * v);
    if (s > 0 && s < 1) return u * std::sqrt(-2 * detail::portable_log(s) / s);
  }
}

/// Fills `values` in storage order with uniform numbers from low to high.
template <typename Derived, RandomBits Generator>
void fill_uniform(Eigen::PlainObjectBase<Derived>& values, Generator& generator, double low,
                  double high) {
  for (Index i = 0; i < values.size(); ++i) {
    values.data()[i] =
        static_cast<typename Derived::Scalar>(loraplus::uniform(generator, low, high));
  }
}

/// Fills `values` in storage order with normal numbers of mean 0.
template <typename Derived, RandomBits Generator>
void fill_normal(Eigen::PlainObjectBase<Derived>& values, Generator& generator,
                 double standard_deviation) {
  for (Index i = 0; i < values.size(); ++i) {
    values.data()[i] =
        static_cast<typename Derived::Scalar>(standard_deviation * loraplus::normal(generator));
  }
}

/// Fisher and Yates's shuffle; std::shuffle may differ between standard libraries.
template <typename T, RandomBits Generator>
void shuffle(std::span<T> values, Generator& generator) {
  for (auto last = static_cast<Index>(values.size()) - 1; last > 0; --last) {
    const Index chosen = loraplus::uniform_index(generator, last + 1);
    std::swap(values[static_cast<std::size_t>(last)], values[static_cast<std::size_t>(chosen)]);
  }
}

}  // namespace loraplus
