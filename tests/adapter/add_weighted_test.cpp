#include <loraplus/adapter/add_weighted.hpp>
#include <loraplus/nn/layer.hpp>
#include <utility>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::add_weighted;
using loraplus::Combination;
using loraplus::LoraOptions;
using loraplus::LoraSet;
using loraplus::Matrix;
using loraplus::SharedWeight;

namespace {

LoraSet<SharedWeight<double>> weighted_set() {
  std::mt19937_64 generator{1};
  LoraSet set(SharedWeight<double>(test::random_matrix<double>(5, 7, 1)));
  const auto both = loraplus::Initialization::both_uniform;
  set.add("a", {.rank = 2, .initialization = both, .lora_bias = true}, generator);
  set.add("b", {.rank = 2, .alpha = 5, .initialization = both}, generator);
  return set;
}

Matrix<double> output_of(LoraSet<SharedWeight<double>>& set, const std::vector<std::string>& names,
                         const Matrix<double>& x) {
  set.set_active(names);
  return predict(set, x);
}

}  // namespace

TEST_CASE("T10: cat of adapters of a set is what they are together, scales and biases included") {
  auto set = weighted_set();
  set.set_scale("b", -0.5);
  add_weighted(set, "sum", {{"a", 1}, {"b", 1}});
  const auto x = test::random_matrix<double>(7, 4, 3);
  CHECK(set.active() == std::vector<std::string>{"a"});
  CHECK(set.at("sum")->rank() == 4);
  const Matrix<double> together = output_of(set, {"a", "b"}, x);
  CHECK(test::relative_distance(output_of(set, {"sum"}, x), together) < 1e-14);
  add_weighted(set, "svd", {{"a", 1}, {"b", 1}}, {.type = Combination::svd, .svd_rank = 4});
  CHECK(test::relative_distance(output_of(set, {"svd"}, x), together) < 1e-13);
}

TEST_CASE("K1, K2, K19: the sum of adapters of a set has a scaling of exactly 1, whatever theirs") {
  std::mt19937_64 generator{1};
  LoraSet set(SharedWeight<double>(test::random_matrix<double>(5, 7, 1)));
  const auto stabilized = [&](const std::string& name, loraplus::Index rank, double alpha) {
    set.add(name,
            {.rank = rank,
             .alpha = alpha,
             .scaling = loraplus::Scaling::rank_stabilized,
             .initialization = loraplus::Initialization::both_uniform},
            generator);
  };
  stabilized("a", 4, 3);  // s = 3 / 2
  stabilized("b", 4, 10);
  stabilized("c", 9, 2);
  set.set_scale("b", 0.5);
  const auto delta = [&](const std::string& name) -> Matrix<double> {
    return set.scale(name) * set.at(name)->factors().factors().delta();
  };
  const Matrix<double> before = delta("a");
  const Matrix<double> exact = 0.7 * delta("a") - 0.2 * delta("b") + 3 * delta("c");
  const std::vector<loraplus::WeightedName> terms{{"a", 0.7}, {"b", -0.2}, {"c", 3}};
  add_weighted(set, "cat", terms);
  add_weighted(set, "svd", terms, {.type = Combination::svd, .svd_rank = 5});
  for (const auto& [name, rank] :
       {std::pair<std::string, loraplus::Index>{"cat", 17}, {"svd", 5}}) {
    CAPTURE(name);
    CHECK(set.at(name)->rank() == rank);
    CHECK(set.at(name)->factors().scaling() == 1);
    CHECK(set.scale(name) == 1);
    CHECK(test::relative_distance(delta(name), exact) < 1e-13);
    const auto x = test::random_matrix<double>(7, 4, 3);
    const Matrix<double> expected = (to_matrix(set.weight()) + exact) * x;
    CHECK(test::relative_distance(output_of(set, {name}, x), expected) < 1e-13);
  }
  add_weighted(set, "linear", {{"a", 1}, {"b", 1}}, {.type = Combination::linear});
  CHECK(set.at("linear")->factors().scaling() == 1);
  CHECK(set.at("a")->factors().scaling() == 1.5);
  CHECK(test::same_bits(delta("a"), before));
}

TEST_CASE("K3: adapters with DoRA are not combined; a name that is taken or unknown is refused") {
  auto set = weighted_set();
  std::mt19937_64 generator{1};
  set.add("dora", {.rank = 2, .dora = true}, generator);
  const auto message = [&](const std::string& name, const std::string& term) {
    return test::message_of<loraplus::ArgumentError>([&] {
      add_weighted(set, name, {{"a", 1}, {term, 1}});
    });
  };
  CHECK(test::contains(message("sum", "dora"), "'dora' has DoRA"));
  CHECK(test::contains(message("sum", "nobody"), "'nobody'"));
  CHECK(test::contains(message("b", "b"), "'b' already"));
  CHECK(set.names() == std::vector<std::string>{"a", "b", "dora"});
  CHECK_THROWS_AS(add_weighted(set, "sum", {{"a", 1}}, {.type = Combination::dare_linear}),
                  loraplus::ArgumentError);
  CHECK_NOTHROW(add_weighted(set, "sum", {{"a", 1}, {"b", 2}},
                             {.type = Combination::dare_linear, .density = 0.5}, generator));
}
