#include <limits>
#include <loraplus/nn/multi_adapter.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/optimizer.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::Activation;
using loraplus::AdaptedMlp;
using loraplus::AdaptOptions;
using loraplus::BiasMode;
using loraplus::FrozenMlp;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::MultiAdapterMlp;
using loraplus::PackedWeight;

namespace {

using Weight = PackedWeight<double>;
using Names = std::vector<std::string>;

FrozenMlp<Weight> frozen_network(Activation activation = Activation::tanh) {
  std::mt19937_64 generator{1};
  return freeze(loraplus::make_mlp<double>({6, 9, 7, 3}, activation, generator));
}

AdaptedMlp<Weight> trained_network(const FrozenMlp<Weight>& base, const AdaptOptions& options,
                                   unsigned seed) {
  std::mt19937_64 generator{seed};
  auto adapted = adapt(base, options, generator);
  adapted.visit_parameters([&](auto parameter) {
    for (Index i = 0; i < parameter.size(); ++i) {
      parameter.value(i) += 0.3 * loraplus::normal(generator);
    }
  });
  return adapted;
}

template <typename Network>
Matrix<double> output(const Network& network, const Matrix<double>& x, const Names& names = {}) {
  auto cache = network.make_cache(x.cols());
  network.assign(cache, names);
  Matrix<double> y(network.out_features(), x.cols());
  network.forward(x, y, cache);
  return y;
}

/// Over three layers "a" in all of them, "b" in the last two, "c" in the first: "a" is active.
MultiAdapterMlp<Weight> network_of_three(const FrozenMlp<Weight>& base, bool dora = false) {
  MultiAdapterMlp network(base);
  network.add("a", trained_network(base, {.lora = {.rank = 3, .alpha = 5, .dora = dora}}, 2));
  network.add(
      "b", trained_network(base,
                           {.lora = {.rank = 2, .lora_bias = true}, .targets = {"fc2", "fc3"}}, 3));
  network.add("c", trained_network(base, {.lora = {.rank = 4}, .targets = {"fc1"}}, 4));
  return network;
}

/// Whether each layer has merged those of these adapters that it has.
bool all_merged(const MultiAdapterMlp<Weight>& network, const Names& names) {
  for (const auto& stage : network.layers().stages()) {
    Names here;
    for (const auto& name : names) {
      if (stage.layer.contains(name)) here.push_back(name);
    }
    if (stage.layer.merged() != here) return false;
  }
  return network.merged() == names;
}

}  // namespace

TEST_CASE("each adapter of a network computes as it did by itself, and samples choose theirs") {
  const auto base = frozen_network();
  const auto all = trained_network(base, {.lora = {.rank = 3, .alpha = 5}}, 2);
  const auto some =
      trained_network(base, {.lora = {.rank = 8, .dora = true}, .targets = {"fc2"}}, 3);
  MultiAdapterMlp network(base);
  const auto x = test::random_matrix<double>(6, 9, 4);
  CHECK(test::same_bits(output(network, x), predict(base, x)));
  network.add("some", some);
  network.add("all", all);
  CHECK(network.names() == Names{"all", "some"});
  CHECK(network.active() == Names{"some"});
  CHECK(test::relative_distance(output(network, x), predict(some, x)) < 1e-13);
  network.set_active({"all"});
  CHECK(test::relative_distance(output(network, x), predict(all, x)) < 1e-13);

  Names names;
  const Names choices{"all", "__base__", "some"};
  for (std::size_t i = 0; i < 9; ++i) {
    names.push_back(choices[i * 5 % 3]);
  }
  const Matrix<double> y = output(network, x, names);
  const Matrix<double> by_all = predict(all, x), by_some = predict(some, x),
                       plain = predict(base, x);
  for (Index i = 0; i < 9; ++i) {
    const std::string& name = names[static_cast<std::size_t>(i)];
    const auto& expected = name == "all" ? by_all : name == "some" ? by_some : plain;
    CHECK(test::relative_distance(y.col(i), expected.col(i)) < 1e-13);
  }
}

