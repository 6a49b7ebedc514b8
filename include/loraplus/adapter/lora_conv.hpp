// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/conv_layer.hpp>
#include <loraplus/adapter/lora_linear.hpp>

namespace loraplus::inline v0_1 {

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
class LoraConv : public ConvLayer<LoraLinear<Frozen>> {
  using Base = ConvLayer<LoraLinear<Frozen>>;

 public:
  using Scalar = typename Frozen::Scalar;

  /// As ConvLayer has it, and what dropout needs.
  struct Cache : Base::Cache {
    Matrix<Scalar> mask;  ///< inputs x largest batch, with dropout only: 0 or 1 / (1 - p)
  };

  /// @throws ArgumentError if an option or the geometry is out of its range, or the groups do not
  /// divide the rank; ShapeError if the weight does not take the patches
  template <RandomBits Generator>
  LoraConv(Frozen weight, const ConvGeometry& geometry, const LoraOptions& options,
           Generator& generator)
      : LoraConv(kernels::Patches(geometry), std::move(weight), options, generator) {}

  /// With factors from elsewhere: A r x patch, B out x (r / groups).
  /// @param options of which dropout, bias and dora are asked
  LoraConv(Frozen weight, const ConvGeometry& geometry, const Factors<Scalar>& factors,
           const LoraOptions& options = {})
      : LoraConv(kernels::Patches(geometry), std::move(weight), factors, options) {}

  /// With an adapter that was made for a weight and a geometry of this shape, as a LoraConvSet has
  /// them. With DoRA the weight must be the same: its norms are in the adapter.
  /// @throws ArgumentError if the geometry is out of its range or the adapter has other groups,
  /// ShapeError
  LoraConv(Frozen weight, const ConvGeometry& geometry, Adapter<Scalar> adapter)
      : Base(kernels::Patches(geometry), {std::move(weight), std::move(adapter)}) {
    layer().adapter().require_groups("LoraConv", geometry.groups);
  }

  Index rank() const { return layer().rank(); }
  Scalar scaling() const { return layer().scaling(); }
  double dropout() const { return layer().dropout(); }
  const Frozen& weight() const { return layer().weight(); }

  /// The layer on patches: factors, merging, enabling and plans are its.
  LoraLinear<Frozen>& layer() { return Base::on_patches(); }
  /// The same to read.
  const LoraLinear<Frozen>& layer() const { return Base::on_patches(); }

  Cache make_cache(Index largest_batch) const {
    return {Base::make_cache(largest_batch),
            Matrix<Scalar>(dropout() > 0 ? Base::in_features() : 0, largest_batch)};
  }

  /// @param x in x n, @param y out x n, @param generator none, or one for training
  /// @throws ShapeError, and as LoraLinear
  template <RandomBits... Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator&... generator) const {
    if (sizeof...(Generator) == 0 || dropout() == 0) {
      return Base::forward(x, y, cache, generator...);
    }
    if (cache.mask.rows() != Base::in_features() || cache.mask.cols() < x.cols()) {
      raise<StateError>("LoraConv: the cache was made for another layer");
    }
    auto mask = cache.mask.leftCols(x.cols());
    (detail::draw_dropout_mask(dropout(), mask, generator), ...);
    Base::forward_patches(x, y, cache, [&](auto patches, auto outputs) {
      auto of_patches = cache.gradient.leftCols(patches.cols());
      Base::gather(mask, of_patches);
      layer().forward_masked(patches, outputs, of_patches, cache.layer);
    });
  }

 private:
  template <RandomBits Generator>
  LoraConv(kernels::Patches patches, Frozen weight, const LoraOptions& options,
           Generator& generator)
      : Base(patches, {weight,
                       LowRank<Scalar>::grouped(weight.out_features(), weight.in_features(),
                                                patches.geometry().groups, options, generator),
                       options}) {}

  LoraConv(kernels::Patches patches, Frozen weight, const Factors<Scalar>& factors,
           const LoraOptions& options)
      : Base(patches,
             {weight,
              LowRank<Scalar>(OutputBlocks::grouped(weight.out_features(),
                                                    patches.geometry().groups, factors.a.rows()),
                              factors),
              options}) {}
};

template <FrozenWeight Frozen, RandomBits Generator>
LoraConv(Frozen, const ConvGeometry&, const LoraOptions&, Generator&) -> LoraConv<Frozen>;

}  // namespace loraplus
