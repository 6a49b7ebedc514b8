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