TEST_CASE("an assignment holds what is erased or replaced after it; other passes see the change") {
  const auto base = frozen_network();
  const auto first = trained_network(base, {.lora = {.rank = 3}}, 2);
  const auto second = trained_network(base, {.lora = {.rank = 5}, .targets = {"fc1"}}, 3);
  MultiAdapterMlp network(base);
  network.add("a", first);
  const auto x = test::random_matrix<double>(6, 2, 4);
  auto assigned = network.make_cache(2), active = network.make_cache(2);
  Matrix<double> y(3, 2);
  network.assign(assigned, Names{"a", "a"});
  network.replace("a", second);
  network.forward(x, y, assigned);
  CHECK(test::relative_distance(y, predict(first, x)) < 1e-13);
  network.forward(x, y, active);
  CHECK(test::relative_distance(y, predict(second, x)) < 1e-13);
  network.erase("a");
  network.forward(x, y, assigned);
  CHECK(test::relative_distance(y, predict(first, x)) < 1e-13);
  network.forward(x, y, active);
  CHECK(test::same_bits(y, predict(base, x)));
}

TEST_CASE("an adapter is taken out, trained on by itself, and put back") {
  const auto base = frozen_network();
  const auto given =
      trained_network(base, {.lora = {.rank = 3, .dora = true}, .targets = {"fc1", "fc3"}}, 2);
  MultiAdapterMlp network(base);
  network.add("a", given);
  auto taken = network.adapted("a");
  const auto x = test::random_matrix<double>(6, 4, 4), dy = test::random_matrix<double>(3, 4, 5);
  CHECK(test::same_bits(predict(taken, x), predict(given, x)));
  loraplus::Optimizer optimizer{loraplus::AdamW{.learning_rate = 0.1}, taken};
  auto cache = taken.make_cache(4);
  Matrix<double> y(3, 4);
  taken.forward(x, y, cache);
  taken.backward(x, dy, cache);
  optimizer.step(taken);
  CHECK(test::relative_distance(output(network, x), predict(given, x)) < 1e-13);
  network.replace("a", taken);
  CHECK(test::relative_distance(output(network, x), predict(taken, x)) < 1e-13);
  CHECK(test::relative_distance(predict(taken, x), predict(given, x)) > 1e-3);
  CHECK_THROWS_AS(network.adapted("b"), loraplus::ArgumentError);
}

TEST_CASE("what is active in a network is what was activated, in every layer") {
  const auto base = frozen_network();
  const auto in = [&](const std::string& layer, unsigned seed) {
    return trained_network(base, {.lora = {.rank = 3}, .targets = {layer}}, seed);
  };
  const auto x = test::random_matrix<double>(6, 2, 4);
  MultiAdapterMlp network(base);
  const auto a = in("fc1", 2), b = in("fc2", 3);
  network.add("a", a);
  network.add("b", b);
  network.add("c", trained_network(base, {.lora = {.rank = 2}}, 4));
  network.set_active({"a", "b"});
  network.erase("a");  // c does not take its place in fc1
  CHECK(test::relative_distance(output(network, x), predict(b, x)) < 1e-13);
  network.set_active({});
  network.replace("b", a);
  network.erase("c");
  CHECK(network.active().empty());
  CHECK(test::same_bits(output(network, x), predict(base, x)));
  network.set_active({"b"});
  const Matrix<double> y = output(network, x);
  CHECK(test::relative_distance(y, predict(a, x)) < 1e-13);
  CHECK_THROWS_AS(network.set_active({"b", "b"}), loraplus::ArgumentError);
  CHECK(test::same_bits(output(network, x), y));
  auto cache = network.make_cache(2);
  network.assign(cache, Names{"b", "b"});
  CHECK_THROWS_AS(network.assign(cache, Names{"b", "b", "b"}), loraplus::ShapeError);
  Matrix<double> found(3, 2);
  network.forward(x, found, cache);
  CHECK(test::relative_distance(found, y) < 1e-13);
  network.set_enabled(false);  // which wins over an assignment
  network.forward(x, found, cache);
  CHECK(test::same_bits(found, predict(base, x)));
  std::mt19937_64 generator{1};
  const auto small = freeze(loraplus::make_mlp<double>({6, 3}, Activation::tanh, generator));
  auto other = MultiAdapterMlp(small).make_cache(2);
  CHECK_THROWS_AS(network.forward(x, found, other), loraplus::StateError);
}

