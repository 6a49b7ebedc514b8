// Adapters in the middle of their training.
#pragma once

#include <loraplus/adapter/adapter.hpp>
#include <random>

#include "support/matrices.hpp"

namespace test {

/// The same adapter with random factors, bias of B and magnitude in the place of its own.
template <typename Scalar>
loraplus::Adapter<Scalar> trained(loraplus::Adapter<Scalar> adapter, unsigned seed) {
  auto factors = adapter.factors().factors();
  factors.a = random_matrix<Scalar>(factors.a.rows(), factors.a.cols(), seed + 1);
  factors.b = random_matrix<Scalar>(factors.b.rows(), factors.b.cols(), seed + 2);
  factors.bias = random_vector<Scalar>(factors.bias.size(), seed + 3);
  adapter.factors().set_factors(factors);
  if (adapter.magnitude() != nullptr) {
    adapter.magnitude()->set_values(
        random_vector<Scalar>(adapter.factors().out_features(), seed + 4));
  }
  return adapter;
}

template <loraplus::FrozenWeight Frozen>
loraplus::Adapter<typename Frozen::Scalar> trained_adapter(const Frozen& weight,
                                                           const loraplus::LoraOptions& options,
                                                           unsigned seed) {
  std::mt19937_64 generator{seed};
  return trained(loraplus::Adapter<typename Frozen::Scalar>(weight, options, generator), seed);
}

}  // namespace test
