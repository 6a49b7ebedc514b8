// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <loraplus/adapter/adapter.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace loraplus::inline v0_1 {

/// The name of no adapter, for samples that are to be computed without one.
inline constexpr std::string_view base_adapter = "__base__";

/// An adapter with its name and what multiplies its scaling.
template <RealScalar Scalar>
struct NamedAdapter {
  /// Unique in its set.
  std::string name;
  /// Shared with copies of the table.
  std::shared_ptr<Adapter<Scalar>> adapter;
  /// Multiplies the scaling, alpha / r.
  double scale = 1;
};

/// The adapters of a LoraSet by name: which there are, which are active, how they are scaled.
/// Copies share the adapters, and until one is changed the list too: a copy costs the same for one
/// adapter and for a thousand.
template <RealScalar Scalar>
class AdapterTable {
 public:
  /// An adapter with its name.
  using Entry = NamedAdapter<Scalar>;

  /// Sorted by name.
  const std::vector<Entry>& entries() const { return *entries_; }
  /// In the order in which they are applied.
  const std::vector<std::string>& active() const { return active_; }
  /// What multiplies the scaling of all.
  double common_scale() const { return common_scale_; }
  /// Whether the active ones are computed.
  bool enabled() const { return enabled_; }

  /// @throws ArgumentError unless it is finite
  void set_common_scale(double scale) {
    require_finite(scale);
    common_scale_ = scale;
  }
  /// Whether the active ones are computed from now on.
  void set_enabled(bool enabled) { enabled_ = enabled; }

  /// What multiplies the scaling of an entry, all in all.
  /// @throws NonFiniteError unless their product is finite
  Scalar scale_of(const Entry& entry) const {
    const auto scale = static_cast<Scalar>(entry.scale * common_scale_);
    if (std::isfinite(scale * entry.adapter->factors().scaling())) return scale;
    raise<NonFiniteError>("the scalings of '" + entry.name + "' have a product that is not finite");
  }

  /// Whether there is an adapter of this name.
  bool contains(std::string_view name) const {
    const auto at = lower_bound(name);
    return at != entries_->end() && at->name == name;
  }

  /// @throws ArgumentError that lists the names there are
  const Entry& at(std::string_view name) const {
    const auto found = lower_bound(name);
    if (found != entries_->end() && found->name == name) return *found;
    std::string known;
    for (const Entry& entry : *entries_) {
      known += (known.empty() ? "" : ", ") + entry.name;
    }
    raise<ArgumentError>("no adapter is called '" + std::string(name) + "'; there are " +
                         (known.empty() ? "none" : known));
  }

  /// The first adapter becomes active. @throws ArgumentError if the name is taken or cannot be one
  void add(const std::string& name, std::shared_ptr<Adapter<Scalar>> adapter) {
    if (name.empty() || name == base_adapter) {
      raise<ArgumentError>("'" + name + "' cannot be the name of an adapter");
    }
    if (contains(name)) raise<ArgumentError>("there is an adapter '" + name + "' already");
    if (entries_->empty()) active_ = {name};
    const auto index = lower_bound(name) - entries_->begin();
    change([&](std::vector<Entry>& entries) {
      entries.insert(entries.begin() + index, Entry{name, std::move(adapter)});
    });
  }

  /// @throws ArgumentError if there is no such adapter
  void replace(std::string_view name, std::shared_ptr<Adapter<Scalar>> adapter) {
    edit(name, [&](Entry& entry) { entry.adapter = std::move(adapter); });
  }

  /// @param scale finite; 1 is that of construction @throws ArgumentError
  void set_scale(std::string_view name, double scale) {
    require_finite(scale);
    edit(name, [&](Entry& entry) { entry.scale = scale; });
  }

  /// If it is the only active one, the first of those left becomes active.
  /// @throws ArgumentError if there is no such adapter
  void erase(std::string_view name) {
    const auto index = &at(name) - entries_->data();
    const auto removed = std::remove(active_.begin(), active_.end(), name);
    const bool was_active = removed != active_.end();
    active_.erase(removed, active_.end());
    change([&](std::vector<Entry>& entries) { entries.erase(entries.begin() + index); });
    if (was_active && active_.empty() && !entries_->empty()) active_ = {entries_->front().name};
  }

  /// @throws ArgumentError if a name is unknown or stands twice; nothing is changed then
  void set_active(std::vector<std::string> names) {
    for (auto name = names.begin(); name != names.end(); ++name) {
      at(*name);
      if (std::find(names.begin(), name, *name) != name) {
        raise<ArgumentError>("'" + *name + "' cannot be active twice");
      }
    }
    active_ = std::move(names);
  }

  /// Copies of all adapters take their place.
  void detach() {
    change([](std::vector<Entry>& entries) {
      for (Entry& entry : entries) {
        entry.adapter = std::make_shared<Adapter<Scalar>>(*entry.adapter);
      }
    });
  }

 private:
  auto lower_bound(std::string_view name) const {
    return std::lower_bound(
        entries_->begin(), entries_->end(), name,
        [](const Entry& entry, std::string_view key) { return entry.name < key; });
  }

  template <typename Change>
  void change(Change&& apply) {
    auto entries = std::make_shared<std::vector<Entry>>(*entries_);
    apply(*entries);
    entries_ = std::move(entries);
  }

  template <typename Change>
  void edit(std::string_view name, Change&& apply) {
    const auto index = static_cast<std::size_t>(&at(name) - entries_->data());
    change([&](std::vector<Entry>& entries) { apply(entries[index]); });
  }

  static void require_finite(double scale) {
    require_argument(std::isfinite(static_cast<Scalar>(scale)), "LoraSet", "a scale must be finite",
                     scale);
  }

  std::shared_ptr<const std::vector<Entry>> entries_ = std::make_shared<const std::vector<Entry>>();
  std::vector<std::string> active_;
  double common_scale_ = 1;
  bool enabled_ = true;
};

}  // namespace loraplus
