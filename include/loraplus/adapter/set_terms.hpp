// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/set_state.hpp>
#include <span>

namespace loraplus::inline v0_1::detail {

/// An adapter in a pass of a set, and what the pass keeps of it.
template <RealScalar Scalar>
struct SetTerm {
  NamedAdapter<Scalar> entry;
  Scalar scale = 1;
  typename Adapter<Scalar>::Cache cache;
  std::vector<Index> samples = {};  // of the batch, that have this adapter by assignment
};

template <RealScalar Scalar>
using SetTerms = std::vector<SetTerm<Scalar>>;

/// Terms for the active adapters that are not merged; what fits is kept.
template <RealScalar Scalar>
void use_active(const SetState<Scalar>& state, Index largest_batch, SetTerms<Scalar>& terms) {
  std::size_t count = 0;
  for (const std::string& name : state.table.active()) {
    if (state.is_merged(name)) continue;
    const auto& entry = state.table.at(name);
    if (count == terms.size()) terms.push_back({});
    auto& term = terms[count++];
    term.scale = state.table.scale_of(entry);
    if (term.entry.adapter == entry.adapter && entry.adapter->fits(term.cache)) {
      entry.adapter->reserve(term.cache, largest_batch);
    } else {
      term.entry = entry;
      term.cache = entry.adapter->make_cache(largest_batch);
    }
  }
  terms.resize(count);
}

/// Terms for the adapters that are named, each with its samples. Adapters that had one before keep
/// its cache, and with it the norm of DoRA.
/// @param names one for each so many samples @throws ArgumentError if one is unknown
template <RealScalar Scalar>
void use_assigned(const AdapterTable<Scalar>& table, std::span<const std::string> names,
                  Index samples_each, SetTerms<Scalar>& terms) {
  const auto adapter_of = [](const auto& term) { return term.entry.adapter.get(); };
  std::vector<std::pair<const NamedAdapter<Scalar>*, Index>> chosen;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] != base_adapter) chosen.emplace_back(&table.at(names[i]), static_cast<Index>(i));
  }
  std::ranges::sort(chosen);
  SetTerms<Scalar> before = std::move(terms);
  std::ranges::sort(before, {}, adapter_of);
  terms.clear();
  for (const auto& [entry, i] : chosen) {
    if (terms.empty() || terms.back().entry.adapter != entry->adapter) {
      terms.push_back({*entry, Scalar(1), {}, {}});  // each pass scales it
    }
    for (Index sample = i * samples_each; sample < (i + 1) * samples_each; ++sample) {
      terms.back().samples.push_back(sample);
    }
  }
  for (auto& term : terms) {
    const auto samples = static_cast<Index>(term.samples.size());
    const auto kept = std::ranges::lower_bound(before, adapter_of(term), {}, adapter_of);
    if (kept == before.end() || adapter_of(*kept) != adapter_of(term) ||
        !term.entry.adapter->fits(kept->cache)) {
      term.cache = term.entry.adapter->make_cache(samples);
    } else {
      term.cache = std::move(kept->cache);
      term.entry.adapter->reserve(term.cache, samples);
    }
  }
}

}  // namespace loraplus::detail
