#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/adapter/lora_set.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"
#include "support/trained_adapter.hpp"

using loraplus::Adapter;
using loraplus::Index;
using loraplus::LoraOptions;
using loraplus::LoraSet;
using loraplus::Matrix;
using loraplus::SharedWeight;
using test::trained_adapter;

namespace {

using Names = std::vector<std::string>;

template <typename Scalar>
SharedWeight<Scalar> set_weight() {
  return SharedWeight<Scalar>(test::random_matrix<Scalar>(5, 7, 1),
                              test::random_vector<Scalar>(5, 2));
}

/// Adapters "a", "b" and "c" of different ranks, none with DoRA.
template <typename Scalar>
LoraSet<SharedWeight<Scalar>> three() {
  LoraSet set(set_weight<Scalar>());
  set.add("b", trained_adapter(set.weight(), {.rank = 3, .alpha = 5}, 20));
  set.add("a", trained_adapter(set.weight(), {.rank = 2, .lora_bias = true}, 10));
  set.add("c", trained_adapter(set.weight(), {.rank = 8, .alpha = 2}, 30));
  return set;
}

template <typename Scalar>
Matrix<Scalar> base_output(const Matrix<Scalar>& x) {
  Matrix<Scalar> y(5, x.cols());
  set_weight<Scalar>().forward(x, y);
  return y;
}

/// What one adapter computes by itself.
template <typename Scalar>
Matrix<Scalar> alone(const LoraSet<SharedWeight<Scalar>>& set, const std::string& name,
                     const Matrix<Scalar>& x) {
  LoraSet<SharedWeight<Scalar>> single(set);
  single.set_active({name});
  return predict(single, x);
}

}  // namespace

TEST_CASE("T10: the active adapters add up; one is as a layer with it alone") {
  auto set = three<double>();
  const auto x = test::random_matrix<double>(7, 4, 5);
  const Matrix<double> base = base_output<double>(x);
  CHECK(set.names() == Names{"a", "b", "c"});
  CHECK(set.active() == Names{"b"});  // the first that was added
  const Matrix<double> a = alone(set, "a", x), b = alone(set, "b", x);
  CHECK(test::same_bits(predict(set, x), b));
  const loraplus::LoraLinear layer{set.weight(), set.at("b")->factors()};
  CHECK(test::relative_distance(b, predict(layer, x)) < 1e-14);
  CHECK(test::relative_distance(a, b) > 0.1);
  set.set_active({"a", "b"});
  CHECK(test::relative_distance(predict(set, x), a + b - base) < 1e-14);
  set.set_active({});
  CHECK(test::same_bits(predict(set, x), base));
}

TEST_CASE("T10, K7: adapters merge together, one after the other or at once, and unmerge exactly") {
  auto set = three<double>();
  const auto x = test::random_matrix<double>(7, 4, 5);
  set.set_active({"a", "b"});
  const Matrix<double> both = predict(set, x);
  set.merge({"a", "b"});
  const Matrix<double> merged = predict(set, x);
  CHECK(test::relative_distance(merged, both) < 1e-14);
  set.unmerge();
  CHECK(test::same_bits(predict(set, x), both));
  set.merge({"a"});
  set.merge({"b", "a"});  // a is there already
  CHECK(set.merged() == Names{"a", "b"});
  CHECK(test::same_bits(predict(set, x), merged));
  set.set_enabled(false);
  CHECK(test::same_bits(predict(set, x), base_output<double>(x)));
}

TEST_CASE("K6: active adapters that are not merged are added to those that are") {
  auto set = three<double>();
  const auto x = test::random_matrix<double>(7, 4, 5);
  set.set_active({"a", "c"});
  const Matrix<double> expected = predict(set, x);
  set.merge({"a"});
  CHECK(test::relative_distance(predict(set, x), expected) < 1e-14);
}

