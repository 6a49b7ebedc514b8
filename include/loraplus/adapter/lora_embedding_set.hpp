// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/lora_embedding.hpp>
#include <loraplus/adapter/lora_set.hpp>

namespace loraplus {

/// A frozen embedding with any number of named adapters: a LoraSet whose input is tokens, and whose
/// adapters are drawn and trained as those of LoraEmbedding.
template <LookupWeight Frozen>
class LoraEmbeddingSet {
 public:
  using Scalar = typename Frozen::Scalar;
  using Cache = typename LoraSet<Frozen>::Cache;

  /// @param weight dim x vocabulary
  explicit LoraEmbeddingSet(Frozen weight) : set_(std::move(weight)) {}

  Index vocabulary() const { return set_.in_features(); }
  Index out_features() const { return set_.out_features(); }
  const Frozen& weight() const { return set_.weight(); }

  /// The adapters: what is active, scaled, merged, replaced and assigned to samples is there.
  LoraSet<Frozen>& set() { return set_; }
  const LoraSet<Frozen>& set() const { return set_; }

  /// A new adapter, drawn from the generator. @throws as LoraEmbedding, and as LoraSet::add
  template <RandomBits Generator>
  void add(const std::string& name, const LoraOptions& options, Generator& generator) {
    set_.add(name, LoraEmbedding<Frozen>::make_adapter(weight(), options, generator));
  }
  /// A copy of the adapter of another layer over this weight. @throws as LoraSet::add
  void add(const std::string& name, const LoraEmbedding<Frozen>& layer) {
    set_.add(name, layer.adapter());
  }

  /// A copy of one adapter as a layer of its own: to be trained, saved, or given back by
  /// set().replace. @throws ArgumentError if there is no such adapter
  LoraEmbedding<Frozen> adapted(std::string_view name) const {
    LoraEmbedding<Frozen> layer(weight(), *set_.at(name));
    if (padding_ >= 0) layer.set_padding_index(padding_);
    return layer;
  }

  /// See LoraEmbedding. @throws ArgumentError if it is not in the vocabulary
  void set_padding_index(Index token) {
    require_tokens("LoraEmbeddingSet::set_padding_index", {&token, 1}, vocabulary());
    padding_ = token;
  }

  Cache make_cache(Index largest_batch) const { return set_.make_cache(largest_batch); }

  /// An adapter for each token of the next batches, see LoraSet. @throws as there
  void assign(Cache& cache, std::span<const std::string> names) const { set_.assign(cache, names); }

  /// @param tokens n of them, @param y out x n @throws as LoraSet
  void forward(std::span<const Index> tokens, MatrixView<Scalar> y, Cache& cache) const {
    set_.forward(tokens, y, cache);
  }

  /// Adds the gradients. @param tokens those of the forward pass, @param dy out x n
  /// @throws as LoraSet
  void backward(std::span<const Index> tokens, ConstMatrixView<Scalar> dy, Cache& cache) {
    set_.backward(tokens, dy, cache, padding_);
  }

  /// Shows those of the active adapters, <adapter>.lora_embedding_A, ... @throws as LoraSet
  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    set_.visit_parameters(visit, embedding_factors);
  }

 private:
  LoraSet<Frozen> set_;
  Index padding_ = -1;  // a token, or none
};

}  // namespace loraplus
