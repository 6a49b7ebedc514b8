#include <loraplus/core/random.hpp>
#include <numeric>
#include <vector>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::Index;

namespace {

static_assert(loraplus::RandomBits<std::mt19937_64>);
static_assert(loraplus::RandomBits<std::mt19937>);
static_assert(!loraplus::RandomBits<std::minstd_rand>);  // its smallest number is 1

}  // namespace

// The golden numbers of this file come from an implementation of their own, MT19937-64 in
// integers, the transforms in 50-digit decimal arithmetic.

TEST_CASE("uniform numbers are the same everywhere") {
  std::mt19937_64 generator{42};
  for (const double expected :
       {0x1.82a3befaddcbcp-1, 0x1.472f1f73724a0p-1, 0x1.81192cfe1cbcfp-1, 0x1.171621fc50d68p-3}) {
    CHECK(loraplus::uniform(generator) == expected);
  }
}

TEST_CASE("normal numbers are right to two units in the last place, and the same everywhere") {
  const double exact[] = {0x1.4b37d0b4daa8fp+0,  0x1.978762f4a05dap-2,  0x1.1e599fb914974p+0,
                          -0x1.7e03e64e8ab37p+0, -0x1.3c385727c9306p-2, 0x1.69d267030b341p+0,
                          0x1.97dce06bd632dp+0,  0x1.cd46b9f4117b8p-2};
  std::mt19937_64 generator{42};
  for (const double value : exact) {
    CHECK(std::abs(loraplus::normal(generator) / value - 1) < 5e-16);
  }
  // What this library has drawn since its first version, to the bit.
  generator.seed(42);
  const double drawn[] = {0x1.4b37d0b4daa8fp+0,  0x1.978762f4a05dap-2,  0x1.1e599fb914974p+0,
                          -0x1.7e03e64e8ab37p+0, -0x1.3c385727c9308p-2, 0x1.69d267030b341p+0,
                          0x1.97dce06bd632cp+0,  0x1.cd46b9f4117b8p-2};
  for (const double value : drawn) {
    CHECK(loraplus::normal(generator) == value);
  }
  generator.seed(42);
  double sum = 0;
  for (int i = 0; i < 1000000; ++i) {
    sum += loraplus::normal(generator);
  }
  CHECK(sum == 0x1.bbb56b544e72fp+7);
}

TEST_CASE("indices and shuffles are the same everywhere") {
  std::mt19937_64 generator{42};
  for (const Index expected : {6, 4, 0, 2, 1, 8, 6, 4, 0, 7}) {
    CHECK(loraplus::uniform_index(generator, 10) == expected);
  }
  generator.seed(42);
  std::vector<int> values{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  loraplus::shuffle(std::span(values), generator);
  CHECK(values == std::vector<int>{1, 7, 9, 0, 3, 8, 4, 2, 5, 6});
}

TEST_CASE("a generator of 32 bits is used twice for a number") {
  std::mt19937 pairs{7};
  std::mt19937 reference{7};
  const std::uint64_t high = reference();
  const std::uint64_t low = reference();
  CHECK(loraplus::random_bits(pairs) == (high << 32U | low));
}

TEST_CASE("the distributions have the moments they should") {
  std::mt19937_64 generator{3};
  constexpr int count = 200000;
  double sum = 0, square = 0, fourth = 0, uniform_sum = 0, uniform_square = 0;
  int outside = 0;
  for (int i = 0; i < count; ++i) {
    const double z = loraplus::normal(generator);
    sum += z;
    square += z * z;
    fourth += z * z * z * z;
    const double u = loraplus::uniform(generator, -3, 5);
    outside += u >= -3 && u < 5 ? 0 : 1;
    uniform_sum += u;
    uniform_square += (u - 1) * (u - 1);
  }
  CHECK(outside == 0);
  // five standard errors
  CHECK(std::abs(sum / count) < 0.0112);
  CHECK(std::abs(square / count - 1) < 0.0158);
  CHECK(std::abs(fourth / count - 3) < 0.11);
  CHECK(std::abs(uniform_sum / count - 1) < 0.026);
  CHECK(std::abs(uniform_square / count - 64.0 / 12) < 0.054);
}

TEST_CASE("the portable logarithm agrees with the C library's") {
  double worst = 0;
  std::mt19937_64 generator{5};
  for (int i = 0; i < 100000; ++i) {
    const double x = std::ldexp(loraplus::uniform(generator, 0.5, 1),
                                static_cast<int>(loraplus::uniform_index(generator, 120)) - 100);
    worst = std::max(worst, std::abs(loraplus::detail::portable_log(x) / std::log(x) - 1));
  }
  CHECK(worst < 1e-15);
  CHECK(loraplus::detail::portable_log(1) == 0);
}

TEST_CASE("float and double matrices are filled with the same numbers, in storage order") {
  const auto wide = test::random<loraplus::RowMajorMatrix<double>>(3, 4, 9);
  const auto narrow = test::random<loraplus::RowMajorMatrix<float>>(3, 4, 9);
  CHECK(narrow == wide.cast<float>());
  const auto columns = test::random<loraplus::Matrix<double>>(4, 3, 9);
  CHECK(columns == wide.transpose());
}

TEST_CASE("every index and every order of a shuffle is about as likely") {
  std::mt19937_64 generator{11};
  std::vector<int> counts(6, 0);
  for (int i = 0; i < 60000; ++i) {
    std::vector<int> order{0, 1, 2};
    loraplus::shuffle(std::span(order), generator);
    ++counts[static_cast<std::size_t>(order[0] * 2 + (order[1] > order[2] ? 1 : 0))];
  }
  for (const int count : counts) {
    CHECK(std::abs(count - 10000) < 460);  // five standard deviations
  }
}
