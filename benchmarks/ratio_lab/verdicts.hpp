// The rules by which the claims of the LoRA+ paper are judged here, stated before the results are
// seen. A statement made for several studies is reproduced or failed if it is so in all of them.
#pragma once

#include "experiments.hpp"
#include "theory.hpp"

namespace lab {

inline constexpr double rate_slope = -0.5;  // of log g against log n
inline constexpr double rate_slope_tolerance = 0.2;

/// R1: the theory of rates. @param studies of the synthetic teacher, one for each initialisation
Verdict judge_theory(const Exactness& exactness, std::span<const Scheme> schemes,
                     std::span<const WidthStudy> studies);

/// R2: with B random a large ratio pays, the more so the wider the network.
Verdict judge_gain_b_random(std::span<const WidthStudy> studies);

/// R3: with A random the ratios that are not too large grow with the width.
Verdict judge_growth_a_random(std::span<const WidthStudy> studies);

/// R4: the gain is larger on the hard task than on the easy one.
Verdict judge_hard_task(std::span<const WidthStudy> easy, std::span<const WidthStudy> hard);

/// R5: with B random LoRA+ comes sooner to the loss that tuned LoRA ends with.
Verdict judge_speed(std::span<const Speed> speeds);

}  // namespace lab
