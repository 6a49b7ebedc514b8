// The gradient check of a layer at a random point, in double.
#pragma once

#include <loraplus/check/gradient_check.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"

namespace test {

/// Every parameter's and the input's gradient, for a random batch of n samples, within 1e-7.
template <typename L, typename... Generator>
void require_gradients(L& layer, Index n, unsigned seed, Generator... generator) {
  const auto x = random_matrix<double>(layer.in_features(), n, seed);
  const auto dy = random_matrix<double>(layer.out_features(), n, seed + 1);
  for (const auto& error : loraplus::check_gradients(layer, x, dy, 1e-4, generator...)) {
    CAPTURE(n, error.tensor, error.worst, error.analytic, error.numeric);
    CHECK(error.relative <= 1e-7);
  }
}

/// Without the optional dx, backward leaves the same gradients, bit for bit; and over two batches
/// they add up. A generator serves every pass as a copy, so that the dropout mask is the same.
template <typename L, typename... Generator>
void require_accumulation(L& layer, Index n, unsigned seed, Generator... generator) {
  using Scalar = typename L::Scalar;
  const auto gradients = [&] {
    loraplus::Vector<Scalar> all(loraplus::parameter_count(layer));
    Index first = 0;
    layer.visit_parameters([&](const loraplus::Parameter<Scalar>& p) {
      all.segment(first, p.size()) = p.gradient.matrix();
      first += p.size();
    });
    return all;
  };
  auto cache = layer.make_cache(n);
  loraplus::Matrix<Scalar> y(layer.out_features(), n);
  loraplus::Matrix<Scalar> dx(layer.in_features(), n);
  const auto pass = [&](unsigned batch_seed, bool with_dx) {
    const auto x = random_matrix<Scalar>(layer.in_features(), n, batch_seed);
    const auto dy = random_matrix<Scalar>(layer.out_features(), n, batch_seed + 1);
    [&](Generator... copied) {
      loraplus::forward_layer(layer, x, y, cache, copied...);
    }(generator...);
    if (with_dx) {
      layer.backward(x, dy, dx, cache);
    } else {
      layer.backward(x, dy, cache);
    }
  };
  loraplus::zero_gradients(layer);
  pass(seed, true);
  const auto first = gradients();
  loraplus::zero_gradients(layer);
  pass(seed, false);
  CHECK(same_bits(gradients(), first));
  pass(seed + 7, false);
  const auto both = gradients();
  loraplus::zero_gradients(layer);
  pass(seed + 7, false);
  const auto second = gradients();
  CHECK(relative_distance(both, first + second) < 1e-13);
  loraplus::zero_gradients(layer);
}

}  // namespace test
