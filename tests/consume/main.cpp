// The least that a user can do with the core: what is to be seen is whether it is found.
#include <loraplus/loraplus.hpp>

#ifdef EXPECTED_EIGEN
static_assert(EIGEN_MAJOR_VERSION == EXPECTED_EIGEN);
#endif

int main() {
  std::mt19937_64 rng(1);
  const double sample = loraplus::uniform(rng, 2, 3);
  return sample >= 2 && sample < 3 ? 0 : 1;
}
