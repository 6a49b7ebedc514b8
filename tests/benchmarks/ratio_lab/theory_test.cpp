#include "ratio_lab/theory.hpp"

#include "benchmarks/ratio_lab/lab.hpp"
#include "support/catch.hpp"

TEST_CASE(
    "the exact statements hold: a ratio is a rescaled initialisation, a width changes nothing") {
  test::Laboratory laboratory("exactness");
  auto lab = laboratory.get();
  const auto found = lab::test_exactness(lab);
  CHECK(found.pairs == 10);
  CHECK(found.same_bits == 10);
  CHECK(found.other_ratios < 1e-9);
  CHECK(found.other_ratios > 0);  // there rounding is to be seen
  CHECK(found.width_error < 1e-12);
  CHECK(found.holds());
}

TEST_CASE("the updates grow with the powers of the width that theory says") {
  test::Laboratory laboratory("exponents");
  auto lab = laboratory.get();
  const std::vector<lab::Index> widths = {64, 128, 256};
  const auto schemes = lab::measure_exponents(lab, widths, 2);
  REQUIRE(schemes.size() == 6);
  for (const auto& scheme : schemes) {
    for (const auto& exponent : scheme.exponents) {
      CAPTURE(scheme.name, exponent.quantity, exponent.line.slope);
      CHECK(exponent.deviation() < 0.25);
    }
  }
}

// The table of the theory notes, by an independent program: 4.4, 5.4, 6.0 and 7.2, 7.6, 9.6 steps
// at n = 1e2, 1e3, 1e4 with one rate, 3.0 with two.
TEST_CASE("with one rate the linear model takes more steps the wider it is, with two as many") {
  const std::vector<double> widths = {1e2, 1e3, 1e4};
  const auto found = lab::measure_convergence(widths);
  const double a_random[] = {4.4, 5.4, 6.0}, b_random[] = {7.2, 7.6, 9.6};
  for (std::size_t i = 0; i < widths.size(); ++i) {
    CHECK(found[i].equal_a_random == Approx(a_random[i]).margin(0.5));
    CHECK(found[i].equal_b_random == Approx(b_random[i]).margin(1.2));
    CHECK(found[i].lora_plus == Approx(3).margin(0.3));
  }
}
