#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/adapter/plan.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/optim/sgd.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"

using loraplus::BiasMode;
using loraplus::Copies;
using loraplus::Index;
using loraplus::LoraLinear;
using loraplus::LoraOptions;
using loraplus::Matrix;
using loraplus::PackedWeight;
using loraplus::Plan;
using loraplus::SharedWeight;

namespace {

template <typename Scalar>
PackedWeight<Scalar> packed(Index out, Index in, Copies copies = Copies::two) {
  return PackedWeight<Scalar>(test::random_matrix<Scalar>(out, in, 1),
                              test::random_vector<Scalar>(out, 2), {.copies = copies});
}

/// An adapter in the middle of its training: neither factor is zero.
template <loraplus::FrozenWeight Frozen>
LoraLinear<Frozen> trained(Frozen weight, const LoraOptions& options, Plan plan) {
  using Scalar = typename Frozen::Scalar;
  std::mt19937_64 generator{3};
  LoraLinear<Frozen> layer(std::move(weight), options, generator);
  layer.set_factors(test::random_matrix<Scalar>(options.rank, layer.in_features(), 4),
                    test::random_matrix<Scalar>(layer.out_features(), options.rank, 5));
  layer.visit_parameters([](auto parameter) {
    if (parameter.role == loraplus::Role::bias) parameter.value += Scalar(0.25);
  });
  layer.set_plan(plan);
  return layer;
}

/// What a training step leaves: y, dx and the gradients of all parameters.
template <typename Scalar>
struct Step {
  Matrix<Scalar> y, dx, gradients;

  template <typename L>
  Step(L& layer, Index n, typename L::Cache& cache, unsigned seed = 6)
      : y(layer.out_features(), n),
        dx(layer.in_features(), n),
        gradients(loraplus::parameter_count(layer), 1) {
    const auto x = test::random_matrix<Scalar>(layer.in_features(), n, seed);
    const auto dy = test::random_matrix<Scalar>(layer.out_features(), n, seed + 1);
    loraplus::zero_gradients(layer);
    layer.forward(x, y, cache);
    layer.backward(x, dy, dx, cache);
    Index first = 0;
    layer.visit_parameters([&](const auto& p) {
      gradients.col(0).segment(first, p.size()) = p.gradient.matrix();
      first += p.size();
    });
  }
};

template <typename Scalar>
void require_close(const Step<Scalar>& found, const Step<Scalar>& expected) {
  const double tolerance = std::is_same_v<Scalar, float> ? 2e-5 : 1e-13;
  CHECK(test::relative_distance(found.y, expected.y) < tolerance);
  CHECK(test::relative_distance(found.dx, expected.dx) < tolerance);
  CHECK(test::relative_distance(found.gradients, expected.gradients) < tolerance);
}

}  // namespace

TEST_CASE("the break-even is where the two plans count the same multiply-adds") {
  std::mt19937_64 generator{1};
  const auto draw = [&](Index most) { return loraplus::uniform_index(generator, most) + 1; };
  for (int i = 0; i < 1000; ++i) {
    const Index in = draw(500), out = draw(500), r = draw(64), c = draw(2);
    const auto product = [](Index rows, Index inner, Index cols) { return rows * inner * cols; };
    const auto both_need = [&](Index s) {
      return product(out, in, s) + product(in, out, s)  // y = W x, dx = W' dy
             + product(r, in, s) + product(r, out, s)   // h = A x, z = B' dy
             + product(out, s, r) + product(in, s, r);  // dB = dy h', dA' = x z'
    };
    const auto unmerged = [&](Index s) {
      return both_need(s) + product(out, r, s) + product(in, r, s);  // B h, A' z
    };
    const auto merged = [&](Index s) {
      return both_need(s) + c * product(out, r, in);  // W + s B A
    };
    const double break_even = loraplus::plan_break_even(in, out, c);
    CAPTURE(in, out, r, c, break_even);
    const auto below = static_cast<Index>(break_even);
    CHECK(merged(below) >= unmerged(below));
    CHECK(merged(below + 1) < unmerged(below + 1));
    CHECK(break_even == Approx(loraplus::plan_break_even(out, in, c)));
  }
}