TEST_CASE("a layer whose adapter is disabled counts as one without") {
  const auto base = frozen_network();
  const auto x = test::random_matrix<double>(6, 5, 5);
  auto partly = trained_network(base, {.lora = {.rank = 2}}, 6);
  partly.stages()[1].layer.get_if<loraplus::LoraLinear<Weight>>()->set_enabled(false);
  MultiAdapterMlp network(base);
  network.add("x", partly);
  CHECK(test::relative_distance(output(network, x), predict(partly, x)) < 1e-14);
  CHECK_FALSE(network.layers().stages()[1].layer.contains("x"));
}

TEST_CASE("an idle cache keeps no adapter that was erased or replaced, active or not") {
  const auto base = frozen_network();
  auto network = network_of_three(base);
  const auto x = test::random_matrix<double>(6, 4, 5);
  auto cache = network.make_cache(4);
  Matrix<double> y(3, 4);
  network.forward(x, y, cache);
  const auto adapter_of = [&](const std::string& name) {
    return std::weak_ptr(network.layers().stages()[2].layer.at(name));
  };
  const auto inactive = adapter_of("b");
  network.erase("b");
  CHECK(inactive.expired());
  CHECK_THROWS_AS(network.forward(x.topRows(2), y, cache), loraplus::ShapeError);
  network.add("d", trained_network(base, {.lora = {.rank = 2}}, 6));
  const auto unused = adapter_of("d");
  network.replace("d", trained_network(base, {.lora = {.rank = 2}}, 7));
  CHECK(unused.expired());
}

TEST_CASE("scopes disable and scale all layers of a network, and restore them") {
  const auto base = frozen_network();
  MultiAdapterMlp network(base);
  network.add("a", trained_network(base, {.lora = {.rank = 3}}, 2));
  const auto x = test::random_matrix<double>(6, 2, 4);
  const Matrix<double> y = output(network, x);
  {
    const loraplus::DisabledScope disabled(network);
    CHECK(test::same_bits(output(network, x), predict(base, x)));
  }
  {
    const loraplus::ScaledScope none(network, 0);
    CHECK(test::relative_distance(output(network, x), predict(base, x)) < 1e-14);
  }
  CHECK(test::same_bits(output(network, x), y));
}

TEST_CASE("what no adapter can be is refused with its layer, and nothing is changed") {
  const auto base = frozen_network();
  MultiAdapterMlp network(base);
  const auto fine = trained_network(base, {.lora = {.rank = 3}}, 2);
  network.add("a", fine);
  const auto message = [&](const AdaptedMlp<Weight>& adapted, const std::string& name = "b") {
    return test::message_of<loraplus::ArgumentError>([&] { network.add(name, adapted); });
  };
  CHECK(test::contains(message(fine, "a"), "there is an adapter 'a' already"));
  CHECK(test::contains(message(fine, "__base__"), "cannot be the name"));
  CHECK(test::contains(message(trained_network(base, {.train = {"fc3"}}, 2)),
                       "'fc3' of 'b' is trained in full"));
  CHECK(
      test::contains(message(trained_network(base, {.lora = {.bias = BiasMode::all}}, 2)), "bias"));
  CHECK(test::contains(message(trained_network(frozen_network(Activation::relu), {}, 2)),
                       "activation"));
  std::mt19937_64 generator{1};
  const auto other_shape = [&](const std::vector<Index>& widths) {
    const auto other = freeze(loraplus::make_mlp<double>(widths, Activation::tanh, generator));
    return message(trained_network(other, {}, 2));
  };
  CHECK(test::contains(other_shape({6, 9, 3}), "has 2 layers, this one has 3"));
  CHECK(test::contains(other_shape({6, 8, 7, 3}), "'fc1' of 'b' is 8 x 6, here it is 9 x 6"));
  auto biased = frozen_network();
  biased.stages()[1].layer = loraplus::FrozenLinear(biased.layer("fc2").weight(), true);
  CHECK(test::contains(
      test::message_of<loraplus::ArgumentError>([&] { MultiAdapterMlp refused(biased); }),
      "the bias of 'fc2' is being trained"));
  auto other_base = frozen_network();
  other_base.stages()[1].layer =
      loraplus::FrozenLinear(Weight(test::random_matrix<double>(7, 9, 6)));
  for (const Names& targets : {Names{"fc1"}, Names{"fc2"}}) {
    const auto other = trained_network(other_base, {.targets = targets}, 2);
    CHECK(test::contains(message(other), "'fc2' of 'b' stands on another frozen weight"));
  }
  CHECK(
      test::contains(test::message_of<loraplus::ArgumentError>([&] { network.replace("b", fine); }),
                     "'b'; there are a"));
  CHECK_THROWS_AS(network.erase("b"), loraplus::ArgumentError);
  CHECK_THROWS_AS(network.set_active({"a", "b"}), loraplus::ArgumentError);
  auto cache = network.make_cache(1);
  CHECK_THROWS_AS(network.assign(cache, Names{"b"}), loraplus::ArgumentError);
  CHECK_THROWS_AS(network.assign(cache, Names{"a", "a"}), loraplus::ShapeError);
  CHECK(network.names() == Names{"a"});
}