TEST_CASE("T8, T9: merging twice does nothing; what is not finite is named and changes nothing") {
  auto set = three<double>();
  const auto x = test::random_matrix<double>(7, 4, 5);
  auto broken = trained_adapter(set.weight(), {.rank = 2}, 40);
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    auto factors = broken.factors().factors();
    factors.b(3, 1) = bad;
    broken.factors().set_factors(factors);
    if (!set.contains("broken")) set.add("broken", broken);
    set.replace("broken", broken);
    set.merge({"a"});
    const Matrix<double> before = predict(set, x);
    CHECK(test::contains(test::message_of<loraplus::NonFiniteError>([&] {
                           set.merge({"b", "broken"});
                         }),
                         "'broken'"));
    CHECK(set.merged() == Names{"a"});
    CHECK(test::same_bits(predict(set, x), before));
    set.unmerge();
  }
}

TEST_CASE("T9: who is at fault for a merged weight that is not finite is named") {
  const auto merging = [](Matrix<float> w, loraplus::Vector<float> b) {
    LoraSet set(SharedWeight<float>(std::move(w), std::move(b)));
    set.add("it", trained_adapter(set.weight(), {.rank = 2, .lora_bias = true}, 10));
    auto factors = set.at("it")->factors().factors();
    factors.bias.setConstant(1e38F);
    set.at("it")->factors().set_factors(factors);
    return test::message_of<loraplus::NonFiniteError>([&] { set.merge({"it"}); });
  };
  const auto w = test::random_matrix<float>(5, 7, 1);
  loraplus::Vector<float> b = test::random_vector<float>(5, 2);
  Matrix<float> broken = w;
  broken(0, 0) = std::numeric_limits<float>::quiet_NaN();
  CHECK(test::contains(merging(broken, b), "the frozen weight"));
  b(1) = 3.4e38F;  // to which the bias of B is one too much
  CHECK(test::contains(merging(w, b), "'it'"));
}

TEST_CASE(
    "K5, K20: adapters with DoRA follow one rule, with norms of the frozen weight, merged too") {
  LoraSet set(set_weight<double>());
  set.add("plain", trained_adapter(set.weight(), {.rank = 2, .lora_bias = true}, 10));
  set.add("first", trained_adapter(set.weight(), {.rank = 3, .dora = true}, 20));
  set.add("second", trained_adapter(set.weight(), {.rank = 2, .alpha = 4, .dora = true}, 30));
  const auto x = test::random_matrix<double>(7, 4, 5);
  const Matrix<double> w = set.weight().weight();
  const loraplus::Vector<double> b0 = set.weight().bias();
  for (const Names& order : {Names{"first", "second"}, Names{"second", "plain", "first"}}) {
    Matrix<double> y = w * x;
    for (const std::string& name : order) {
      const auto adapter = set.at(name);
      Matrix<double> delta = Matrix<double>::Zero(5, 7);
      adapter->factors().add_to(delta);
      y += delta * x;
      if (adapter->factors().has_bias()) {
        y.colwise() += adapter->factors().scaling() * adapter->factors().bias();
      }
      if (adapter->magnitude() == nullptr) continue;
      const loraplus::Vector<double> norm = (w + delta).rowwise().norm();
      y = adapter->magnitude()->values().cwiseQuotient(norm).asDiagonal() * y;
    }
    y.colwise() += b0;
    set.set_active(order);
    CHECK(test::relative_distance(predict(set, x), y) < 1e-13);
    for (std::size_t merged = 1; merged <= order.size(); ++merged) {  // one after the other
      set.merge({order[merged - 1]});
      CHECK(test::relative_distance(predict(set, x), y) < 1e-13);
    }
    CHECK_THROWS_AS(set.set_active({order[1], order[0]}), loraplus::StateError);
    set.unmerge();
    CHECK_THROWS_AS(set.merge({order[1]}), loraplus::StateError);  // before the one that it scales
  }
}

TEST_CASE("where the order counts, no change puts another adapter before those that are merged") {
  LoraSet set(set_weight<double>());
  set.add("dora", trained_adapter(set.weight(), {.rank = 2, .dora = true}, 10));
  set.add("plain", trained_adapter(set.weight(), {.rank = 2}, 20));
  set.add("third", trained_adapter(set.weight(), {.rank = 3}, 30));
  set.set_active({"plain"});
  set.merge({"third"});
  CHECK_THROWS_AS(set.erase("plain"), loraplus::StateError);  // "dora" would be active
  CHECK(set.active() == Names{"plain"});
  CHECK_THROWS_AS(set.replace("plain", *set.at("dora")), loraplus::StateError);
  CHECK(set.at("plain")->magnitude() == nullptr);
  set.unmerge();
  set.replace("plain", *set.at("dora"));
  set.erase("plain");
  CHECK(set.active() == Names{"dora"});
}

