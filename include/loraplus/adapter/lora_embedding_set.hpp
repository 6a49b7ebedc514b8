// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/lora_embedding.hpp>
#include <loraplus/adapter/lora_set.hpp>
#include <loraplus/frozen/same_weight.hpp>

namespace loraplus::inline v0_1 {

/// A frozen embedding with any number of named adapters: a LoraSet whose inputs are tokens, and
/// whose adapters are drawn and trained as those of LoraEmbedding.
template <LookupWeight Frozen>
class LoraEmbeddingSet : public LoraSet<Frozen> {
  using Base = LoraSet<Frozen>;

 public:
  using Scalar = typename Frozen::Scalar;
  /// What a pass needs; one for each thread.
  using Cache = typename Base::Cache;

  /// @param weight dim x vocabulary
  explicit LoraEmbeddingSet(Frozen weight) : Base(std::move(weight)) {}

  /// The tokens that there are.
  Index vocabulary() const { return Base::in_features(); }

  /// A new adapter, drawn from the generator. @throws as LoraEmbedding, and as LoraSet::add
  template <RandomBits Generator>
  void add(const std::string& name, const LoraOptions& options, Generator& generator) {
    Base::add(name, LoraEmbedding<Frozen>::make_adapter(Base::weight(), options, generator));
  }
  /// An adapter that was made for this weight. @throws as LoraSet::add, and ArgumentError if it has
  /// what an embedding does not have
  void add(const std::string& name, Adapter<Scalar> adapter) {
    detail::require_embedding("LoraEmbeddingSet: '" + name + "'", adapter);
    Base::add(name, std::move(adapter));
  }
  /// A copy of the adapter of another layer over this weight. @throws as LoraSet::add, and
  /// ArgumentError if the layer stands on another weight
  void add(const std::string& name, const LoraEmbedding<Frozen>& layer) {
    detail::require_same_weight("LoraEmbeddingSet: '" + name + "'", Base::weight(), layer.weight());
    Base::add(name, layer.adapter());
  }

  /// As LoraSet::replace. @throws as there, and as add
  void replace(const std::string& name, Adapter<Scalar> adapter) {
    detail::require_embedding("LoraEmbeddingSet: '" + name + "'", adapter);
    Base::replace(name, std::move(adapter));
  }

  /// A copy of one adapter as a layer of its own: to be trained, saved, or given back by replace.
  /// @throws ArgumentError if there is no such adapter
  LoraEmbedding<Frozen> adapted(std::string_view name) const {
    LoraEmbedding<Frozen> layer(Base::weight(), *Base::at(name));
    if (padding_ >= 0) layer.set_padding_index(padding_);
    return layer;
  }

  /// See LoraEmbedding. @throws ArgumentError if it is not in the vocabulary
  void set_padding_index(Index token) {
    require_tokens("LoraEmbeddingSet::set_padding_index", {&token, 1}, vocabulary());
    padding_ = token;
  }
  /// That token, or -1.
  Index padding_index() const { return padding_; }

  Cache make_cache(Index largest_batch) const {
    Cache cache = Base::make_cache(largest_batch);
    cache.has_x = false;
    return cache;
  }

  /// @param tokens n of them, @param y out x n @throws as LoraSet
  void forward(std::span<const Index> tokens, MatrixView<Scalar> y, Cache& cache) const {
    Base::forward(tokens, y, cache);
  }

  /// Adds the gradients. @param tokens those of the forward pass, @param dy out x n
  /// @throws as LoraSet
  void backward(std::span<const Index> tokens, ConstMatrixView<Scalar> dy, Cache& cache) {
    Base::backward(tokens, dy, cache, padding_);
  }

  /// Shows those of the active adapters, as anna.lora_embedding_A. @throws as LoraSet
  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    Base::visit_parameters(visit, embedding_factors);
  }

 private:
  Index padding_ = -1;  // a token, or none
};

template <LookupWeight Frozen>
LoraEmbeddingSet(Frozen) -> LoraEmbeddingSet<Frozen>;

}  // namespace loraplus