TEST_CASE("the names of the plans") {
  CHECK(std::string(to_string(Plan::automatic)) == "automatic");
  CHECK(std::string(to_string(Plan::unmerged)) == "unmerged");
  CHECK(std::string(to_string(Plan::merged)) == "merged");
}

TEST_CASE("the automatic plan merges from the break-even on, which two copies double") {
  // 30 * 60 / (30 + 60) = 20
  const auto one = trained(packed<float>(30, 60, Copies::one), {.rank = 2}, Plan::automatic);
  auto two = trained(packed<float>(30, 60, Copies::two), {.rank = 50}, Plan::automatic);
  CHECK(one.plan(20) == Plan::unmerged);
  CHECK(one.plan(21) == Plan::merged);
  CHECK(two.plan(40) == Plan::unmerged);
  CHECK(two.plan(41) == Plan::merged);
  CHECK(two.plan(0) == Plan::unmerged);

  two.set_plan(Plan::automatic, 41);  // the samples of a batch no longer matter
  CHECK(two.plan(1) == Plan::merged);
  two.set_plan(Plan::automatic, 40);
  CHECK(two.plan(1000) == Plan::unmerged);
  two.set_plan(Plan::automatic);
  CHECK(two.plan(1000) == Plan::merged);

  two.set_plan(Plan::unmerged);
  CHECK(two.plan(1000) == Plan::unmerged);
  two.set_plan(Plan::merged);
  CHECK(two.plan(1) == Plan::merged);
  CHECK_THROWS_AS(two.set_plan(Plan::automatic, -1), loraplus::ArgumentError);
  CHECK(two.plan(1) == Plan::merged);  // as before
}

TEST_CASE("the merged plan is refused where there is no merged copy, and with dropout") {
  auto shared = trained(SharedWeight<double>(test::random_matrix<double>(5, 4, 1)), {.rank = 2},
                        Plan::automatic);
  CHECK(test::message_of<loraplus::ArgumentError>([&] { shared.set_plan(Plan::merged); }) ==
        "LoraLinear: the frozen weight makes no merged copies (MergesLowRank)");
  CHECK(shared.plan(1000) == Plan::unmerged);
  CHECK_NOTHROW(shared.set_plan(Plan::unmerged));

  auto dropping = trained(packed<double>(5, 4), {.rank = 2, .dropout = 0.5}, Plan::automatic);
  CHECK(test::message_of<loraplus::ArgumentError>([&] { dropping.set_plan(Plan::merged); }) ==
        "LoraLinear: the merged plan has no place for dropout");
  CHECK(dropping.plan(1000) == Plan::unmerged);
  auto cache = dropping.make_cache(50);
  CHECK_NOTHROW(Step<double>(dropping, 50, cache));
}

TEST_CASE("a cache made before the merged plan is refused, one made with it serves the other") {
  auto layer = trained(packed<double>(5, 4), {.rank = 2}, Plan::unmerged);
  auto before = layer.make_cache(3);
  const Step<double> expected(layer, 3, before);
  layer.set_plan(Plan::merged);
  CHECK(test::message_of<loraplus::StateError>([&] { Step<double>(layer, 3, before); }) ==
        "LoraLinear: the cache was made for another layer or plan");
  auto cache = layer.make_cache(3);
  require_close(Step<double>(layer, 3, cache), expected);
  layer.set_plan(Plan::unmerged);
  CHECK(test::same_bits(Step<double>(layer, 3, cache).y, expected.y));
}