TEST_CASE("T7, T10: a merged network equals the unmerged one, and unmerging is exact") {
  const auto base = frozen_network();
  const auto x = test::random_matrix<double>(6, 5, 4);
  for (const bool dora : {false, true}) {
    auto network = network_of_three(base, dora);
    network.set_active({"a", "b"});
    const Matrix<double> together = output(network, x);
    auto cache = network.make_cache(5);  // one for all that follows
    Matrix<double> y(3, 5);
    for (const Names& names : {Names{"a"}, Names{"a", "b"}}) {
      network.merge(names);
      CHECK(all_merged(network, names));
      network.forward(x, y, cache);
      CHECK(test::relative_distance(y, together) < 1e-13);
      network.merge(names);  // T8: a second time changes nothing
      const Matrix<double> again = output(network, x);
      CHECK(test::same_bits(again, y));
      network.unmerge();
      CHECK(all_merged(network, {}));
      network.forward(x, y, cache);
      CHECK(test::same_bits(y, together));
    }
    network.merge({"a"});
    network.merge({"b"});  // in addition
    CHECK(all_merged(network, {"a", "b"}));
    CHECK(test::relative_distance(output(network, x), together) < 1e-13);
    network.set_enabled(false);
    CHECK(test::same_bits(output(network, x), predict(base, x)));
  }
}

TEST_CASE("K6: in a network merged adapters count beside active ones, and active or not") {
  const auto base = frozen_network();
  const auto x = test::random_matrix<double>(6, 5, 4);
  auto network = network_of_three(base);
  network.set_active({"a", "c"});
  const Matrix<double> a_and_c = output(network, x);
  network.set_active({"a"});
  const Matrix<double> a = output(network, x);
  network.merge({"c"});
  CHECK(test::relative_distance(output(network, x), a_and_c) < 1e-13);
  CHECK(test::relative_distance(a, a_and_c) > 1e-3);
  network.set_active({"c", "a"});
  CHECK(test::relative_distance(output(network, x), a_and_c) < 1e-13);
  network.set_active({});
  network.unmerge();
  CHECK(test::same_bits(output(network, x), predict(base, x)));
}

TEST_CASE("K7, T9: an adapter that is not finite in the last layer leaves all layers as they are") {
  const auto base = frozen_network();
  const auto x = test::random_matrix<double>(6, 5, 4);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    auto network = network_of_three(base);
    auto broken = trained_network(base, {.lora = {.rank = 3}}, 5);
    broken.visit_parameters([&](auto p) {
      if (p.name.str() == "fc3.lora_B") p.value(0) = bad;
    });
    network.add("broken", broken);
    network.set_active({"a", "b"});
    for (const Names& before : {Names{}, Names{"b"}, Names{"c", "b"}}) {
      if (!before.empty()) network.merge(before);
      const Matrix<double> y = output(network, x);
      for (const Names& names : {Names{"broken"}, Names{"a", "broken"}}) {
        const auto message =
            test::message_of<loraplus::NonFiniteError>([&] { network.merge(names); });
        CHECK(test::contains(message, "'fc3'"));
        CHECK(test::contains(message, "'broken'"));
        CHECK(all_merged(network, before));
        CHECK(test::same_bits(output(network, x), y));
      }
      network.unmerge();
    }
  }
}