TEST_CASE("merging no adapters does nothing") {
  auto set = three<double>();
  set.merge({});
  auto cache = set.make_cache(1);
  CHECK_NOTHROW(set.assign(cache, Names{"a"}));
  set.merge({"a"});
  set.merge({});
  CHECK(set.merged() == Names{"a"});
}

TEST_CASE("the gradients of several active adapters, with dropout") {
  for (const double dropout : {0.0, 0.4}) {
    LoraSet set(set_weight<double>());
    set.add("a",
            trained_adapter(set.weight(), {.rank = 2, .dropout = dropout, .lora_bias = true}, 10));
    set.add("b", trained_adapter(set.weight(), {.rank = 3, .alpha = 5, .dropout = dropout}, 20));
    set.set_active({"b", "a"});
    set.set_scale("a", 1.5);
    for (const Index n : {1, 4}) {
      test::require_gradients(set, n, 6, std::mt19937_64{7});
      test::require_accumulation(set, n, 6, std::mt19937_64{7});
    }
  }
}

TEST_CASE("the gradients of a chain of DoRA and plain adapters are those of the chain") {
  // With the norms held: m / n is then a fixed diagonal, which another set has as plain numbers.
  LoraSet set(set_weight<double>());
  set.add("dora", trained_adapter(set.weight(), {.rank = 3, .dora = true}, 20));
  set.add("plain", trained_adapter(set.weight(), {.rank = 2}, 10));
  set.add("last", trained_adapter(set.weight(), {.rank = 1, .dora = true}, 30));
  set.set_active({"dora", "plain", "last"});
  const auto x = test::random_matrix<double>(7, 4, 5), dy = test::random_matrix<double>(5, 4, 6);
  auto cache = set.make_cache(4);
  Matrix<double> y(5, 4), dx(7, 4);
  set.forward(x, y, cache);
  set.backward(x, dy, dx, cache);

  const Matrix<double> w = set.weight().weight();
  const auto delta_of = [&](const std::string& name) {
    Matrix<double> delta = Matrix<double>::Zero(5, 7);
    set.at(name)->factors().add_to(delta);
    return delta;
  };
  const auto f_of = [&](const std::string& name) -> loraplus::Vector<double> {
    return set.at(name)->magnitude()->values().cwiseQuotient((w + delta_of(name)).rowwise().norm());
  };
  const auto f1 = f_of("dora"), f3 = f_of("last");
  const Matrix<double> g3 = f3.asDiagonal() * dy;  // behind last, and behind plain
  const Matrix<double> g1 = f1.asDiagonal() * g3;  // behind dora
  const Matrix<double> expected = w.transpose() * g1 + delta_of("dora").transpose() * g1 +
                                  delta_of("plain").transpose() * g3 +
                                  delta_of("last").transpose() * g3;
  CHECK(test::relative_distance(dx, expected) < 1e-13);
  const auto& plain = set.at("plain")->factors();
  CHECK(test::relative_distance(plain.b_gradient(),
                                plain.scaling() * g3 * (plain.a() * x).transpose()) < 1e-13);
  const auto& dora = set.at("dora")->factors();
  CHECK(test::relative_distance(dora.b_gradient(),
                                dora.scaling() * g1 * (dora.a() * x).transpose()) < 1e-13);
  const Matrix<double> v = w * x + delta_of("dora") * x;
  CHECK(test::relative_distance(set.at("dora")->magnitude()->gradient(),
                                g3.cwiseProduct(v).rowwise().sum().cwiseQuotient(
                                    (w + delta_of("dora")).rowwise().norm())) < 1e-13);
}

