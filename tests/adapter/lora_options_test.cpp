#include <limits>
#include <loraplus/adapter/lora_options.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"

using loraplus::ArgumentError;
using loraplus::LoraOptions;
using loraplus::Scaling;

TEST_CASE("T2: the scaling is alpha / r, or alpha / sqrt(r)") {
  CHECK(loraplus::lora_scaling({.rank = 16, .alpha = 3}) == 3.0 / 16);
  CHECK(loraplus::lora_scaling({.rank = 16, .alpha = 3, .scaling = Scaling::rank_stabilized}) ==
        3.0 / 4);
  CHECK(loraplus::lora_scaling({.rank = 25, .alpha = 11, .scaling = Scaling::rank_stabilized}) ==
        11.0 / 5);
}

TEST_CASE("the defaults are PEFT's and valid") {
  CHECK(LoraOptions{}.rank == 8);
  CHECK(LoraOptions{}.alpha == 8);
  CHECK(LoraOptions{}.dropout == 0);
  CHECK_NOTHROW(loraplus::validate(LoraOptions{}));
}

TEST_CASE("an option out of its range is refused by name and value") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const auto message = [](const LoraOptions& options) {
    return test::message_of<ArgumentError>([&] { loraplus::validate(options); });
  };
  CHECK(message({.rank = 0}) == "LoraOptions: rank must be at least 1, found 0");
  CHECK(test::contains(message({.rank = -3}), "rank"));
  for (const double alpha : {0.0, -1.0, nan, inf}) {
    CHECK(test::contains(message({.alpha = alpha}), "alpha"));
  }
  for (const double scale : {0.0, -1.0, nan, inf}) {
    CHECK(test::contains(message({.init_scale = scale}), "init_scale"));
  }
  for (const double dropout : {-0.1, 1.0, 1.5, nan}) {
    CHECK(test::contains(message({.dropout = dropout}), "dropout"));
  }
}
