// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <loraplus/core/error.hpp>
#include <loraplus/nn/layer.hpp>
#include <tuple>

namespace loraplus::inline v0_1 {

/// Layers one after the other, composed when the program is compiled: each may be of another
/// type, your own too. It is a layer itself; its parts are called 0, 1, ...
template <Layer First, Layer... Rest>
class Sequential {
 public:
  using Scalar = typename First::Scalar;
  static_assert((std::is_same_v<typename Rest::Scalar, Scalar> && ...),
                "loraplus: the layers of a Sequential must share one scalar type");
  /// The number of layers.
  static constexpr std::size_t size = 1 + sizeof...(Rest);

  /// What a forward pass keeps for the backward pass; one for each thread.
  struct Cache {
    /// One of each layer.
    std::tuple<typename First::Cache, typename Rest::Cache...> layers;
    std::array<Matrix<Scalar>, size - 1> outputs;    ///< out_i x largest batch
    std::array<Matrix<Scalar>, size - 1> gradients;  ///< the same, of the outputs
  };

  /// @throws ShapeError if a layer does not take what the one before it gives
  explicit Sequential(First first, Rest... rest) : layers_(std::move(first), std::move(rest)...) {
    for_each_joint([](auto index, const auto& below, const auto& above) {
      if (below.out_features() != above.in_features()) {
        raise<ShapeError>("Sequential: layer " + std::to_string(index + 1) + " takes " +
                          std::to_string(above.in_features()) + " features, but layer " +
                          std::to_string(index) + " gives " + std::to_string(below.out_features()));
      }
    });
  }

  /// Layer I, from 0.
  template <std::size_t I>
  auto& get() {
    return std::get<I>(layers_);
  }
  /// The same to read.
  template <std::size_t I>
  const auto& get() const {
    return std::get<I>(layers_);
  }

  Index in_features() const { return get<0>().in_features(); }
  Index out_features() const { return get<size - 1>().out_features(); }

  Cache make_cache(Index largest_batch) const {
    Cache cache{std::apply(
                    [&](const auto&... layer) {
                      return std::make_tuple(layer.make_cache(largest_batch)...);
                    },
                    layers_),
                {},
                {}};
    for_each_joint([&](auto index, const auto& below, const auto& /*above*/) {
      cache.outputs[index].resize(below.out_features(), largest_batch);
      cache.gradients[index].resize(below.out_features(), largest_batch);
    });
    return cache;
  }

  /// @param x in x n, @param y out x n, @param generator none, or one for training with dropout
  template <RandomBits... Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator&... generator) const {
    require_cache(x.cols(), cache);
    forward_from<0>(x, y, cache, generator...);
  }

  /// Adds the gradients of the parameters; goes no lower than the lowest layer that has any.
  /// `x` and `cache` are those of the forward pass. @param x in x n, @param dy out x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& cache) {
    require_cache(x.cols(), cache);
    backward_from<0>(x, dy, cache);
  }

  /// The same, and dx. @param x, dx in x n, @param dy out x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx,
                Cache& cache) {
    require_cache(x.cols(), cache);
    backward_from<0>(x, dy, cache, dx);
  }

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit_parts(visit, std::make_index_sequence<size>{});
  }

 private:
  template <typename Visitor, std::size_t... I>
  void visit_parts(Visitor& visit, std::index_sequence<I...> /*indices*/) {
    (visit_part(std::to_string(I), get<I>(), visit), ...);
  }

  template <typename Use>
  void for_each_joint(Use use) const {
    const auto joints = [&]<std::size_t... I>(std::index_sequence<I...> /*indices*/) {
      (use(std::integral_constant<std::size_t, I>{}, get<I>(), get<I + 1>()), ...);
    };
    joints(std::make_index_sequence<size - 1>{});
  }

  void require_cache(Index samples, const Cache& cache) const {
    for_each_joint([&](auto index, const auto& below, const auto& /*above*/) {
      if (cache.outputs[index].rows() != below.out_features()) {
        raise<StateError>("Sequential: the cache was made for other layers");
      }
      require_batch_fits("Sequential", samples, cache.outputs[index].cols());
    });
  }

  template <std::size_t I, RandomBits... Generator>
  void forward_from(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
                    Generator&... generator) const {
    if constexpr (I + 1 == size) {
      loraplus::forward_layer(get<I>(), x, y, std::get<I>(cache.layers), generator...);
    } else {
      auto between = cache.outputs[I].leftCols(x.cols());  // out_I x n
      loraplus::forward_layer(get<I>(), x, between, std::get<I>(cache.layers), generator...);
      forward_from<I + 1>(between, y, cache, generator...);
    }
  }

  /// Layers I and above; `dx` (in_I x n) is none, or the one to write.
  template <std::size_t I, typename... Dx>
  void backward_from(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& cache,
                     Dx&... dx) {
    auto& layer_cache = std::get<I>(cache.layers);
    if constexpr (I + 1 == size) {
      get<I>().backward(x, dy, dx..., layer_cache);
    } else {
      const ConstMatrixView<Scalar> between = cache.outputs[I].leftCols(x.cols());
      if (sizeof...(Dx) == 0 && loraplus::parameter_count(get<I>()) == 0) {
        return backward_from<I + 1>(between, dy, cache);
      }
      auto gradient = cache.gradients[I].leftCols(x.cols());  // out_I x n
      backward_from<I + 1>(between, dy, cache, gradient);
      get<I>().backward(x, gradient, dx..., layer_cache);
    }
  }

  std::tuple<First, Rest...> layers_;
};

template <Layer First, Layer... Rest>
Sequential(First, Rest...) -> Sequential<First, Rest...>;

}  // namespace loraplus
