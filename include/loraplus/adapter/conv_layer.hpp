// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/output_blocks.hpp>
#include <loraplus/core/parameter.hpp>
#include <loraplus/core/random.hpp>
#include <loraplus/kernels/patches.hpp>
#include <utility>

namespace loraplus::inline v0_1 {

/// A layer on patches of images: the convolution that LoraConv and LoraConvSet have in common.
/// Images are columns, see ConvGeometry; the layer maps a patch (channels x kernel height x kernel
/// width) to the output channels of one position.
template <typename Layer>
class ConvLayer {
 public:
  using Scalar = typename Layer::Scalar;

  /// What a forward pass keeps for the backward pass, and scratch; one for each thread.
  struct Cache {
    /// That of the layer on patches.
    typename Layer::Cache layer;
    Matrix<Scalar> patches;   ///< patch x (positions largest batch)
    Matrix<Scalar> outputs;   ///< channels x (positions largest batch): y, or in backward dy
    Matrix<Scalar> gradient;  ///< as patches
    Index samples = -1;       ///< of the last forward pass, whose patches these are
  };

  /// The geometry of an image.
  const ConvGeometry& geometry() const { return patches_.geometry(); }
  /// channels x height x width
  Index in_features() const { return geometry().inputs(); }
  /// output channels x output height x output width
  Index out_features() const { return layer_.out_features() * geometry().positions(); }
  /// The channels of an output: the outputs of the weight.
  Index out_channels() const { return layer_.out_features(); }

  Cache make_cache(Index largest_batch) const {
    const Index columns = geometry().positions() * largest_batch;
    return {layer_.make_cache(columns), Matrix<Scalar>(geometry().patch(), columns),
            Matrix<Scalar>(out_channels(), columns), Matrix<Scalar>(geometry().patch(), columns),
            -1};
  }

  /// @param x in x n, @param y out x n, @param generator none, or one for training
  /// @throws ShapeError, and as the layer on patches
  template <RandomBits... Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator&... generator) const {
    forward_patches(x, y, cache, [&](auto patches, auto outputs) {
      layer_.forward(patches, outputs, cache.layer, generator...);
    });
  }

  /// Adds the gradients; the cache is that of the forward pass. @param x in x n, @param dy out x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& cache) {
    collect(x, dy, cache);
    layer_.backward(cache.patches.leftCols(columns(x)), cache.outputs.leftCols(columns(x)),
                    cache.layer);
  }

  /// The same, and dx. @param dx in x n
  void backward(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, MatrixView<Scalar> dx,
                Cache& cache) {
    require_shape("LoraConv::backward", "dx", dx, in_features(), x.cols());
    require_distinct("LoraConv::backward", dy, dx);
    collect(x, dy, cache);
    auto gradient = cache.gradient.leftCols(columns(x));
    layer_.backward(cache.patches.leftCols(columns(x)), cache.outputs.leftCols(columns(x)),
                    gradient, cache.layer);
    dx.setZero();
    patches_.template scatter<Scalar>(gradient, dx);
  }

  /// The magnitude of DoRA is not one-dimensional here, so LoRA+ trains it with A, as the
  /// reference.
  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    layer_.visit_parameters([&](Parameter<Scalar> parameter) {
      if (parameter.role == Role::magnitude) parameter.is_vector = false;
      visit(parameter);
    });
  }

 protected:
  /// @throws ShapeError if the layer does not take the patches
  ConvLayer(kernels::Patches patches, Layer layer)
      : patches_(std::move(patches)), layer_(std::move(layer)) {
    if (layer_.in_features() == geometry().patch()) return;
    raise<ShapeError>("LoraConv: the weight must take " + std::to_string(geometry().patch()) +
                      " inputs, channels x kernel height x kernel width, found " +
                      std::to_string(layer_.in_features()));
  }

  /// The layer that computes with patches.
  Layer& on_patches() { return layer_; }
  /// The same to read.
  const Layer& on_patches() const { return layer_; }

  /// The patches of a batch.
  Index columns(ConstMatrixView<Scalar> x) const { return geometry().positions() * x.cols(); }

  /// Gathers the patches, lets them be computed with, and puts the outputs where images have them.
  /// @param compute called with the patches of the batch and the outputs, channels x columns
  template <typename Compute>
  void forward_patches(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
                       Compute&& compute) const {
    require_shape("LoraConv::forward", "x", x, in_features(), x.cols());
    require_shape("LoraConv::forward", "y", y, out_features(), x.cols());
    require_distinct("LoraConv::forward", x, y);
    require_cache("LoraConv::forward", x.cols(), cache);
    cache.samples = -1;
    auto patches = cache.patches.leftCols(columns(x));
    auto outputs = cache.outputs.leftCols(columns(x));
    patches_.template gather<Scalar>(x, patches);
    compute(patches, outputs);
    cache.samples = x.cols();
    for (Index sample = 0; sample < x.cols(); ++sample) {
      image(y, sample) = of_sample(outputs, sample).transpose();
    }
  }

  /// @param x in x n, @param patches patch x (positions n)
  void gather(ConstMatrixView<Scalar> x, MatrixView<Scalar> patches) const {
    patches_.template gather<Scalar>(x, patches);
  }

 private:
  void require_cache(const char* where, Index samples, const Cache& cache) const {
    if (cache.patches.rows() != geometry().patch() || cache.outputs.rows() != out_channels()) {
      raise<StateError>("LoraConv: the cache was made for another layer");
    }
    require_batch_fits(where, samples, cache.patches.cols() / geometry().positions());
  }

  /// A sample's outputs, as the layer on patches has them: channels x positions.
  template <typename Outputs>
  auto of_sample(Outputs& outputs, Index sample) const {
    return outputs.middleCols(sample * geometry().positions(), geometry().positions());
  }

  /// The same in a column of a batch: positions x channels.
  template <typename Batch>
  auto image(Batch& batch, Index sample) const {
    return batch.col(sample).reshaped(geometry().positions(), out_channels());
  }

  /// dy in the order of the layer on patches, in cache.outputs.
  void collect(ConstMatrixView<Scalar> x, ConstMatrixView<Scalar> dy, Cache& cache) const {
    require_shape("LoraConv::backward", "x", x, in_features(), x.cols());
    require_shape("LoraConv::backward", "dy", dy, out_features(), x.cols());
    require_cache("LoraConv::backward", x.cols(), cache);
    if (cache.samples != x.cols()) {
      raise<StateError>("LoraConv::backward: a batch of " + std::to_string(x.cols()) +
                        " samples does not follow a forward pass of as many with this cache");
    }
    for (Index sample = 0; sample < x.cols(); ++sample) {
      of_sample(cache.outputs, sample) = image(dy, sample).transpose();
    }
  }

  kernels::Patches patches_;
  Layer layer_;
};

}  // namespace loraplus