TEMPLATE_TEST_CASE("T14: each sample through an adapter of its own, or none", "", float, double) {
  using Scalar = TestType;
  const double tolerance = std::is_same_v<Scalar, float> ? 1e-6 : 1e-14;
  auto set = three<Scalar>();
  set.add("d", trained_adapter(set.weight(), {.rank = 2, .dora = true}, 50));
  const Names choices{"__base__", "a", "d", "b"};
  const auto x = test::random_matrix<Scalar>(7, 11, 5);
  Names names;
  for (std::size_t i = 0; i < 11; ++i) {
    names.push_back(choices[i * 7 % 4]);
  }
  auto cache = set.make_cache(12);
  set.assign(cache, names);
  Matrix<Scalar> y(5, 11);
  set.forward(x, y, cache);
  for (Index i = 0; i < 11; ++i) {
    const std::string& name = names[static_cast<std::size_t>(i)];
    const Matrix<Scalar> one = x.col(i);
    const Matrix<Scalar> expected =
        name == "__base__" ? base_output<Scalar>(one) : alone(set, name, one);
    CHECK(test::relative_distance(y.col(i), expected) < tolerance);
  }
  set.set_enabled(false);  // which wins
  set.forward(x, y, cache);
  CHECK(test::same_bits(y, base_output<Scalar>(x)));
  set.set_enabled(true);
  set.assign(cache, {});
  set.forward(x, y, cache);
  CHECK(test::same_bits(y, predict(set, x)));
}

namespace {

/// Counts the columns that pass through it.
struct CountingWeight : SharedWeight<double> {
  using SharedWeight<double>::SharedWeight;
  std::shared_ptr<Index> columns = std::make_shared<Index>(0);

  void forward(loraplus::ConstMatrixView<double> x, loraplus::MatrixView<double> y) const {
    *columns += x.cols();
    SharedWeight<double>::forward(x, y);
  }
};

}  // namespace

TEST_CASE("an adapter that is assigned again keeps the norm of DoRA, whatever its samples") {
  const CountingWeight weight(test::random_matrix<double>(5, 7, 1));
  LoraSet set(weight);
  set.add("a", trained_adapter(weight, {.rank = 2, .dora = true}, 10));
  set.add("b", trained_adapter(weight, {.rank = 3, .dora = true}, 20));
  const auto x = test::random_matrix<double>(7, 4, 5);
  Matrix<double> y(5, 4);
  auto cache = set.make_cache(4);
  const auto columns_of = [&](const Names& names) {
    const Index before = *weight.columns;
    set.assign(cache, names);
    set.forward(x, y, cache);
    for (Index i = 0; i < 4; ++i) {
      const Matrix<double> one = x.col(i);
      LoraSet single(SharedWeight<double>(weight.weight()));
      single.add("it", *set.at(names[static_cast<std::size_t>(i)]));
      CHECK(test::relative_distance(y.col(i), predict(single, one)) < 1e-14);
    }
    return *weight.columns - before;
  };
  CHECK(columns_of({"a", "b", "b", "b"}) == 4 + 2 + 3);
  CHECK(columns_of({"b", "a", "a", "a"}) == 4);
  CHECK(columns_of({"a", "a", "a", "a"}) == 4);
  CHECK(columns_of({"a", "a", "a", "b"}) == 4 + 3);
  set.replace("a", trained_adapter(weight, {.rank = 2, .dora = true}, 30));
  CHECK(columns_of({"a", "a", "a", "b"}) == 4 + 2);
  set.assign(cache, {});
  set.set_active({"b"});
  set.forward(x, y, cache);  // with room for all samples
  CHECK(test::same_bits(y, predict(set, x)));
}

