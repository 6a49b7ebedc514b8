#include <loraplus/train/learning_rates.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"

using loraplus::ArgumentError;
using loraplus::Initialization;
using loraplus::LoraOptions;
using loraplus::recommend_rates;
using loraplus::Scaling;
using loraplus::TunedRates;

namespace {

const LoraOptions a_random{.rank = 4, .alpha = 4};
const LoraOptions b_random{.rank = 4, .alpha = 4, .initialization = Initialization::b_uniform};

LoraOptions with(LoraOptions adapter, loraplus::Index other_rank, double other_alpha) {
  adapter.rank = other_rank;
  adapter.alpha = other_alpha;
  return adapter;
}

}  // namespace

TEST_CASE("the same network and adapter get the rates that were tuned") {
  for (const auto& adapter : {a_random, b_random}) {
    for (const double ratio : {1.0, 16.0}) {
      const auto rates = recommend_rates({1e-3, ratio * 1e-3, 256, adapter}, adapter, 256);
      CHECK(rates.rate_a == Approx(1e-3));
      CHECK(rates.rate_b == Approx(ratio * 1e-3));
      CHECK_FALSE(rates.source.empty());
      CHECK_FALSE(rates.unknown.empty());
    }
  }
}

TEST_CASE("one rate with A random falls with the root of width, rank and scaling") {
  const TunedRates tuned{1e-2, 1e-2, 64, a_random};
  CHECK(recommend_rates(tuned, a_random, 6400).rate_a == Approx(1e-3));
  // r 4 -> 64 at s = 1
  CHECK(recommend_rates(tuned, with(a_random, 64, 64), 64).rate_a == Approx(1e-2 / 4));
  // r 4 -> 64 at alpha = 4: s falls as r rises, the rate stays (muA: multiplier 1 / r)
  CHECK(recommend_rates(tuned, with(a_random, 64, 4), 64).rate_a == Approx(1e-2));
  auto stabilised = with(a_random, 64, 8);  // s = 8 / sqrt(64) = 1
  stabilised.scaling = Scaling::rank_stabilized;
  CHECK(recommend_rates(tuned, stabilised, 64).rate_a == Approx(1e-2 / 4));
  const auto rates = recommend_rates(tuned, a_random, 128);
  CHECK(rates.rate_a == rates.rate_b);
}

TEST_CASE("one rate with B random falls with width and scaling, whatever the rank") {
  const TunedRates tuned{1e-2, 1e-2, 64, b_random};
  CHECK(recommend_rates(tuned, b_random, 640).rate_b == Approx(1e-3));
  CHECK(recommend_rates(tuned, with(b_random, 64, 64), 64).rate_b == Approx(1e-2));
  CHECK(recommend_rates(tuned, with(b_random, 4, 8), 64).rate_b == Approx(5e-3));
}

TEST_CASE("two rates: A's falls with width, B's stays, and the rest is said to be unknown") {
  const TunedRates tuned{1e-3, 1e-2, 64, b_random};
  const auto rates = recommend_rates(tuned, b_random, 640);
  CHECK(rates.rate_a == Approx(1e-4));
  CHECK(rates.rate_b == 1e-2);
  CHECK(rates.unknown.find("rank") == std::string::npos);
  const auto other_rank = recommend_rates(tuned, with(b_random, 8, 8), 64);
  CHECK(other_rank.rate_a == 1e-3);
  CHECK(other_rank.unknown.find("rank") != std::string::npos);
}

TEST_CASE("where nothing was tuned there is a rate to begin with, by the same laws") {
  for (const auto& adapter : {a_random, b_random}) {
    const auto rates = recommend_rates(adapter, 256);
    CHECK(rates.rate_a == rates.rate_b);
    CHECK(rates.rate_a > 5e-3);
    CHECK(rates.rate_a < 5e-2);
    CHECK(rates.source.find("ratio_lab") != std::string::npos);
    CHECK(rates.unknown.find("task") != std::string::npos);
    CHECK(rates.unknown.find("init_scale") == std::string::npos);
    const auto carried = recommend_rates({rates.rate_a, rates.rate_b, 256, adapter}, adapter, 1024);
    CHECK(recommend_rates(adapter, 1024).rate_a == Approx(carried.rate_a));
  }
  auto scaled = a_random;
  scaled.init_scale = 2;
  CHECK(recommend_rates(scaled, 256).unknown.find("init_scale") != std::string::npos);
}

TEST_CASE("rates are refused that no law carries over, or that are none") {
  const auto refusal = [](const TunedRates& tuned, const LoraOptions& adapter, int width) {
    return test::message_of<ArgumentError>([&] { recommend_rates(tuned, adapter, width); });
  };
  const TunedRates tuned{1e-3, 1e-3, 64, a_random};
  CHECK(refusal(tuned, b_random, 64).find("random") != std::string::npos);
  CHECK(refusal(tuned, a_random, 0).find("width must be at least 1, found 0") != std::string::npos);
  CHECK(refusal({0, 1e-3, 64, a_random}, a_random, 64).find("rate_a") != std::string::npos);
  CHECK(refusal({1e-3, -1, 64, a_random}, a_random, 64).find("rate_b") != std::string::npos);
  CHECK(refusal({1e-3, 1e-3, 0, a_random}, a_random, 64).find("tuned width") != std::string::npos);
  CHECK(refusal(tuned, with(a_random, 0, 4), 64).find("rank") != std::string::npos);
  CHECK_THROWS_AS(recommend_rates(a_random, 0), ArgumentError);
}
