#include <loraplus/adapter/add_weighted.hpp>
#include <loraplus/nn/layer.hpp>
#include <utility>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"
#include "support/trained_adapter.hpp"

using loraplus::add_weighted;
using loraplus::Combination;
using loraplus::Index;
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
  const auto stabilized = [&](const std::string& name, Index rank, double alpha) {
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
  for (const auto& [name, rank] : {std::pair<std::string, Index>{"cat", 17}, {"svd", 5}}) {
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

// Groups 1 and 3 of three have ranks of their own: each is combined as if there were no other.
TEST_CASE("T18: every type combines adapters in blocks of outputs, each block by itself") {
  using Weight = SharedWeight<double>;
  LoraSet set(Weight(test::random_matrix<double>(6, 7, 1)));
  const auto add = [&](const std::string& name, const LoraOptions& options, unsigned seed) {
    set.add(name, test::trained_adapter(set.weight(), options, seed));
  };
  add("a", {.rank = 3, .alpha = 5, .enabled_groups = {true, false, true}}, 2);
  add("b", {.rank = 3, .enabled_groups = {true, false, true}}, 6);
  set.set_scale("b", 0.5);
  const std::vector<loraplus::WeightedName> terms{{"a", 0.7}, {"b", -0.4}};
  const auto delta = [](const auto& of, const std::string& name) {
    Matrix<double> w = Matrix<double>::Zero(of.out_features(), of.in_features());
    of.at(name)->factors().add_to(w);
    return w;
  };
  for (const auto type :
       {Combination::linear, Combination::cat, Combination::svd, Combination::ties,
        Combination::ties_svd, Combination::magnitude_prune, Combination::magnitude_prune_svd,
        Combination::dare_linear, Combination::dare_ties_svd}) {
    const std::string name{to_string(type)};
    CAPTURE(name);
    const loraplus::CombineOptions options{.type = type, .density = 0.6};
    std::mt19937_64 generator{1}, same{1};
    add_weighted(set, name, terms, options, generator);
    Matrix<double> expected = Matrix<double>::Zero(6, 7);
    for (const Index block : {0, 1}) {
      LoraSet alone(Weight(Matrix<double>::Zero(2, 7)));
      for (const auto* each : {"a", "b"}) {
        const auto& factors = set.at(each)->factors();
        const loraplus::Factors<double> part{factors.a().middleRows(3 * block, 3),
                                             factors.b(static_cast<std::size_t>(block)),
                                             factors.scaling() * set.scale(each)};
        alone.add(each, {alone.weight(), loraplus::LowRank<double>(part), {}});
      }
      add_weighted(alone, "sum", terms, options, same);
      expected.middleRows(4 * block, 2) = delta(alone, "sum");
    }
    CHECK(test::relative_distance(delta(set, name), expected) < 1e-15);
  }
  add("whole", {.rank = 3}, 7);
  add("other", {.rank = 3, .enabled_groups = {false, true, true}}, 8);
  for (const auto* name : {"whole", "other"}) {
    CHECK(test::contains(test::message_of<loraplus::ArgumentError>([&] {
                           add_weighted(set, "sum", {{"a", 1}, {name, 1}});
                         }),
                         std::string("'") + name + "' has other blocks of outputs than 'a'"));
  }
  CHECK_THROWS_AS(add_weighted(set, "sum", {}), loraplus::ArgumentError);
}
