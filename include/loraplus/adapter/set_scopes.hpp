// SPDX-License-Identifier: MIT
//
// Changes of a LoraSet, or of a network of sets, that end with the scope they are made in.
#pragma once

namespace loraplus::inline v0_1 {

/// While it lives, a set, or a network of sets, computes without its adapters.
template <typename Set>
class DisabledScope {
 public:
  /// @param set must outlive this
  explicit DisabledScope(Set& set) : set_(set), before_(set.enabled()) { set_.set_enabled(false); }
  ~DisabledScope() { set_.set_enabled(before_); }
  DisabledScope(const DisabledScope&) = delete;
  DisabledScope(DisabledScope&&) = delete;
  DisabledScope& operator=(const DisabledScope&) = delete;
  DisabledScope& operator=(DisabledScope&&) = delete;

 private:
  Set& set_;
  bool before_;
};

template <typename Set>
DisabledScope(Set&) -> DisabledScope<Set>;

/// While it lives, the scaling of all adapters of a set, or of a network of sets, is multiplied.
/// What was merged meanwhile has that scale in it, and is unmerged with its end.
template <typename Set>
class ScaledScope {
 public:
  /// @throws as set_common_scale
  ScaledScope(Set& set, double scale) : set_(set), before_(set.common_scale()) {
    set_.set_common_scale(before_ * scale);
  }
  ~ScaledScope() {
    if (set_.common_scale() == before_) return;
    set_.unmerge();
    set_.set_common_scale(before_);
  }
  ScaledScope(const ScaledScope&) = delete;
  ScaledScope(ScaledScope&&) = delete;
  ScaledScope& operator=(const ScaledScope&) = delete;
  ScaledScope& operator=(ScaledScope&&) = delete;

 private:
  Set& set_;
  double before_;
};

template <typename Set>
ScaledScope(Set&, double) -> ScaledScope<Set>;

}  // namespace loraplus