TEST_CASE("K10: what is merged in a network is not changed, and refused by its name") {
  const auto base = frozen_network();
  const auto x = test::random_matrix<double>(6, 2, 4);
  auto network = network_of_three(base);
  network.merge({"b"});  // which the first layer does not have
  const Matrix<double> y = output(network, x);
  const auto other = trained_network(base, {.lora = {.rank = 1}}, 9);
  auto cache = network.make_cache(2);
  const auto refusal = [](auto&& change) { return test::message_of<loraplus::StateError>(change); };
  CHECK(test::contains(refusal([&] { network.replace("b", other); }), "'b' is merged"));
  CHECK(test::contains(refusal([&] { network.erase("b"); }), "'b' is merged"));
  CHECK(test::contains(refusal([&] { network.set_scale("b", 2); }), "'b' is merged"));
  CHECK(test::contains(refusal([&] { network.set_common_scale(2); }), "merged"));
  CHECK(test::contains(refusal([&] { network.assign(cache, Names{"a", "c"}); }), "'b' is merged"));
  CHECK_THROWS_AS(network.merge({"a", "nobody"}), loraplus::ArgumentError);
  CHECK(all_merged(network, {"b"}));
  CHECK(network.names() == Names{"a", "b", "c"});
  CHECK(test::same_bits(output(network, x), y));
  Matrix<double> found(3, 2);
  network.forward(x, found, cache);  // the refused assignment has left the cache as it was
  CHECK(test::same_bits(found, y));
  network.assign(cache, Names{});
  network.set_common_scale(1);
  network.replace("a", other);  // the others may change
  network.set_scale("c", 3);
  network.erase("c");
  CHECK(network.names() == Names{"a", "b"});
  network.unmerge();
  network.replace("b", other);
  network.set_common_scale(2);
  CHECK(test::contains(refusal([&] { network.merge({"b"}); }), "common scale"));
  CHECK(all_merged(network, {}));
}

TEST_CASE("K5: with DoRA only the first of the active adapters of a network are merged") {
  const auto base = frozen_network();
  const auto x = test::random_matrix<double>(6, 2, 4);
  auto network = network_of_three(base, true);
  const auto dora = trained_network(base, {.lora = {.rank = 1, .dora = true}}, 9);
  network.set_active({"a", "b", "c"});
  const Matrix<double> y = output(network, x);
  CHECK_THROWS_AS(network.merge({"b"}), loraplus::StateError);
  CHECK_THROWS_AS(network.merge({"a", "c"}), loraplus::StateError);
  CHECK(all_merged(network, {}));
  network.merge({"a"});
  CHECK_THROWS_AS(network.set_active({"b", "a"}), loraplus::StateError);
  CHECK_THROWS_AS(network.set_active({}), loraplus::StateError);
  CHECK(network.active() == Names{"a", "b", "c"});
  CHECK(test::relative_distance(output(network, x), y) < 1e-13);
  network.replace("c", dora);  // which comes after what is merged
  network.erase("b");
  CHECK(network.active() == Names{"a", "c"});
  network.unmerge();
  network.erase("a");
  network.add("b", trained_network(base, {.lora = {.rank = 2}}, 3));
  network.set_active({"b"});
  network.replace("c", trained_network(base, {.lora = {.rank = 2}}, 4));
  network.merge({"c"});
  const Matrix<double> before = output(network, x);
  CHECK_THROWS_AS(network.replace("b", dora), loraplus::StateError);  // c is not before it
  network.add("a", dora);
  CHECK_THROWS_AS(network.erase("b"), loraplus::StateError);  // a would become active
  CHECK(network.names() == Names{"a", "b", "c"});
  CHECK(test::same_bits(output(network, x), before));
}

TEST_CASE("K5: an adapter that leaves a layer where DoRA would follow on it is replaced in all") {
  const auto base = frozen_network();
  const auto x = test::random_matrix<double>(6, 2, 4);
  MultiAdapterMlp network(base);
  network.add("d", trained_network(base, {.lora = {.rank = 2, .dora = true}}, 2));
  network.add("m", trained_network(base, {.lora = {.rank = 2}}, 3));
  network.add("n", trained_network(base, {.lora = {.rank = 2}}, 4));
  network.set_active({"n"});
  network.merge({"m"});
  const auto first = trained_network(base, {.lora = {.rank = 3}, .targets = {"fc1"}}, 5);
  network.replace("n", first);  // in fc2 and fc3 "n" was the only active one, and "d" is there
  CHECK(network.active() == Names{"n"});
  CHECK(all_merged(network, {"m"}));
  CHECK(network.layers().layer("fc2").active().empty());
  CHECK_FALSE(network.layers().layer("fc3").contains("n"));
  network.unmerge();
  CHECK(test::relative_distance(output(network, x), predict(first, x)) < 1e-13);
}

