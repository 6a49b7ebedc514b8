#include <loraplus/kernels/split.hpp>

#include "support/catch.hpp"

namespace kernels = loraplus::kernels;
using loraplus::Index;

TEST_CASE("a split covers its range once, in as few and as even parts as can be") {
  for (Index count = 0; count <= 70; ++count) {
    for (Index most = 1; most <= 20; ++most) {
      CAPTURE(count, most);
      const kernels::Split split(count, most);
      Index covered = 0, smallest = count, largest = 0;
      for (Index part = 0; part < split.parts; ++part) {
        REQUIRE(split.begin(part) == covered);
        covered += split.size(part);
        smallest = std::min(smallest, split.size(part));
        largest = std::max(largest, split.size(part));
      }
      CHECK(covered == count);
      CHECK(largest - smallest <= 1);
      CHECK(largest <= most);
      CHECK((split.parts - 1) * most < std::max<Index>(count, 1));
      if (count > 0) CHECK(split.largest() == largest);
    }
  }
}
