// SPDX-License-Identifier: MIT
//
// The input of a LoraSet: the columns of a matrix, or tokens.
#pragma once

#include <loraplus/core/matrix.hpp>
#include <span>
#include <vector>

namespace loraplus::inline v0_1::detail {

template <typename Scalar>
Index samples_of(const ConstMatrixView<Scalar>& x) {
  return x.cols();
}
inline Index samples_of(std::span<const Index> tokens) {
  return static_cast<Index>(tokens.size());
}

/// y = W x + b0. @param y out x n
template <typename Weight, typename Scalar>
void product(const Weight& weight, const ConstMatrixView<Scalar>& x, MatrixView<Scalar> y) {
  weight.forward(x, y);
}
template <typename Weight, typename Scalar>
void product(const Weight& weight, std::span<const Index> tokens, MatrixView<Scalar> y) {
  weight.lookup(tokens, y);
}

/// Some samples of a batch, in the cache of a set.
template <typename Scalar, typename Cache>
ConstMatrixView<Scalar> gather(const ConstMatrixView<Scalar>& x, const std::vector<Index>& samples,
                               Cache& cache) {
  cache.x.resize(x.rows(), cache.largest_batch);  // as it is, but in a cache for tokens
  for (std::size_t i = 0; i < samples.size(); ++i) {
    cache.x.col(static_cast<Index>(i)) = x.col(samples[i]);
  }
  return cache.x.leftCols(static_cast<Index>(samples.size()));
}
template <typename Cache>
std::span<const Index> gather(std::span<const Index> tokens, const std::vector<Index>& samples,
                              Cache& cache) {
  cache.tokens.clear();
  for (const Index sample : samples) {
    cache.tokens.push_back(tokens[static_cast<std::size_t>(sample)]);
  }
  return cache.tokens;
}

}  // namespace loraplus::detail
