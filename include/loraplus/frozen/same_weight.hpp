// SPDX-License-Identifier: MIT
//
// Whether two frozen weights are the same, of whatever kind they are.
#pragma once

#include <loraplus/core/error.hpp>
#include <loraplus/core/random.hpp>
#include <loraplus/frozen/frozen_weight.hpp>
#include <random>

namespace loraplus::inline v0_1::detail {

/// W x + b of a vector x that is always the same: any frozen weight has that product, and with
/// another W or b it is another. out
template <FrozenWeight Weight>
Vector<typename Weight::Scalar> fixed_product(const Weight& weight) {
  std::mt19937_64 generator;  // as the standard seeds it
  Vector<typename Weight::Scalar> x(weight.in_features()), y(weight.out_features());
  loraplus::fill_uniform(x, generator, -1, 1);
  weight.forward(x, y);
  return y;
}

/// How far, relative to its size, the product of a frozen weight may be from one stored: more than
/// float rounds differently on another machine.
inline constexpr double product_tolerance = 1e-4;

/// Whether fixed products are those of one weight.
template <typename Found, typename Product>
bool is_same_product(const Found& found, const Product& product) {
  using Scalar = typename Product::Scalar;
  return (found - product).norm() <= static_cast<Scalar>(product_tolerance) * product.norm();
}

/// Whether two weights are one object in memory, as far as they tell: their
/// is_same_object(other), if they have one.
template <FrozenWeight Weight>
bool is_same_object(const Weight& weight, const Weight& other) {
  if constexpr (requires { weight.is_same_object(other); }) return weight.is_same_object(other);
  return false;
}

/// Whether two weights of one shape are the same, to rounding.
template <FrozenWeight Weight>
bool is_same_weight(const Weight& weight, const Weight& other) {
  return is_same_object(weight, other) ||
         is_same_product(fixed_product(weight), fixed_product(other));
}

/// @throws ArgumentError unless an adapter's weight is this one, to rounding
template <FrozenWeight Weight>
void require_same_weight(const std::string& where, const Weight& weight, const Weight& adapted) {
  if (is_same_weight(weight, adapted)) return;
  raise<ArgumentError>(
      where +
      " stands on another frozen weight than here: after an initialisation that "
      "changed it (PiSSA, ...) it is what to_plain makes of the adapter that fits");
}

}  // namespace loraplus::detail
