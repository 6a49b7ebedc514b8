// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/kernels/patches.hpp>

namespace loraplus {

/// A frozen convolution with a low-rank adapter, in one or two dimensions. It is LoraLinear on the
/// patches of the image: A is a convolution of the same kernel, stride, padding and dilation to r
/// channels, B one of kernel 1 from r channels to the outputs (as PEFT). In groups, A sees all
/// channels and B keeps the groups apart, an equal share of the ranks for each. Dropout takes whole
/// inputs of the image, for all positions that see them.
///
/// The frozen weight maps a patch (channels x kernel height x kernel width) to the output channels;
/// for groups GroupedWeight puts the weights of the groups together. Images are columns, see
/// ConvGeometry.
template <FrozenWeight Frozen>
class LoraConv {
 public:
  using Scalar = typename Frozen::Scalar;

  /// What a forward pass keeps for the backward pass, and scratch; one for each thread.
  struct Cache {
    typename LoraLinear<Frozen>::Cache layer;
    Matrix<Scalar> patches;   // patch x (positions largest batch)
    Matrix<Scalar> outputs;   // channels x (positions largest batch): y, or in backward dy
    Matrix<Scalar> gradient;  // as patches
    Matrix<Scalar> mask;      // inputs x largest batch, with dropout only: 0 or 1 / (1 - p)
  };

  /// @throws ArgumentError if an option or the geometry is out of its range, or the groups do not
  /// divide the rank; ShapeError if the weight does not take the patches
  template <RandomBits Generator>
  LoraConv(Frozen weight, const ConvGeometry& geometry, const LoraOptions& options,
           Generator& generator)
      : patches_(geometry),
        layer_(weight,
               LowRank<Scalar>(blocks_of(geometry, weight, options.rank), weight.in_features(),
                               options, generator),
               options) {
    if (!options.enabled_groups.empty()) {
      throw ArgumentError("LoraConv: the groups are those of the geometry, not enabled_groups");
    }
    require_weight();
  }

  /// With factors from elsewhere: A r x patch, B out x (r / groups).
  /// @param options of which dropout, bias and dora are asked
  LoraConv(Frozen weight, const ConvGeometry& geometry, const Factors<Scalar>& factors,
           const LoraOptions& options = {})
      : patches_(geometry),
        layer_(weight, LowRank<Scalar>(blocks_of(geometry, weight, factors.a.rows()), factors),
               options) {
    require_weight();
  }

  const ConvGeometry& geometry() const { return patches_.geometry(); }
  /// channels x height x width
  Index in_features() const { return geometry().inputs(); }
  /// output channels x output height x output width
  Index out_features() const { return layer_.out_features() * geometry().positions(); }
  Index out_channels() const { return layer_.out_features(); }

  Index rank() const { return layer_.rank(); }
  Scalar scaling() const { return layer_.scaling(); }
  double dropout() const { return layer_.dropout(); }
  const Frozen& weight() const { return layer_.weight(); }

  /// The layer on patches: factors, merging, enabling and plans are its.
  LoraLinear<Frozen>& layer() { return layer_; }
  const LoraLinear<Frozen>& layer() const { return layer_; }

  Cache make_cache(Index largest_batch) const {
    const Index columns = geometry().positions() * largest_batch;
    return {layer_.make_cache(columns), Matrix<Scalar>(geometry().patch(), columns),
            Matrix<Scalar>(out_channels(), columns), Matrix<Scalar>(geometry().patch(), columns),
            Matrix<Scalar>(dropout() > 0 ? in_features() : 0, largest_batch)};
  }

  /// @param x in x n, @param y out x n, @param generator none, or one for training
  /// @throws ShapeError, and as LoraLinear
  template <RandomBits... Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator&... generator) const {
    require_shape("LoraConv::forward", "x", x, in_features(), x.cols());
    require_shape("LoraConv::forward", "y", y, out_features(), x.cols());
    require_cache("LoraConv::forward", x.cols(), cache);
    auto patches = cache.patches.leftCols(columns(x));
    auto outputs = cache.outputs.leftCols(columns(x));
    patches_.gather<Scalar>(x, patches);
    if (sizeof...(Generator) == 1 && dropout() > 0) {
      auto mask = cache.mask.leftCols(x.cols());
      auto of_patches = cache.gradient.leftCols(columns(x));
      (detail::draw_dropout_mask(dropout(), mask, generator), ...);
      patches_.gather<Scalar>(mask, of_patches);
      layer_.forward_masked(patches, outputs, of_patches, cache.layer);
    } else {
      layer_.forward(patches, outputs, cache.layer, generator...);
    }
    for (Index sample = 0; sample < x.cols(); ++sample) {
      image(y, sample) = of_sample(outputs, sample).transpose();
    }
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
    patches_.scatter<Scalar>(gradient, dx);
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

 private:
  static OutputBlocks blocks_of(const ConvGeometry& geometry, const Frozen& weight, Index rank) {
    return OutputBlocks::grouped(weight.out_features(), geometry.groups, rank);
  }

  void require_weight() const {
    if (layer_.in_features() == geometry().patch()) return;
    throw ShapeError("LoraConv: the weight must take " + std::to_string(geometry().patch()) +
                     " inputs, channels x kernel height x kernel width, found " +
                     std::to_string(layer_.in_features()));
  }

  void require_cache(const char* where, Index samples, const Cache& cache) const {
    if (cache.patches.rows() != geometry().patch() || cache.outputs.rows() != out_channels() ||
        cache.mask.rows() != (dropout() > 0 ? in_features() : 0)) {
      throw StateError("LoraConv: the cache was made for another layer");
    }
    require_batch_fits(where, samples, cache.patches.cols() / geometry().positions());
  }

  Index columns(ConstMatrixView<Scalar> x) const { return geometry().positions() * x.cols(); }

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
    for (Index sample = 0; sample < x.cols(); ++sample) {
      of_sample(cache.outputs, sample) = image(dy, sample).transpose();
    }
  }

  kernels::Patches patches_;
  LoraLinear<Frozen> layer_;
};

}  // namespace loraplus
