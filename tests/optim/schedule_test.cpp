#include <loraplus/optim/schedule.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"

using loraplus::Decay;
using loraplus::Index;
using loraplus::Schedule;

namespace {

/// The factors of the first steps are `expected`, and the last of them stays.
void check_factors(const Schedule& schedule, std::initializer_list<double> expected) {
  schedule.validate();
  Index step = 0;
  for (const double factor : expected) {
    INFO("step " << step);
    CHECK(std::abs(schedule.factor(step) - factor) < 1e-15);
    ++step;
  }
  const double last = *(expected.end() - 1);
  for (const Index later : {step, step + 1, step + 1000, Index{1} << 40U}) {
    INFO("step " << later);
    CHECK(schedule.factor(later) == last);
  }
}

// (1 + cos(pi k / 4)) / 2 for k = 1 and 3
constexpr double cosine_1 = 0.85355339059327378;
constexpr double cosine_3 = 0.14644660940672624;

}  // namespace

TEST_CASE("a constant schedule is 1 from the first step") {
  check_factors({}, {1});
  check_factors({.decay = Decay::constant, .total_steps = 2}, {1, 1, 1});
}

TEST_CASE("a warm-up of w steps rises from 1/w to 1") {
  check_factors({.warmup_steps = 4}, {0.25, 0.5, 0.75, 1, 1});
  check_factors({.warmup_steps = 1}, {1, 1});
}

TEST_CASE("a linear schedule falls straight to zero and stays there") {
  check_factors({.decay = Decay::linear, .total_steps = 4}, {1, 0.75, 0.5, 0.25, 0});
  check_factors({.decay = Decay::linear, .total_steps = 1}, {1, 0});
}

TEST_CASE("a linear schedule with warm-up rises, then falls over the steps that are left") {
  check_factors({.decay = Decay::linear, .warmup_steps = 2, .total_steps = 6},
                {0.5, 1, 1, 0.75, 0.5, 0.25, 0});
}

TEST_CASE("a cosine schedule falls along half a cosine to zero and stays there") {
  check_factors({.decay = Decay::cosine, .total_steps = 4}, {1, cosine_1, 0.5, cosine_3, 0});
}

TEST_CASE("a cosine schedule with warm-up rises, then falls over the steps that are left") {
  check_factors({.decay = Decay::cosine, .warmup_steps = 2, .total_steps = 6},
                {0.5, 1, 1, cosine_1, 0.5, cosine_3, 0});
}

TEST_CASE("a schedule names a number of steps that makes no sense") {
  CHECK(test::refusal(Schedule{.warmup_steps = -1}) ==
        "Schedule: warmup_steps must be at least 0, found -1");
  for (const Decay decay : {Decay::linear, Decay::cosine}) {
    for (const Index total : {-1, 0, 4, 5}) {
      const std::string message =
          test::refusal(Schedule{.decay = decay, .warmup_steps = 5, .total_steps = total});
      CHECK(message ==
            "Schedule: total_steps must be above warmup_steps = 5, found " + std::to_string(total));
    }
    CHECK_NOTHROW(Schedule{.decay = decay, .warmup_steps = 5, .total_steps = 6}.validate());
    CHECK(test::contains(test::refusal(Schedule{.decay = decay}), "total_steps"));  // not set
  }
  // Without a decay nothing depends on the total.
  CHECK_NOTHROW(Schedule{.warmup_steps = 5}.validate());
}
