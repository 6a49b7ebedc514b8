// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/error.hpp>
#include <loraplus/nn/layer.hpp>
#include <variant>

namespace loraplus::inline v0_1 {

/// T is one of these types.
template <typename T, typename... Ts>
concept AnyOf = (std::is_same_v<T, Ts> || ...);

/// A layer that is one of several kinds, which one is known when the program runs: the kinds that
/// a network with some layers adapted, some frozen and some trained in full is made of.
template <Layer... Kinds>
class OneOf {
 public:
  using Scalar = std::common_type_t<typename Kinds::Scalar...>;
  static_assert((std::is_same_v<typename Kinds::Scalar, Scalar> && ...),
                "loraplus: the kinds of a layer must share one scalar type");

  /// The cache of a kind, which differs from another kind's even if the types do not.
  template <typename Kind>
  struct CacheOf {
    /// That of the layer.
    typename Kind::Cache cache;
  };
  /// The cache of the kind that the layer is.
  using Cache = std::variant<CacheOf<Kinds>...>;

  /// The layer as one of its kinds.
  template <AnyOf<Kinds...> Kind>
  OneOf(Kind layer)  // NOLINT(google-explicit-constructor): as std::variant
      : layer_(std::move(layer)) {}

  /// The layer as this kind, or null.
  template <typename Kind>
  Kind* get_if() {
    return std::get_if<Kind>(&layer_);
  }
  /// The same to read.
  template <typename Kind>
  const Kind* get_if() const {
    return std::get_if<Kind>(&layer_);
  }

  /// Calls `use` with the layer as what it is.
  template <typename Use>
  decltype(auto) visit(Use&& use) {
    return std::visit(std::forward<Use>(use), layer_);
  }
  /// The same to read.
  template <typename Use>
  decltype(auto) visit(Use&& use) const {
    return std::visit(std::forward<Use>(use), layer_);
  }

  Index in_features() const {
    return visit([](const auto& layer) { return layer.in_features(); });
  }
  Index out_features() const {
    return visit([](const auto& layer) { return layer.out_features(); });
  }

  Cache make_cache(Index largest_batch) const {
    return visit([&]<typename Kind>(const Kind& layer) {
      return Cache(CacheOf<Kind>{layer.make_cache(largest_batch)});
    });
  }

  /// @param x in x n, @param y out x n, @param generator none, or one for training
  template <RandomBits... Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator&... generator) const {
    visit([&]<typename Kind>(const Kind& layer) {
      loraplus::forward_layer(layer, x, y, cache_of<Kind>(cache), generator...);
    });
  }

  /// @param x in x n, @param dy out x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& cache) {
    visit([&]<typename Kind>(Kind& layer) { layer.backward(x, dy, cache_of<Kind>(cache)); });
  }

  /// @param x, dx in x n, @param dy out x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx,
                Cache& cache) {
    visit([&]<typename Kind>(Kind& layer) { layer.backward(x, dy, dx, cache_of<Kind>(cache)); });
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visitor) {
    visit([&](auto& layer) { layer.visit_parameters(visitor); });
  }

 private:
  template <typename Kind>
  static typename Kind::Cache& cache_of(Cache& cache) {
    auto* known = std::get_if<CacheOf<Kind>>(&cache);
    if (known == nullptr) raise<StateError>("OneOf: the cache was made for another kind of layer");
    return known->cache;
  }

  std::variant<Kinds...> layer_;
};

}  // namespace loraplus