TEST_CASE("T14: what cannot be assigned is refused with a reason") {
  auto set = three<double>();
  auto cache = set.make_cache(3);
  const auto x = test::random_matrix<double>(7, 3, 5);
  Matrix<double> y(5, 3);
  CHECK(test::contains(test::message_of<loraplus::ArgumentError>([&] {
                         set.assign(cache, Names{"a", "nobody"});
                       }),
                       "'nobody'; there are a, b, c"));
  CHECK_THROWS_AS(set.assign(cache, Names{"a", "a", "a", "a"}), loraplus::ShapeError);
  set.assign(cache, Names{"a", "b"});
  CHECK(test::contains(test::message_of<loraplus::ShapeError>([&] { set.forward(x, y, cache); }),
                       "assigned to 2"));
  set.assign(cache, Names{"a", "b", "a"});
  std::mt19937_64 generator{1};
  CHECK_THROWS_AS(set.forward(x, y, cache, generator), loraplus::StateError);
  set.forward(x, y, cache);
  CHECK_THROWS_AS(set.backward(x, y, cache), loraplus::StateError);
  set.merge({"c"});
  CHECK_THROWS_AS(set.assign(cache, Names{"a"}), loraplus::StateError);
  set.forward(x, y, cache);  // by the active ones, after an assignment that failed
  CHECK(test::same_bits(y, predict(set, x)));
}

TEST_CASE("T5, T6, T33: scales are by adapter or common, do not add up, and scopes restore them") {
  auto set = three<double>();
  const auto x = test::random_matrix<double>(7, 4, 5);
  const Matrix<double> base = base_output<double>(x), b = predict(set, x);
  const auto times = [&](double scale) { return base + scale * (b - base); };
  set.set_scale("b", 2);
  set.set_scale("b", 3);
  CHECK(set.scale("b") == 3);
  CHECK(set.scale("a") == 1);
  CHECK(test::relative_distance(predict(set, x), times(3)) < 1e-14);
  set.set_common_scale(2);
  CHECK(test::relative_distance(predict(set, x), times(6)) < 1e-14);
  set.set_common_scale(1);
  set.set_scale("b", 1);
  CHECK(test::same_bits(predict(set, x), b));
  {
    const loraplus::ScaledScope none(set, 0);
    CHECK(test::relative_distance(predict(set, x), base) < 1e-15);
    const loraplus::DisabledScope disabled(set);
    CHECK(test::same_bits(predict(set, x), base));
  }
  CHECK(test::same_bits(predict(set, x), b));
  CHECK_THROWS_AS(set.set_scale("b", std::numeric_limits<double>::infinity()),
                  loraplus::ArgumentError);
  CHECK_THROWS_AS(set.set_scale("nobody", 1), loraplus::ArgumentError);
  set.set_common_scale(2);
  {
    const loraplus::ScaledScope halved(set, 0.5);
    set.merge({"b"});
    CHECK(test::relative_distance(predict(set, x), b) < 1e-14);
  }
  CHECK(set.merged().empty());
  CHECK(test::relative_distance(predict(set, x), times(2)) < 1e-14);
  set.set_common_scale(1);
  set.merge({"b"});
  CHECK_THROWS_AS(set.set_scale("b", 2), loraplus::StateError);
  CHECK_THROWS_AS(set.set_common_scale(2), loraplus::StateError);
}

TEST_CASE("scales that are not finite are refused, alone at once, as a product by the pass") {
  auto set = three<float>();
  const auto x = test::random_matrix<float>(7, 4, 5);
  CHECK_THROWS_AS(set.set_scale("b", 1e39), loraplus::ArgumentError);  // infinite in float
  CHECK_THROWS_AS(set.set_common_scale(1e39), loraplus::ArgumentError);
  const auto refusal = [&](auto&& pass) {
    return test::contains(test::message_of<loraplus::NonFiniteError>(pass), "'b'");
  };
  set.set_common_scale(1e10);
  {
    const loraplus::ScaledScope scope(set, 1e-10);
    set.set_scale("b", 1e35);
    CHECK(predict(set, x).allFinite());
  }  // nothing is thrown here, though the product is 1e45
  CHECK(set.common_scale() == 1e10);
  CHECK(refusal([&] { predict(set, x); }));
  auto cache = set.make_cache(4);
  Matrix<float> y(5, 4);
  set.assign(cache, Names(4, "b"));
  CHECK(refusal([&] { set.forward(x, y, cache); }));
  set.set_common_scale(1);
  CHECK_NOTHROW(predict(set, x));
  set.add("large", trained_adapter(set.weight(), {.rank = 1, .alpha = 1e10}, 1));
  set.set_scale("large", 1e30);
  set.set_active({"large"});
  CHECK_THROWS_AS(predict(set, x), loraplus::NonFiniteError);  // with its own scaling
}

