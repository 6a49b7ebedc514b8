// The theory of LoRA+ where it is exact (T1, T2), where it is a statement on exponents (T3), and
// what it costs not to follow it (T4).
#pragma once

#include <array>

#include "document.hpp"
#include "search.hpp"

namespace lab {

/// T1: a ratio is a rescaled initialisation. T2: the linear model learns the same way at any width.
struct Exactness {
  int pairs = 0;            ///< of runs by ratio and by rescaled initialisation, ratio 4^k
  int same_bits = 0;        ///< those with the same product B A after each step, bit for bit
  double other_ratios = 0;  ///< largest relative difference at ratios that are no 4^k
  double width_error = 0;   ///< T2: largest difference of an output to the recursion

  bool holds() const { return same_bits == pairs && other_ratios < 1e-9 && width_error < 1e-12; }
};
Exactness test_exactness(Lab& lab);

/// T3: how a quantity grows with the width under a scheme of rates.
struct Exponent {
  std::string quantity;
  double theory;
  Line line;  ///< of log size against log width

  double deviation() const { return std::abs(line.slope - theory); }
};
struct Scheme {
  std::string name;
  std::array<Exponent, 5> exponents;
};
inline constexpr double exponent_tolerance = 0.15;
std::vector<Scheme> measure_exponents(Lab& lab, std::span<const Index> widths, int seeds);

/// T4: steps until gradient descent of the linear model f = b a'x has come to the target for good,
/// the mean over five starts, with the best learning rate of that width.
struct Convergence {
  double width;
  double equal_a_random;
  double equal_b_random;
  double lora_plus;
};
std::vector<Convergence> measure_convergence(std::span<const double> widths);

Section exactness_section(const Exactness& exactness);
Section exponents_section(const std::vector<Scheme>& schemes);
Section convergence_section(const std::vector<Convergence>& convergence);

}  // namespace lab
