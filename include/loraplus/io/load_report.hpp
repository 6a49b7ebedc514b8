// SPDX-License-Identifier: MIT
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace loraplus::inline v0_1 {

/// What reading tensors by name found.
struct LoadReport {
  std::vector<std::string> used = {};        ///< tensors of the file that were taken
  std::vector<std::string> missing = {};     ///< wanted, and not in the file
  std::vector<std::string> unexpected = {};  ///< in the file, and not wanted

  /// Reports what of the names in a file was not used.
  void report_unused(const std::vector<std::string>& names) {
    const std::set<std::string_view> taken(used.begin(), used.end());
    for (const std::string& name : names) {
      if (!taken.contains(name)) unexpected.push_back(name);
    }
  }

  /// Whether nothing is missing and nothing was left over.
  bool complete() const { return missing.empty() && unexpected.empty(); }

  /// "missing: a, b; unexpected: c", or nothing.
  std::string problems() const {
    std::string text;
    const auto append = [&](const char* what, const std::vector<std::string>& names) {
      if (names.empty()) return;
      text += (text.empty() ? "" : "; ") + std::string(what) + ": ";
      for (std::size_t i = 0; i < names.size(); ++i) {
        text += (i == 0 ? "" : ", ") + names[i];
      }
    };
    append("missing", missing);
    append("unexpected", unexpected);
    return text;
  }
};

}  // namespace loraplus