TEST_CASE("a merge that was prepared is refused once the set has changed") {
  auto set = three<double>();
  const auto x = test::random_matrix<double>(7, 4, 5);
  auto prepared = set.prepare_merge({"b"}, "test");
  set.set_scale("b", 0);
  CHECK_THROWS_AS(set.commit_merge(prepared), loraplus::StateError);
  prepared = set.prepare_merge({"b", "c"}, "test");
  set.erase("c");
  CHECK_THROWS_AS(set.commit_merge(prepared), loraplus::StateError);
  CHECK(set.merged().empty());
  set.commit_merge(set.prepare_merge({"b"}, "test"));
  CHECK(test::same_bits(predict(set, x), base_output<double>(x)));
}

TEST_CASE("a cache follows an adapter that another was assigned to") {
  auto set = three<double>();
  const auto x = test::random_matrix<double>(7, 4, 5);
  auto cache = set.make_cache(4);
  Matrix<double> y(5, 4);
  for (const bool assigned : {false, true}) {
    const Names names(assigned ? 4 : 0, "b");
    for (const LoraOptions& options :
         {LoraOptions{.rank = 2}, {.rank = 9, .dora = true}, {.rank = 4, .dora = true}}) {
      *set.at("b") = trained_adapter(set.weight(), options, 40);
      set.assign(cache, names);
      set.forward(x, y, cache);
      CHECK(test::relative_distance(y, predict(set, x)) < 1e-14);
    }
  }
}

TEST_CASE("T15: who is erased leaves nothing; an active one is followed by the first by name") {
  auto set = three<double>();
  const auto x = test::random_matrix<double>(7, 4, 5);
  const Matrix<double> a = alone(set, "a", x);
  set.merge({"b"});
  CHECK(test::contains(test::message_of<loraplus::StateError>([&] { set.erase("b"); }), "'b'"));
  CHECK(set.names() == Names{"a", "b", "c"});
  set.unmerge();
  set.erase("b");
  CHECK(set.active() == Names{"a"});
  CHECK(test::same_bits(predict(set, x), a));
  set.set_active({"c", "a"});
  set.erase("a");
  CHECK(set.active() == Names{"c"});
  set.erase("c");
  CHECK(set.active().empty());
  CHECK(test::same_bits(predict(set, x), base_output<double>(x)));
  CHECK_THROWS_AS(set.erase("c"), loraplus::ArgumentError);
}

TEST_CASE("T16: a name that is taken, or none, is refused and nothing is changed") {
  auto set = three<double>();
  const auto x = test::random_matrix<double>(7, 4, 5);
  const Matrix<double> b = predict(set, x);
  std::mt19937_64 generator{1};
  CHECK_THROWS_AS(set.add("b", {.rank = 2}, generator), loraplus::ArgumentError);
  CHECK_THROWS_AS(set.add("", {.rank = 2}, generator), loraplus::ArgumentError);
  CHECK_THROWS_AS(set.add("__base__", {.rank = 2}, generator), loraplus::ArgumentError);
  CHECK_THROWS_AS(set.set_active({"a", "a"}), loraplus::ArgumentError);
  CHECK_THROWS_AS(set.set_active({"a", "nobody"}), loraplus::ArgumentError);
  CHECK(test::contains(test::message_of<loraplus::ArgumentError>(
                           [&] { set.add("d", {.bias = loraplus::BiasMode::all}, generator); }),
                       "which all adapters share"));
  const SharedWeight<double> other(test::random_matrix<double>(6, 7, 1));
  CHECK(test::contains(test::message_of<loraplus::ShapeError>([&] {
                         set.replace("a", Adapter<double>(other, {.rank = 2}, generator));
                       }),
                       "6 x 7, the weight is 5 x 7"));
  CHECK(set.names() == Names{"a", "b", "c"});
  CHECK(test::same_bits(predict(set, x), b));
}

