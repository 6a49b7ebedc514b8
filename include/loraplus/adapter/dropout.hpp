// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/matrix.hpp>
#include <loraplus/core/random.hpp>

namespace loraplus::detail {

/// Fills `mask` with the factors of inverted dropout: 0 with probability p, else 1 / (1 - p).
/// A factor takes 32 random bits, so p is met to 2^-32.
template <typename Mask, RandomBits Generator>
void draw_dropout_mask(double p, Mask&& mask, Generator& generator) {
  using Scalar = typename std::remove_cvref_t<Mask>::Scalar;
  const auto kept = static_cast<Scalar>(1 / (1 - p));
  const auto threshold = static_cast<std::uint64_t>(p * 0x1p32);
  for (Index sample = 0; sample < mask.cols(); ++sample) {
    std::uint64_t bits = 0;
    for (Index feature = 0; feature < mask.rows(); ++feature) {
      bits = feature % 2 == 0 ? random_bits(generator) : bits >> 32U;
      mask(feature, sample) = (bits & 0xFFFFFFFFU) < threshold ? Scalar(0) : kept;
    }
  }
}

}  // namespace loraplus::detail
