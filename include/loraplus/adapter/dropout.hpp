// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/matrix.hpp>
#include <loraplus/core/random.hpp>

namespace loraplus::inline v0_1::detail {

/// The output function of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
/// Generators", 2014): unlike the step of a generator, it can be computed for many counters at
/// once.
inline std::uint64_t mixed(std::uint64_t counter) {
  std::uint64_t bits = counter * 0x9E3779B97F4A7C15U;
  bits = (bits ^ (bits >> 30U)) * 0xBF58476D1CE4E5B9U;
  bits = (bits ^ (bits >> 27U)) * 0x94D049BB133111EBU;
  return bits ^ (bits >> 31U);
}

/// Fills `mask` (features x n) with the factors of inverted dropout: 0 with probability p, to
/// 2^-32, else 1 / (1 - p). One draw from the generator seeds a mask of any size.
template <typename Mask, RandomBits Generator>
void draw_dropout_mask(double p, Mask&& mask, Generator& generator) {
  using Scalar = typename std::remove_cvref_t<Mask>::Scalar;
  const auto kept = static_cast<Scalar>(1 / (1 - p));
  const auto threshold = static_cast<std::uint64_t>(p * 0x1p32);
  const std::uint64_t seed = loraplus::random_bits(generator);
  for (Index sample = 0; sample < mask.cols(); ++sample) {
    const std::uint64_t first = seed + static_cast<std::uint64_t>(sample * mask.rows());
    for (Index feature = 0; feature < mask.rows(); ++feature) {
      const std::uint64_t bits = mixed(first + static_cast<std::uint64_t>(feature)) >> 32U;
      mask(feature, sample) = bits < threshold ? Scalar(0) : kept;
    }
  }
}

}  // namespace loraplus::detail