TEST_CASE("T26: adapters of other ranks take a place, back and forth, with one cache") {
  auto set = three<double>();
  const auto seven = trained_adapter(set.weight(), {.rank = 7, .alpha = 3}, 60);
  const auto thirteen = trained_adapter(set.weight(), {.rank = 13}, 70);
  const auto x = test::random_matrix<double>(7, 4, 5);
  auto cache = set.make_cache(4);
  Matrix<double> y(5, 4);
  for (int round = 0; round < 2; ++round) {
    for (const auto* adapter : {&seven, &thirteen}) {
      set.replace("b", *adapter);
      set.forward(x, y, cache);
      const loraplus::LoraLinear layer{set.weight(), adapter->factors()};
      CHECK(test::relative_distance(y, predict(layer, x)) < 1e-14);
    }
  }
}

TEST_CASE("a cache of another set, and an optimizer of another adapter, are refused") {
  auto set = three<double>();
  auto other = three<double>();
  auto cache = other.make_cache(4);
  const auto x = test::random_matrix<double>(7, 4, 5);
  Matrix<double> y(5, 4);
  CHECK_THROWS_AS(set.forward(x, y, cache), loraplus::StateError);
  CHECK_THROWS_AS(set.assign(cache, Names{"a"}), loraplus::StateError);
  CHECK_THROWS_AS(set.fix(cache), loraplus::StateError);
  other.forward(x, y, cache);
  auto copy = other;
  CHECK_THROWS_AS(copy.backward(x, y, cache), loraplus::StateError);
  {
    const auto gone = std::make_unique<LoraSet<SharedWeight<double>>>(three<double>());
    cache = gone->make_cache(4);
  }
  for (int i = 0; i < 8; ++i) {  // one may have the memory of the other
    const auto next = std::make_unique<LoraSet<SharedWeight<double>>>(three<double>());
    CHECK_THROWS_AS(next->forward(x, y, cache), loraplus::StateError);
  }
  set.add("twin", trained_adapter(set.weight(), {.rank = 3, .alpha = 5}, 90));
  loraplus::Optimizer optimizer{loraplus::AdamW{}, set};
  set.set_active({"twin"});
  CHECK_THROWS_AS(optimizer.step(set), loraplus::StateError);
}

TEST_CASE(
    "an assignment has the scales of its time, but for the common one; a scaled set does not "
    "merge") {
  auto set = three<double>();
  const auto x = test::random_matrix<double>(7, 2, 5);
  const Matrix<double> base = base_output<double>(x), b = predict(set, x);
  auto cache = set.make_cache(2);
  set.assign(cache, Names{"b", "b"});
  set.set_scale("b", 7);
  Matrix<double> y(5, 2);
  {
    const loraplus::ScaledScope half(set, 0.5);
    set.forward(x, y, cache);
    CHECK(test::relative_distance(y, base + 0.5 * (b - base)) < 1e-13);
    CHECK_THROWS_AS(set.merge({"a"}), loraplus::StateError);
  }
  set.forward(x, y, cache);
  CHECK(test::relative_distance(y, b) < 1e-13);
  {
    const loraplus::ScaledScope one(set, 1);
    set.merge({"a"});
  }
  CHECK(set.merged() == Names{"a"});
}

TEST_CASE("K10: an adapter that is merged is not replaced, and a replaced one is seen at once") {
  auto set = three<double>();
  const auto x = test::random_matrix<double>(7, 4, 5);
  const auto other = trained_adapter(set.weight(), {.rank = 7}, 60);
  set.merge({"b"});
  const Matrix<double> merged = predict(set, x);
  CHECK(test::contains(test::message_of<loraplus::StateError>([&] { set.replace("b", other); }),
                       "'b' is merged"));
  CHECK(test::same_bits(predict(set, x), merged));
  set.unmerge();
  set.replace("b", other);
  set.merge({"b"});
  const loraplus::LoraLinear layer{set.weight(), other.factors()};
  CHECK(test::relative_distance(predict(set, x), predict(layer, x)) < 1e-14);
}

