// A user's functions that bear the names of ours are not called in their place.
#include <loraplus/loraplus.hpp>

#include "support/catch.hpp"
#include "support/gradients.hpp"
#include "support/user_layer.hpp"

namespace hostile {

struct Generator : std::mt19937_64 {
  using std::mt19937_64::mersenne_twister_engine;
};
[[maybe_unused]] double normal(Generator& /*generator*/) {
  return 42;
}
[[maybe_unused]] double uniform(Generator& /*generator*/) {
  return 42;
}
[[maybe_unused]] std::uint64_t random_bits(Generator& /*generator*/) {
  return 42;
}

struct Layer : test::Scale<double> {
  using test::Scale<double>::Scale;
};
[[maybe_unused]] int parameter_count(const Layer& /*layer*/) {
  return 0;
}
[[maybe_unused]] void zero_gradients(Layer& /*layer*/) {}

}  // namespace hostile

TEST_CASE("a generator's namespace does not change what is drawn") {
  hostile::Generator hostile_generator{7U};
  std::mt19937_64 plain{7U};
  loraplus::Matrix<double> a(3, 2), b(3, 2);
  loraplus::fill_normal(a, hostile_generator, 1);
  loraplus::fill_normal(b, plain, 1);
  CHECK(a == b);
  loraplus::fill_uniform(a, hostile_generator, -1, 1);
  loraplus::fill_uniform(b, plain, -1, 1);
  CHECK(a == b);
}

TEST_CASE("a layer's namespace does not stop its gradients") {
  loraplus::Sequential net{hostile::Layer(3, 2.0), test::Scale<double>(3, 1.5)};
  test::require_gradients(net, 4, 1);
}
