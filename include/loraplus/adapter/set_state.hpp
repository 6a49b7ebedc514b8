// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/adapter/adapter_table.hpp>
#include <loraplus/frozen/shared_weight.hpp>

namespace loraplus::inline v0_1::detail {

/// Where DoRA is among them, what is merged comes first among the active adapters.
/// @param has_dora tells it of the adapter of a name @throws StateError
template <typename HasDora>
void require_merge_order(std::string_view where, const std::vector<std::string>& active,
                         const std::vector<std::string>& merged, const HasDora& has_dora) {
  if (std::ranges::none_of(merged, has_dora) && std::ranges::none_of(active, has_dora)) return;
  if (merged.size() <= active.size() && std::equal(merged.begin(), merged.end(), active.begin())) {
    return;
  }
  raise<StateError>(std::string(where) +
                    ": with DoRA the order counts, only the first of the active adapters can be "
                    "merged");
}

/// The frozen weight with some adapters of a set in it.
template <RealScalar Scalar>
struct MergedAdapters {
  SharedWeight<Scalar> weight;
  std::vector<std::string> names;
};

/// All that a LoraSet may change. It is never changed once it is shared: who has it sees one state
/// of all.
template <RealScalar Scalar>
struct SetState {
  AdapterTable<Scalar> table;
  std::shared_ptr<const MergedAdapters<Scalar>> merged;

  bool is_merged(const std::string& name) const {
    return merged && std::ranges::find(merged->names, name) != merged->names.end();
  }

  void require_not_merged(const std::string& name) const {
    if (is_merged(name)) {
      raise<StateError>("LoraSet: '" + name + "' is merged and cannot be changed");
    }
  }

  /// @throws as require_merge_order
  void require_order() const {
    if (!merged) return;
    require_merge_order("LoraSet", table.active(), merged->names, [&](const std::string& name) {
      return table.at(name).adapter->magnitude() != nullptr;
    });
  }

  /// @throws StateError if the active adapters cannot be trained together
  void require_trainable(bool on_patches) const {
    if (merged) raise<StateError>("LoraSet: a training forward pass needs unmerge() first");
    for (const std::string& name : table.active()) {
      const Adapter<Scalar>& adapter = *table.at(name).adapter;
      if (adapter.dropout() == 0) continue;
      if (on_patches) {
        raise<StateError>("LoraSet: '" + name +
                          "' has dropout, which LoraConv trains, not a set: it would take it from "
                          "patches and not from the image");
      }
      if (adapter.magnitude() != nullptr) {
        raise<StateError>("LoraSet: '" + name +
                          "' has dropout and DoRA, which LoraLinear trains, not a set");
      }
    }
  }
};

/// The weight with adapters of the table, one after the other. @throws NonFiniteError that names
/// the first by which it would not be finite
template <DenseWeight Frozen>
MergedAdapters<typename Frozen::Scalar> merge_adapters(
    const Frozen& weight, const AdapterTable<typename Frozen::Scalar>& table,
    std::vector<std::string> names, std::string_view where) {
  using Scalar = typename Frozen::Scalar;
  const Matrix<Scalar> w0 = loraplus::to_matrix(weight);
  const Vector<Scalar> b0 = loraplus::bias_of(weight);
  if (!w0.allFinite() || !b0.allFinite()) {
    raise<NonFiniteError>(std::string(where) + ": the frozen weight is not finite");
  }
  Matrix<Scalar> w = w0;
  Vector<Scalar> extra = Vector<Scalar>::Zero(weight.out_features());
  for (const std::string& name : names) {
    const auto& entry = table.at(name);
    entry.adapter->merge_into(w0, w, extra, table.scale_of(entry));
    if (!w.allFinite() || !(b0 + extra).allFinite()) {
      raise<NonFiniteError>(std::string(where) + ": with '" + name +
                            "' the merged weight is not finite");
    }
  }
  return {SharedWeight<Scalar>(std::move(w), b0 + extra), std::move(names)};
}

/// The weight with what is merged in a state and these adapters besides, or null if there are none.
/// @throws as merge_adapters, StateError for a common scale that is not 1
template <DenseWeight Frozen>
std::shared_ptr<const MergedAdapters<typename Frozen::Scalar>> merged_with(
    const Frozen& weight, const SetState<typename Frozen::Scalar>& state,
    const std::vector<std::string>& names, std::string_view where) {
  std::vector<std::string> all = state.merged ? state.merged->names : std::vector<std::string>();
  for (const std::string& name : names) {
    if (std::ranges::find(all, name) == all.end()) all.push_back(name);
  }
  if (state.table.common_scale() != 1) {
    raise<StateError>(std::string(where) + ": adapters with a common scale cannot be merged");
  }
  if (all.empty()) return nullptr;
  return std::make_shared<const MergedAdapters<typename Frozen::Scalar>>(
      merge_adapters(weight, state.table, std::move(all), where));
}

}  // namespace loraplus::detail