TEST_CASE("a set trains as a layer with the one active adapter does, LoRA+ included") {
  std::mt19937_64 generator{1};
  LoraSet set(set_weight<double>());
  set.add("a", {.rank = 2, .alpha = 4}, generator);
  generator.seed(1);
  loraplus::LoraLinear layer{set_weight<double>(), {.rank = 2, .alpha = 4}, generator};
  const auto x = test::random_matrix<double>(7, 4, 5), dy = test::random_matrix<double>(5, 4, 6);
  const auto train = [&](auto& model) {
    loraplus::LoraPlus optimizer{loraplus::AdamW{.learning_rate = 1e-2}, {.ratio = 16}, model};
    auto cache = model.make_cache(4);
    Matrix<double> y(5, 4);
    for (int step = 0; step < 5; ++step) {
      model.forward(x, y, cache);
      model.backward(x, dy, cache);
      optimizer.step(model);
    }
  };
  train(set);
  train(layer);
  CHECK(test::relative_distance(predict(set, x), predict(layer, x)) < 1e-13);
}

TEST_CASE("adapters of a set hold no gradients before they are trained in it") {
  auto set = three<double>();
  CHECK(set.at("b")->factors().a_gradient().size() == 0);
  const auto x = test::random_matrix<double>(7, 4, 5), dy = test::random_matrix<double>(5, 4, 6);
  auto cache = set.make_cache(4);
  Matrix<double> y(5, 4);
  set.forward(x, y, cache);
  set.backward(x, dy, cache);
  const auto& factors = set.at("b")->factors();
  CHECK(test::relative_distance(factors.b_gradient(),
                                factors.scaling() * dy * (factors.a() * x).transpose()) < 1e-14);
  CHECK(set.at("a")->factors().a_gradient().size() == 0);
}

TEST_CASE("a copy of a set has adapters of its own over the same weight") {
  auto set = three<double>();
  LoraSet copy(set);
  CHECK(copy.weight().weight().data() == set.weight().weight().data());
  CHECK(copy.at("a") != set.at("a"));
  const auto x = test::random_matrix<double>(7, 4, 5);
  const Matrix<double> before = predict(set, x);
  copy.visit_parameters([](auto p) { p.value.setZero(); });
  copy.erase("a");
  CHECK(test::same_bits(predict(set, x), before));
}

TEST_CASE("dropout with DoRA is refused by a set, which evaluates it") {
  LoraSet set(set_weight<double>());
  set.add("a", trained_adapter(set.weight(), {.rank = 2, .dropout = 0.5, .dora = true}, 10));
  auto cache = set.make_cache(3);
  const auto x = test::random_matrix<double>(7, 3, 5);
  Matrix<double> y(5, 3);
  std::mt19937_64 generator{1};
  CHECK_THROWS_AS(set.forward(x, y, cache, generator), loraplus::StateError);
  CHECK_NOTHROW(set.forward(x, y, cache));
}

TEST_CASE("an empty batch, and passes that do not belong together") {
  auto set = three<double>();
  auto cache = set.make_cache(3);
  Matrix<double> none(7, 0), y(5, 0), dx(7, 0);
  set.forward(none, y, cache);
  set.backward(none, y, dx, cache);
  const Matrix<double> x = Matrix<double>::Ones(7, 3);
  Matrix<double> y3(5, 3);
  CHECK_THROWS_AS(set.backward(x, y3, cache), loraplus::StateError);
  set.forward(x, y3, cache);
  set.assign(cache, Names{"a", "b", "c"});  // as many as the pass had
  CHECK_THROWS_AS(set.backward(x, y3, cache), loraplus::StateError);
  set.assign(cache, {});
  CHECK_THROWS_AS(set.backward(x, y3, cache), loraplus::StateError);
  set.forward(x, y3, cache);
  CHECK_THROWS_AS(set.assign(cache, Names{"a"}, 0), loraplus::ArgumentError);
  CHECK_THROWS_AS(set.backward(x, y3, cache), loraplus::StateError);
  set.merge({"b"});
  set.forward(x, y3, cache);
  CHECK_THROWS_AS(set.backward(x, y3, cache), loraplus::StateError);
  CHECK_THROWS_AS(loraplus::zero_gradients(set), loraplus::StateError);
}