TEMPLATE_TEST_CASE("both plans compute the same outputs and gradients", "", float, double) {
  using Scalar = TestType;
  for (const auto copies : {Copies::one, Copies::two}) {
    for (const auto& [out, in] : {std::pair<Index, Index>{40, 23}, {1, 9}, {9, 1}, {16, 64}}) {
      for (const Index rank : {1, 8, 40}) {
        for (const auto bias : {BiasMode::none, BiasMode::lora_only}) {
          for (const Index n : {1, 17}) {
            CAPTURE(copies, out, in, rank, bias, n);
            auto layer = trained(packed<Scalar>(out, in, copies),
                                 {.rank = rank, .alpha = 3, .bias = bias}, Plan::unmerged);
            auto unmerged = layer.make_cache(20);
            const Step<Scalar> expected(layer, n, unmerged);
            layer.set_plan(Plan::merged);
            auto merged = layer.make_cache(20);
            const Step<Scalar> found(layer, n, merged);
            require_close(found, expected);
            if (rank > 1 && found.y.size() > 40) {  // of so many, some are rounded another way
              CHECK_FALSE(test::same_bits(found.y, expected.y));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("the automatic plan changes from batch to batch with one cache") {
  auto layer = trained(packed<double>(8, 8), {.rank = 2}, Plan::automatic);  // break-even 8
  auto reference = trained(packed<double>(8, 8), {.rank = 2}, Plan::unmerged);
  auto cache = layer.make_cache(30), reference_cache = reference.make_cache(30);
  for (const Index n : {30, 8, 9, 1, 30}) {
    CAPTURE(n);
    require_close(Step<double>(layer, n, cache), Step<double>(reference, n, reference_cache));
    CHECK(cache.plan == (n > 8 ? Plan::merged : Plan::unmerged));
  }
}

TEST_CASE("the gradients of a LoRA layer with the merged plan") {
  for (const auto copies : {Copies::one, Copies::two}) {
    for (const auto& [in, out] :
         {std::pair<Index, Index>{7, 5}, {1, 1}, {5, 1}, {1, 5}, {17, 20}}) {
      for (const Index rank : {1, 3}) {
        for (const auto bias : {BiasMode::none, BiasMode::lora_only}) {
          CAPTURE(copies, in, out, rank, bias);
          auto layer = trained(packed<double>(out, in, copies),
                               {.rank = rank, .alpha = 5, .bias = bias}, Plan::merged);
          test::require_gradients(layer, 3, 6);
          test::require_accumulation(layer, 3, 6);
        }
      }
    }
  }
}

TEST_CASE("the merged copy of a cache follows every change of the factors") {
  auto layer =
      trained(packed<double>(12, 9), {.rank = 2, .bias = BiasMode::lora_only}, Plan::merged);
  auto reference =
      trained(packed<double>(12, 9), {.rank = 2, .bias = BiasMode::lora_only}, Plan::unmerged);
  auto cache = layer.make_cache(5), reference_cache = reference.make_cache(5);
  const auto require_same = [&] {
    require_close(Step<double>(layer, 5, cache), Step<double>(reference, 5, reference_cache));
  };
  require_same();
  const loraplus::Sgd rule{.learning_rate = 0.01};
  loraplus::LoraPlus optimizer(rule, {.ratio = 4}, layer);
  loraplus::LoraPlus reference_optimizer(rule, {.ratio = 4}, reference);
  for (int step = 0; step < 3; ++step) {
    optimizer.step(layer);
    reference_optimizer.step(reference);
    require_same();
  }
  const Matrix<double> a = layer.factors().a(), b = layer.factors().b();
  Matrix<double> other_a = a, other_b = b;
  other_a(1, 8) += 1;
  other_b(11, 0) += 1;
  for (const auto& [new_a, new_b] : {std::pair{other_a, b}, {a, other_b}, {a, b}}) {
    layer.set_factors(new_a, new_b);  // one factor at a time
    reference.set_factors(new_a, new_b);
    require_same();
  }
}

/// A packed weight that counts its merges.
struct CountingWeight : PackedWeight<double> {
  int* merges;

  CountingWeight(const PackedWeight<double>& weight, int* count)
      : PackedWeight<double>(weight), merges(count) {}

  void merge(double s, loraplus::ConstMatrixView<double> b, loraplus::ConstMatrixView<double> at,
             Merged& merged) const {
    ++*merges;
    PackedWeight<double>::merge(s, b, at, merged);
  }
};

TEST_CASE("the factors are merged once for each update of them, whatever is computed meanwhile") {
  int merges = 0;
  auto layer = trained(CountingWeight(packed<double>(12, 9), &merges), {.rank = 2}, Plan::merged);
  loraplus::Optimizer optimizer(loraplus::Sgd{.learning_rate = 0.1}, layer);
  auto cache = layer.make_cache(5);
  for (int update = 1; update <= 3; ++update) {
    for (const Index n : {5, 1, 3}) {  // with gradient accumulation, say
      Step<double>(layer, n, cache);
      CHECK(merges == update);
    }
    optimizer.step(layer);
  }
}

TEST_CASE("a cache with a merged copy serves its own layer and copies of it, and no other") {
  const auto make = [](const PackedWeight<double>& weight, double alpha, Index rank = 2) {
    return trained(weight, {.rank = rank, .alpha = alpha}, Plan::merged);
  };
  const auto weight = packed<double>(12, 9);
  auto layer = make(weight, 2);
  auto cache = layer.make_cache(5);
  const Step<double> expected(layer, 5, cache);
  const PackedWeight<double> other_weight(test::random_matrix<double>(12, 9, 8));
  for (auto other : {make(weight, 8), make(other_weight, 2), make(packed<double>(20, 30), 2)}) {
    CHECK(test::message_of<loraplus::StateError>([&] { Step<double>(other, 5, cache); }) ==
          "LoraLinear: the cache was made for another layer or plan");
  }
  auto copy = layer;
  CHECK(test::same_bits(Step<double>(copy, 5, cache).y, expected.y));
  copy.set_factors(layer.factors().a() * 2, layer.factors().b());
  auto cache_of_copy = copy.make_cache(5);
  CHECK(test::same_bits(Step<double>(copy, 5, cache).y, Step<double>(copy, 5, cache_of_copy).y));
  CHECK(test::same_bits(Step<double>(layer, 5, cache).y, expected.y));
}

TEST_CASE("a backward pass uses the plan of its forward pass") {
  auto layer = trained(packed<double>(12, 9), {.rank = 2}, Plan::merged);
  auto cache = layer.make_cache(5);
  const auto x = test::random_matrix<double>(9, 5, 6), dy = test::random_matrix<double>(12, 5, 7);
  Matrix<double> y(12, 5), expected(9, 5), dx(9, 5);
  layer.forward(x, y, cache);
  layer.backward(x, dy, expected, cache);
  layer.forward(x, y, cache);
  layer.set_plan(Plan::unmerged);
  layer.backward(x, dy, dx, cache);
  CHECK(test::same_bits(dx, expected));
}

TEMPLATE_TEST_CASE("at initialisation the merged plan equals the frozen weight, bit for bit", "",
                   float, double) {
  using Scalar = TestType;
  std::mt19937_64 generator{1};
  for (const auto copies : {Copies::one, Copies::two}) {
    for (const auto bias : {BiasMode::none, BiasMode::lora_only}) {
      const auto weight = packed<Scalar>(40, 30, copies);
      LoraLinear layer{weight, {.rank = 5, .alpha = 3, .bias = bias}, generator};
      layer.set_plan(Plan::merged);
      const auto x = test::random_matrix<Scalar>(30, 33, 6);
      const auto dy = test::random_matrix<Scalar>(40, 33, 7);
      Matrix<Scalar> y(40, 33), base(40, 33), dx(30, 33), base_dx(30, 33);
      weight.forward(x, base);
      weight.backward(dy, base_dx);
      auto cache = layer.make_cache(33);
      layer.forward(x, y, cache);
      layer.backward(x, dy, dx, cache);
      CHECK(test::same_bits(y, base));
      CHECK(test::same_bits(dx, base_dx));
    }
  }
}