TEST_CASE("T5, T6: the scale of one adapter of a network, in all of its layers") {
  const auto base = frozen_network();
  const auto x = test::random_matrix<double>(6, 4, 4);
  MultiAdapterMlp network(base);
  const auto given = trained_network(base, {.lora = {.rank = 3}, .targets = {"fc1", "fc3"}}, 2);
  // The same with B three times as large.
  auto tripled = given;
  tripled.visit_parameters([](auto p) {
    if (p.role == loraplus::Role::lora_b) p.value *= 3;
  });
  network.add("a", given);
  network.add("b", given);
  CHECK(network.scale("a") == 1);
  network.set_scale("a", 2);
  network.set_scale("a", 3);  // not 6
  CHECK(network.scale("a") == 3);
  CHECK(network.scale("b") == 1);
  CHECK(test::relative_distance(output(network, x), predict(tripled, x)) < 1e-13);
  CHECK(test::relative_distance(output(network, x, Names(4, "b")), predict(given, x)) < 1e-13);
  network.merge({"a"});
  CHECK(test::relative_distance(output(network, x), predict(tripled, x)) < 1e-13);
  network.unmerge();
  CHECK(test::relative_distance(predict(network.adapted("a"), x), predict(given, x)) < 1e-13);

  // It stays when the adapter is replaced, in layers that it is new to as well.
  auto larger = trained_network(base, {.lora = {.rank = 2}, .targets = {"fc2", "fc3"}}, 7);
  network.replace("a", larger);
  CHECK(network.scale("a") == 3);
  larger.visit_parameters([](auto p) {
    if (p.role == loraplus::Role::lora_b) p.value *= 3;
  });
  CHECK(test::relative_distance(output(network, x), predict(larger, x)) < 1e-13);

  const Matrix<double> y = output(network, x);
  CHECK_THROWS_AS(network.set_scale("a", std::numeric_limits<double>::infinity()),
                  loraplus::ArgumentError);
  CHECK_THROWS_AS(network.set_common_scale(std::numeric_limits<double>::quiet_NaN()),
                  loraplus::ArgumentError);
  CHECK(network.common_scale() == 1);
  CHECK_THROWS_AS(network.set_scale("nobody", 1), loraplus::ArgumentError);
  CHECK_THROWS_AS(network.scale("nobody"), loraplus::ArgumentError);
  CHECK(test::same_bits(output(network, x), y));
  network.erase("a");
  network.add("a", given);
  CHECK(network.scale("a") == 1);
}

TEST_CASE(
    "T26: adapters of other ranks take a place in a network, and padding one changes nothing") {
  const auto base = frozen_network();
  const auto x = test::random_matrix<double>(6, 4, 4);
  MultiAdapterMlp network(base);
  const auto seven = trained_network(base, {.lora = {.rank = 7, .alpha = 3}}, 2);
  const auto thirteen = trained_network(base, {.lora = {.rank = 13}}, 3);
  network.add("a", seven);
  auto cache = network.make_cache(4);
  Matrix<double> y(3, 4);
  for (const auto* next : {&thirteen, &seven, &thirteen}) {
    network.replace("a", *next);
    network.forward(x, y, cache);
    CHECK(test::relative_distance(y, predict(*next, x)) < 1e-13);
  }
  // Rows of A and columns of B that are zero: of a larger rank, and of the scaling that it had.
  std::vector<AdaptedMlp<Weight>::Stage> stages;
  for (const auto& stage : seven.stages()) {
    const auto& layer = *stage.layer.get_if<loraplus::LoraLinear<Weight>>();
    auto factors = layer.factors().factors();
    factors.a.conservativeResizeLike(
        loraplus::RowMajorMatrix<double>::Zero(13, layer.in_features()));
    factors.b.conservativeResizeLike(Matrix<double>::Zero(layer.out_features(), 13));
    stages.push_back(
        {stage.name, loraplus::LoraLinear<Weight>(layer.weight(), factors), stage.activation});
  }
  network.replace("a", AdaptedMlp<Weight>(std::move(stages)));
  CHECK(network.layers().stages()[0].layer.at("a")->rank() == 13);
  network.forward(x, y, cache);
  CHECK(test::relative_distance(y, predict(seven, x)) < 1e-14);
}
