// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/lora_conv.hpp>
#include <loraplus/adapter/lora_set.hpp>

namespace loraplus {

/// A frozen convolution with any number of named adapters: a LoraSet on the patches of the image,
/// whose adapters are those of LoraConv.
template <FrozenWeight Frozen>
class LoraConvSet : public ConvLayer<LoraSet<Frozen>> {
  using Base = ConvLayer<LoraSet<Frozen>>;

 public:
  using Scalar = typename Frozen::Scalar;
  using Cache = typename Base::Cache;

  /// @param weight out x patch
  /// @throws ArgumentError if the geometry is out of its range, ShapeError if the weight does not
  /// take the patches
  LoraConvSet(Frozen weight, const ConvGeometry& geometry)
      : Base(kernels::Patches(geometry), LoraSet<Frozen>(std::move(weight))) {}

  const Frozen& weight() const { return set().weight(); }

  /// The adapters: what is active, scaled, merged and replaced is there.
  LoraSet<Frozen>& set() { return Base::on_patches(); }
  const LoraSet<Frozen>& set() const { return Base::on_patches(); }

  /// A new adapter, drawn from the generator. @throws as LoraConv, and as LoraSet::add
  template <RandomBits Generator>
  void add(const std::string& name, const LoraOptions& options, Generator& generator) {
    detail::require_no_bias(name, options);
    set().add(name, LoraConv<Frozen>::make_adapter(weight(), Base::geometry(), options, generator));
  }
  /// A copy of the adapter of another layer over this weight. @throws as LoraSet::add
  void add(const std::string& name, const LoraConv<Frozen>& layer) {
    set().add(name, layer.layer().adapter());
  }

  /// A copy of one adapter as a layer of its own: to be trained, saved, or given back by
  /// set().replace. @throws ArgumentError if there is no such adapter
  LoraConv<Frozen> adapted(std::string_view name) const {
    return {weight(), Base::geometry(), *set().at(name)};
  }

  /// An adapter for each image of the next batches, see LoraSet. @throws as there
  void assign(Cache& cache, std::span<const std::string> names) const {
    set().assign(cache.layer, names, Base::geometry().positions());
  }

  /// @param x in x n, @param y out x n, @param generator none, or one for training
  /// @throws as LoraSet, and StateError for training with dropout, which LoraConv trains: a set
  /// would take it from patches and not from the image
  template <RandomBits... Generator>
  void forward(ConstMatrixView<Scalar> x, MatrixView<Scalar> y, Cache& cache,
               Generator&... generator) const {
    if (sizeof...(Generator) == 1) require_no_dropout();
    Base::forward(x, y, cache, generator...);
  }

 private:
  void require_no_dropout() const {
    for (const std::string& name : set().active()) {
      if (set().at(name)->dropout() == 0) continue;
      throw StateError("LoraConvSet: '" + name + "' has dropout, which LoraConv trains, not a set");
    }
  }
};

}  // namespace loraplus
