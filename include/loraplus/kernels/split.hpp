// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/matrix.hpp>

namespace loraplus::inline v0_1::kernels {

/// A range cut into as few parts of at most `largest` as will do, their sizes as even as can be.
struct Split {
  /// The size of the range.
  Index count;
  /// Into how many it is cut.
  Index parts;

  /// @param largest at least 1
  Split(Index size, Index largest) : count(size), parts((size + largest - 1) / largest) {}

  /// The size of the largest part.
  Index largest() const { return (count + parts - 1) / parts; }
  /// Where a part begins.
  Index begin(Index part) const { return part * count / parts; }
  /// The size of a part.
  Index size(Index part) const { return begin(part + 1) - begin(part); }
};

}  // namespace loraplus::kernels
