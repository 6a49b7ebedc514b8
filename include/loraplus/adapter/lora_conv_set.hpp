// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/lora_conv.hpp>
#include <loraplus/adapter/lora_set.hpp>
#include <loraplus/frozen/same_weight.hpp>

namespace loraplus::inline v0_1 {

/// A frozen convolution with any number of named adapters: a LoraSet on the patches of the image,
/// whose adapters are those of LoraConv.
template <FrozenWeight Frozen>
class LoraConvSet : public ConvLayer<LoraSet<Frozen>> {
  using Base = ConvLayer<LoraSet<Frozen>>;

 public:
  using Scalar = typename Frozen::Scalar;
  /// What a pass needs; one for each thread.
  using Cache = typename Base::Cache;

  /// @param weight out x patch
  /// @throws ArgumentError if the geometry is out of its range, ShapeError if the weight does not
  /// take the patches
  LoraConvSet(Frozen weight, const ConvGeometry& geometry)
      : Base(kernels::Patches(geometry),
             LoraSet<Frozen>(std::move(weight), PatchGroups{geometry.groups})) {}

  const Frozen& weight() const { return set().weight(); }

  /// The adapters: what is active, scaled, merged and replaced is there.
  LoraSet<Frozen>& set() { return Base::on_patches(); }
  /// The same to read.
  const LoraSet<Frozen>& set() const { return Base::on_patches(); }

  /// A new adapter, drawn from the generator. @throws as LoraConv, and as LoraSet::add
  template <RandomBits Generator>
  void add(const std::string& name, const LoraOptions& options, Generator& generator) {
    set().add(name, options, generator);
  }
  /// A copy of the adapter of another layer over this weight, for images of whatever size.
  /// @throws as LoraSet::add, and ArgumentError if the layer is another convolution, stands on
  /// another weight, or has a trained bias, which belongs to the weight that all adapters share
  void add(const std::string& name, const LoraConv<Frozen>& layer) {
    ConvGeometry geometry = layer.geometry();
    geometry.height.size = Base::geometry().height.size;
    geometry.width.size = Base::geometry().width.size;
    if (geometry != Base::geometry()) {
      raise<ArgumentError>("LoraConvSet: '" + name +
                           "' is an adapter for a convolution of another geometry");
    }
    if (layer.layer().trains_bias()) {
      raise<ArgumentError>("LoraConvSet: '" + name +
                           "' has a trained bias, which all other adapters would have to share");
    }
    detail::require_same_weight("LoraConvSet: '" + name + "'", weight(), layer.weight());
    set().add(name, layer.layer().adapter());
  }

  /// A copy of one adapter as a layer of its own: to be trained, saved, or given back by
  /// set().replace. @throws ArgumentError if there is no such adapter
  LoraConv<Frozen> adapted(std::string_view name) const {
    return {weight(), Base::geometry(), *set().at(name)};
  }

  /// An adapter for each image of the next batches, see LoraSet. @throws as there
  void assign(Cache& cache, std::span<const std::string> names) const {
    const Index positions = Base::geometry().positions();
    require_batch_fits("LoraConvSet::assign", static_cast<Index>(names.size()),
                       cache.patches.cols() / positions);
    set().assign(cache.layer, names, positions);
  }
};

template <FrozenWeight Frozen>
LoraConvSet(Frozen, const ConvGeometry&) -> LoraConvSet<Frozen>;

}  // namespace loraplus
