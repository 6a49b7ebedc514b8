// SPDX-License-Identifier: MIT
//
// a b + c in double, rounded once, on every platform. That is std::fma, but for MinGW, whose
// library computes in long double and so rounds twice where the processor's instruction is not
// used.
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

/// Half of the bits, and the others (Veltkamp 1968).
inline Exact split(double x) {
  const double shifted = 0x1.0000002p+27 * x;
  const double high = shifted - (shifted - x);
  return {high, x - high};
}

/// a b (Dekker 1971, A floating-point technique for extending the available precision).
inline Exact exact_product(double a, double b) {
  const double product = a * b;
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
/// correctly rounded sums, figure 1), unless the product comes near the largest or the smallest
/// double.
inline double emulated_multiply_add(double a, double b, double c) {
  const Exact product = exact_product(a, b);
  const Exact low = exact_sum(c, product.rest);
  const Exact high = exact_sum(product.rounded, low.rounded);
  return high.rounded + sum_rounded_to_odd(low.rest, high.rest);
}

/// a b + c, rounded once.
inline double fused_multiply_add(double a, double b, double c) {
#if defined(__MINGW32__) && !defined(__FMA__)
  return emulated_multiply_add(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

}  // namespace detail
}  // namespace loraplus
