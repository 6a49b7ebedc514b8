// SPDX-License-Identifier: MIT
//
// a b + c in double, rounded once, on every platform. That is std::fma, but for MinGW, whose
// library computes in long double and so rounds twice where the processor's instruction is not
// used. As all that counts on its roundings, it needs a compiler that keeps to IEEE 754: no
// -ffast-math, no x87.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace loraplus::inline v0_1 {

namespace detail {

/// A result and what its rounding left out: together they are exact.
struct Exact {
  double rounded;
  double rest;
};

/// a + b (Knuth, The Art of Computer Programming 2, 4.2.2, theorem B).
inline Exact exact_sum(double a, double b) {
  const double sum = a + b;
  const double of_b = sum - a;
  return {sum, (a - (sum - of_b)) + (b - of_b)};
}

/// a b, rounded at once: no compiler may fuse it with a sum that follows.
inline double rounded_product(double a, double b) {
  const volatile double product = a * b;
  return product;
}

/// Half of the bits, and the others (Veltkamp 1968).
inline Exact split(double x) {
  const double shifted = rounded_product(0x1.0000002p+27, x);
  const double high = shifted - (shifted - x);
  return {high, x - high};
}

/// a b (Dekker 1971, A floating-point technique for extending the available precision). The
/// products of halves are exact, whether they are fused or not.
inline Exact exact_product(double a, double b) {
  const double product = rounded_product(a, b);
  const auto [a_high, a_low] = split(a);
  const auto [b_high, b_low] = split(b);
  return {product,
          a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)};
}

/// a + b; if that is no double, whichever of the two beside it ends in a one. Rounded again, to
/// fewer bits, it is rounded as the exact sum would be.
inline double sum_rounded_to_odd(double a, double b) {
  const auto [sum, rest] = exact_sum(a, b);
  const auto bits = std::bit_cast<std::uint64_t>(sum);
  if (rest == 0 || bits % 2 == 1) return sum;
  return std::bit_cast<double>((rest > 0) == (sum > 0) ? bits + 1 : bits - 1);
}

/// a b + c by additions and products alone (Boldo and Melquiond 2008, Emulation of a FMA and
/// correctly rounded sums, figure 1), where `can_be_emulated`.
inline double emulated_multiply_add(double a, double b, double c) {
  const Exact product = exact_product(a, b);
  const Exact low = exact_sum(c, product.rest);
  const Exact high = exact_sum(product.rounded, low.rounded);
  return high.rounded + sum_rounded_to_odd(low.rest, high.rest);
}

/// Whether nothing overflows or underflows on the way: a, b and c are below 2^900, and a b is
/// between 2^-900 and that. So zeros and what is not finite are not.
inline bool can_be_emulated(double a, double b, double c) {
  constexpr double limit = 0x1p+900;
  const double product = std::abs(a * b);
  return std::abs(a) < limit && std::abs(b) < limit && std::abs(c) < limit && product < limit &&
         product > 1 / limit;
}

/// a b + c, rounded once. (By MinGW twice, without -mfma, where it cannot be emulated.)
inline double fused_multiply_add(double a, double b, double c) {
#if !defined(__MINGW32__)
  return std::fma(a, b, c);
#else
#if !defined(__FMA__)
  if (can_be_emulated(a, b, c)) return emulated_multiply_add(a, b, c);
#endif
  return __builtin_fma(a, b, c);  // the instruction even where std::fma is a call of the library
#endif
}

}  // namespace detail
}  // namespace loraplus
