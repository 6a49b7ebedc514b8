// SPDX-License-Identifier: MIT
//
// What a layer is. Anything with these members can stand in a network beside ours:
//
//   struct Scale {                                     // a layer of a user: y = g x
//     using Scalar = float;
//     struct Cache {};                                 // what forward keeps for backward
//     Index in_features() const;                       // features of x
//     Index out_features() const;                      // features of y
//     Cache make_cache(Index largest_batch) const;     // all memory that a pass needs
//     void forward(ConstMatrixView<float> x, MatrixView<float> y, Cache&) const;
//     void backward(ConstMatrixView<float> x, ConstMatrixView<float> dy, Cache&);
//     void backward(ConstMatrixView<float> x, ConstMatrixView<float> dy,
//                   MatrixView<float> dx, Cache&);
//     template <typename Visitor> void visit_parameters(Visitor&& visit);
//   };
//
// backward adds to the gradients of the parameters and overwrites dx; the first form is for a
// layer below which nothing is trained. A layer that needs random numbers while training, as
// dropout does, has a second forward with a generator as the last argument.
#pragma once

#include <loraplus/core/parameter.hpp>
#include <loraplus/core/random.hpp>

namespace loraplus::inline v0_1 {

/// What a network is made of: parameters, a cache, forward and both forms of backward, as above.
template <typename L>
concept Layer = HasParameters<L> && requires {
  typename L::Cache;
} && requires(const L& layer, L& trained, typename L::Cache& cache,
              ConstMatrixView<typename L::Scalar> read, MatrixView<typename L::Scalar> written,
              Index largest_batch) {
  { layer.in_features() } -> std::convertible_to<Index>;
  { layer.out_features() } -> std::convertible_to<Index>;
  { layer.make_cache(largest_batch) } -> std::same_as<typename L::Cache>;
  layer.forward(read, written, cache);
  trained.backward(read, read, cache);
  trained.backward(read, read, written, cache);
};

namespace detail {

/// Stands for a generator of whatever type a layer may want.
struct AnyGenerator {
  template <typename T>
  operator T&() const;  // NOLINT(google-explicit-constructor): never defined, only asked for
};

}  // namespace detail

/// forward with the generator if one is given and the layer wants it.
template <Layer L, RandomBits... Generator>
void forward_layer(const L& layer, ConstMatrixView<typename L::Scalar> x,
                   MatrixView<typename L::Scalar> y, typename L::Cache& cache,
                   Generator&... generator) {
  if constexpr (requires { layer.forward(x, y, cache, generator...); }) {
    layer.forward(x, y, cache, generator...);
  } else {
    static_assert(
        !requires { layer.forward(x, y, cache, detail::AnyGenerator{}); },
        "loraplus: the layer's forward for training takes another type of generator");
    layer.forward(x, y, cache);
  }
}

/// The output for a batch, in a matrix of its own: a convenience that allocates.
/// @param x in x n @return out x n
template <Layer L>
Matrix<typename L::Scalar> predict(const L& layer, ConstMatrixView<typename L::Scalar> x) {
  Matrix<typename L::Scalar> y(layer.out_features(), x.cols());
  auto cache = layer.make_cache(x.cols());
  layer.forward(x, y, cache);
  return y;
}

}  // namespace loraplus
