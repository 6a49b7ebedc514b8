// SPDX-License-Identifier: MIT
#pragma once

#include <loraplus/core/matrix.hpp>

namespace loraplus::kernels {

/// A range cut into as few parts of at most `largest` as will do, their sizes as even as can be.
struct Split {
  Index count;
  Index parts;

  Split(Index size, Index largest) : count(size), parts((size + largest - 1) / largest) {}

  Index largest() const { return (count + parts - 1) / parts; }
  Index begin(Index part) const { return part * count / parts; }
  Index size(Index part) const { return begin(part + 1) - begin(part); }
};

}  // namespace loraplus::kernels
