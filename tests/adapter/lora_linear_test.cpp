#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/frozen/weight_view.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"
#include "support/sparse_weight.hpp"

using loraplus::BiasMode;
using loraplus::Copies;
using loraplus::Index;
using loraplus::LoraLinear;
using loraplus::LoraOptions;
using loraplus::Matrix;
using loraplus::PackedWeight;
using loraplus::Plan;
using loraplus::RowMajorMatrix;
using loraplus::SharedWeight;
using loraplus::Vector;
using loraplus::WeightView;

namespace {

template <typename Scalar>
SharedWeight<Scalar> shared(Index out, Index in) {
  return SharedWeight<Scalar>(test::random_matrix<Scalar>(out, in, 1),
                              test::random_vector<Scalar>(out, 2));
}

template <typename Scalar>
PackedWeight<Scalar> packed(Index out, Index in, Copies copies) {
  return PackedWeight<Scalar>(test::random_matrix<Scalar>(out, in, 1),
                              test::random_vector<Scalar>(out, 2), {copies});
}

/// An adapter in the middle of its training: neither factor is zero.
template <loraplus::FrozenWeight Frozen>
LoraLinear<Frozen> trained(Frozen weight, const LoraOptions& options) {
  using Scalar = typename Frozen::Scalar;
  std::mt19937_64 generator{3};
  LoraLinear<Frozen> layer(std::move(weight), options, generator);
  layer.set_factors(test::random_matrix<Scalar>(options.rank, layer.in_features(), 4),
                    test::random_matrix<Scalar>(layer.out_features(), options.rank, 5));
  layer.visit_parameters([](auto parameter) {
    if (parameter.role == loraplus::Role::bias) parameter.value += Scalar(0.25);
  });
  return layer;
}

}  // namespace

TEST_CASE("the gradients of a LoRA layer: every shape, rank, batch, bias mode, with dropout") {
  for (const auto& [in, out] : {std::pair<Index, Index>{7, 5}, {1, 1}, {5, 1}, {1, 5}}) {
    for (const Index rank : {1, 3, 8}) {
      for (const Index n : {1, 2, 17}) {
        for (const auto bias : {BiasMode::none, BiasMode::lora_only, BiasMode::all}) {
          for (const double dropout : {0.0, 0.4}) {
            CAPTURE(in, out, rank, n, bias, dropout);
            auto layer = trained(shared<double>(out, in),
                                 {.rank = rank, .alpha = 5, .dropout = dropout, .bias = bias});
            test::require_gradients(layer, n, 6, std::mt19937_64{7});
            test::require_accumulation(layer, n, 6, std::mt19937_64{7});
          }
        }
      }
    }
  }
}

TEST_CASE("the gradients of a LoRA layer at 33 x 24") {
  for (const Index n : {1, 2, 9}) {
    for (const auto bias : {BiasMode::none, BiasMode::lora_only, BiasMode::all}) {
      CAPTURE(n, bias);
      auto layer = trained(shared<double>(24, 33), {.rank = 3, .alpha = 5, .bias = bias});
      test::require_gradients(layer, n, 6);
    }
  }
  for (const Index rank : {1, 3, 34}) {
    for (const double dropout : {0.0, 0.4}) {
      CAPTURE(rank, dropout);
      auto layer =
          trained(shared<double>(24, 33),
                  {.rank = rank, .alpha = 5, .dropout = dropout, .bias = BiasMode::lora_only});
      test::require_gradients(layer, rank == 34 ? 1 : 9, 6, std::mt19937_64{7});
    }
  }
}

TEST_CASE("the gradients of a LoRA layer over packed weights, in both plans") {
  for (const auto& [in, out] : {std::pair<Index, Index>{7, 5}, {1, 1}, {20, 3}, {24, 17}}) {
    for (const auto copies : {Copies::one, Copies::two}) {
      for (const auto plan : {Plan::unmerged, Plan::merged}) {
        for (const Index rank : {1, 3, 40}) {
          for (const Index n : {1, 9}) {
            if (in * rank > 300) continue;  // differences take their time
            CAPTURE(in, out, copies, plan, rank, n);
            auto layer = trained(packed<double>(out, in, copies),
                                 {.rank = rank, .alpha = 5, .bias = BiasMode::lora_only});
            layer.set_plan(plan);
            test::require_gradients(layer, n, 6);
            test::require_accumulation(layer, n, 6);
          }
        }
      }
      auto layer = trained(packed<double>(out, in, copies), {.rank = 3, .dropout = 0.4});
      test::require_gradients(layer, 3, 6, std::mt19937_64{7});
    }
  }
}

TEST_CASE("the gradients of a LoRA layer over views of both orders and a sparse weight") {
  const auto w = test::random_matrix<double>(5, 7, 1);
  const RowMajorMatrix<double> rows = w;
  const LoraOptions options{.rank = 3, .alpha = 5, .dropout = 0.3};
  auto over_columns = trained(WeightView{w}, options);
  auto over_rows = trained(WeightView{rows}, options);
  auto over_sparse = trained(test::SparseWeight<double>{w.sparseView()}, options);
  test::require_gradients(over_columns, 3, 6, std::mt19937_64{7});
  test::require_gradients(over_rows, 3, 6, std::mt19937_64{7});
  test::require_gradients(over_sparse, 3, 6, std::mt19937_64{7});
  const auto x = test::random_matrix<double>(7, 4, 8);
  CHECK(test::relative_distance(predict(over_rows, x), predict(over_columns, x)) < 1e-14);
  CHECK(test::relative_distance(predict(over_sparse, x), predict(over_columns, x)) < 1e-14);
}

// The vectors of a case worked out by hand; here a column is a sample.
TEST_CASE("the hand-worked example of a linear layer") {
  const Matrix<double> w = (Matrix<double>(2, 3) << 1, 2, -1, 0, 1, 3).finished();
  const Vector<double> b = (Vector<double>(2) << 0.5, -1).finished();
  const Matrix<double> a = (Matrix<double>(1, 3) << 1, 0, 2).finished();
  const Matrix<double> up = (Matrix<double>(2, 1) << 2, -1).finished();
  const Matrix<double> x = (Matrix<double>(3, 2) << 1, 0, 2, -1, 3, 1).finished();
  std::mt19937_64 generator{1};
  LoraLinear layer{
      WeightView{w, b}, {.rank = 1, .alpha = 2, .bias = BiasMode::lora_only}, generator};

  const Matrix<double> base = (Matrix<double>(2, 2) << 2.5, -2.5, 10, 1).finished();
  CHECK(test::relative_distance(predict(layer, x), base) < 1e-12);

  layer.set_factors(a, up);
  const Matrix<double> y = (Matrix<double>(2, 2) << 30.5, 5.5, -4, -3).finished();
  CHECK(test::relative_distance(predict(layer, x), y) < 1e-12);
  const Matrix<double> merged = (Matrix<double>(2, 3) << 5, 2, 7, -2, 1, -1).finished();
  CHECK(test::relative_distance(layer.merged_weight(), merged) < 1e-12);

  auto cache = layer.make_cache(2);
  Matrix<double> found(2, 2), dx(3, 2);
  layer.forward(x, found, cache);
  layer.backward(x, Matrix<double>(Matrix<double>::Ones(2, 2)), dx, cache);
  const Matrix<double> db = (Matrix<double>(2, 1) << 18, 18).finished();
  const Matrix<double> da = (Matrix<double>(1, 3) << 2, 2, 8).finished();
  const Matrix<double> expected_dx = (Matrix<double>(3, 2) << 3, 3, 3, 3, 6, 6).finished();
  CHECK(test::relative_distance(layer.factors().b_gradient(), db) < 1e-12);
  CHECK(test::relative_distance(layer.factors().a_gradient(), da) < 1e-12);
  CHECK(test::relative_distance(dx, expected_dx) < 1e-12);
}

TEMPLATE_TEST_CASE("at initialisation the layer equals its frozen weight, bit for bit", "", float,
                   double) {
  using Scalar = TestType;
  std::mt19937_64 generator{1};
  for (const auto initialization :
       {loraplus::Initialization::a_uniform, loraplus::Initialization::a_gaussian,
        loraplus::Initialization::b_uniform}) {
    for (const auto bias : {BiasMode::none, BiasMode::lora_only}) {
      for (const Index n : {1, 2, 33}) {
        const auto weight = shared<Scalar>(40, 30);
        const LoraLinear layer{
            weight,
            {.rank = 5, .alpha = 3, .initialization = initialization, .bias = bias},
            generator};
        const auto x = test::random_matrix<Scalar>(30, n, 6);
        Matrix<Scalar> base(40, n);
        weight.forward(x, base);
        CHECK(test::same_bits(predict(layer, x), base));

        for (const auto copies : {Copies::one, Copies::two}) {
          for (const auto plan : {Plan::unmerged, Plan::merged}) {
            const auto packed_weight = packed<Scalar>(40, 30, copies);
            LoraLinear over_packed{
                packed_weight, {.rank = 5, .initialization = initialization}, generator};
            over_packed.set_plan(plan);
            packed_weight.forward(x, base);
            CHECK(test::same_bits(predict(over_packed, x), base));
          }
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("T7: merged equals unmerged, and unmerging restores every bit", "", float,
                   double) {
  using Scalar = TestType;
  const double tolerance = std::is_same_v<Scalar, float> ? 1e-5 : 1e-14;
  const auto w = test::random_matrix<Scalar>(9, 7, 1);
  const auto b = test::random_vector<Scalar>(9, 2);
  const Matrix<Scalar> w_before = w;
  auto layer = trained(WeightView{w, b}, {.rank = 3, .alpha = 5, .bias = BiasMode::lora_only});
  const auto x = test::random_matrix<Scalar>(7, 6, 8);
  const Matrix<Scalar> unmerged = predict(layer, x);
  for (int round = 0; round < 3; ++round) {
    layer.merge();
    layer.merge();  // a second call does nothing
    CHECK(layer.merged());
    CHECK(test::relative_distance(predict(layer, x), unmerged) < tolerance);
    CHECK_FALSE(test::same_bits(predict(layer, x), unmerged));  // one product, not three
    layer.unmerge();
    CHECK_FALSE(layer.merged());
    CHECK(test::same_bits(predict(layer, x), unmerged));
  }
  CHECK(test::same_bits(w, w_before));
}

TEST_CASE("a merged layer cannot be trained or changed until it is unmerged") {
  auto layer = trained(shared<double>(5, 4), {.rank = 2, .dropout = 0.5});
  auto cache = layer.make_cache(3);
  std::mt19937_64 generator{1};
  const auto x = test::random_matrix<double>(4, 3, 1);
  Matrix<double> y(5, 3);
  layer.forward(x, y, cache);
  layer.merge();
  CHECK(test::contains(test::message_of<loraplus::StateError>([&] { layer.backward(x, y, cache); }),
                       "unmerge"));
  CHECK_THROWS_AS(layer.forward(x, y, cache, generator), loraplus::StateError);
  CHECK_THROWS_AS(layer.set_factors(Matrix<double>(2, 4), Matrix<double>(5, 2)),
                  loraplus::StateError);
  CHECK_THROWS_AS(loraplus::zero_gradients(layer), loraplus::StateError);  // as an optimizer's step
  auto without_dropout = trained(shared<double>(5, 4), {.rank = 2});
  without_dropout.merge();
  CHECK_THROWS_AS(without_dropout.forward(x, y, cache, generator), loraplus::StateError);
  layer.unmerge();
  layer.forward(x, y, cache);
  CHECK_NOTHROW(layer.backward(x, y, cache));
}

TEST_CASE("a merge that would not be finite is refused and leaves the layer as it was") {
  auto layer = trained(shared<double>(5, 4), {.rank = 2});
  Matrix<double> b = layer.factors().b();
  b(3, 1) = std::numeric_limits<double>::quiet_NaN();
  layer.set_factors(layer.factors().a(), b);
  CHECK_THROWS_AS(layer.merge(), loraplus::NonFiniteError);
  CHECK_FALSE(layer.merged());

  auto biased = trained(shared<double>(5, 4), {.rank = 2, .bias = BiasMode::lora_only});
  biased.visit_parameters([](auto parameter) {
    if (parameter.name == "bias") parameter.value(1) = std::numeric_limits<double>::infinity();
  });
  CHECK_THROWS_AS(biased.merge(), loraplus::NonFiniteError);
  CHECK_FALSE(biased.merged());
}

TEST_CASE("a disabled adapter leaves the frozen weight with its own bias, bit for bit") {
  const auto weight = shared<double>(5, 4);
  auto layer = trained(weight, {.rank = 2, .dropout = 0.5, .bias = BiasMode::lora_only});
  const auto x = test::random_matrix<double>(4, 3, 6);
  const auto dy = test::random_matrix<double>(5, 3, 7);
  Matrix<double> base(5, 3), base_dx(4, 3), y(5, 3), dx(4, 3);
  weight.forward(x, base);
  weight.backward(dy, base_dx);
  const Matrix<double> adapted = predict(layer, x);

  for (const bool merged : {false, true}) {
    if (merged) layer.merge();
    layer.set_enabled(false);
    CHECK_FALSE(layer.enabled());
    CHECK(test::same_bits(predict(layer, x), base));
    layer.set_enabled(true);
    CHECK(test::relative_distance(predict(layer, x), adapted) < 1e-14);
    layer.unmerge();
  }

  layer.set_enabled(false);
  std::mt19937_64 generator{1};
  auto cache = layer.make_cache(3);
  layer.forward(x, y, cache, generator);
  CHECK(test::same_bits(y, base));
  layer.backward(x, dy, dx, cache);
  CHECK(test::same_bits(dx, base_dx));
  layer.visit_parameters([](const auto& p) { CHECK((p.gradient == 0).all()); });
}

TEST_CASE("dropout acts on the adapter's input alone, and only while training") {
  const auto weight = shared<double>(5, 4);
  auto layer = trained(weight, {.rank = 2, .alpha = 3, .dropout = 0.5});
  const auto x = test::random_matrix<double>(4, 6, 6);
  auto cache = layer.make_cache(6);
  Matrix<double> y(5, 6), base(5, 6);
  weight.forward(x, base);

  std::mt19937_64 generator{9};
  layer.forward(x, y, cache, generator);
  generator.seed(9);
  Matrix<double> mask(4, 6);
  loraplus::detail::draw_dropout_mask(0.5, mask, generator);
  const auto& factors = layer.factors();
  const Matrix<double> expected = base + 1.5 * factors.b() * (factors.a() * mask.cwiseProduct(x));
  CHECK(test::relative_distance(y, expected) < 1e-14);

  layer.forward(x, y, cache);
  const Matrix<double> evaluated = base + 1.5 * factors.b() * (factors.a() * x);
  CHECK(test::relative_distance(y, evaluated) < 1e-14);
}

TEST_CASE("the backward pass may be repeated") {
  auto layer = trained(shared<double>(5, 4), {.rank = 2, .dropout = 0.5});
  const auto x = test::random_matrix<double>(4, 3, 6);
  const auto dy = test::random_matrix<double>(5, 3, 7);
  auto cache = layer.make_cache(3);
  std::mt19937_64 generator{1};
  Matrix<double> y(5, 3), dx(4, 3);
  layer.forward(x, y, cache, generator);
  layer.backward(x, dy, dx, cache);
  const RowMajorMatrix<double> once = layer.factors().a_gradient();
  const Matrix<double> dx_once = dx;
  layer.backward(x, dy, dx, cache);
  CHECK(test::relative_distance(layer.factors().a_gradient(), 2 * once) < 1e-15);
  CHECK(test::same_bits(dx, dx_once));
}

TEST_CASE("wrong shapes are refused, by function and matrix, before anything is written") {
  auto layer = trained(shared<double>(5, 4), {.rank = 2});
  auto cache = layer.make_cache(3);
  const Matrix<double> x = Matrix<double>::Ones(4, 3);
  Matrix<double> y = Matrix<double>::Ones(5, 3), dx = Matrix<double>::Ones(4, 3);
  const auto message = [](auto f) { return test::message_of<loraplus::ShapeError>(f); };
  CHECK(message([&] { layer.forward(Matrix<double>(3, 3), y, cache); }) ==
        "LoraLinear::forward: x must be 4 x 3, found 3 x 3");
  CHECK(message([&] { layer.forward(x.leftCols(2), y, cache); }) ==
        "LoraLinear::forward: y must be 5 x 2, found 5 x 3");
  Matrix<double> x5 = Matrix<double>::Ones(4, 5), y5(5, 5);
  CHECK(message([&] { layer.forward(x5, y5, cache); }) ==
        "LoraLinear::forward: a batch of 5 samples, there is room for at most 3");
  layer.forward(x, y, cache);
  CHECK(message([&] { layer.backward(x, y.topRows(4), cache); }) ==
        "LoraLinear::backward: dy must be 5 x 3, found 4 x 3");
  CHECK(message([&] { layer.backward(x, y, dx.topRows(3), cache); }) ==
        "LoraLinear::backward: dx must be 4 x 3, found 3 x 3");
  layer.visit_parameters([](const auto& p) { CHECK((p.gradient == 0).all()); });
  CHECK(dx == Matrix<double>::Ones(4, 3));
}

TEST_CASE("a backward pass needs a forward pass of the same batch") {
  auto layer = trained(shared<double>(5, 4), {.rank = 2});
  auto cache = layer.make_cache(3);
  const auto x = test::random_matrix<double>(4, 3, 6);
  Matrix<double> y(5, 3);
  CHECK_THROWS_AS(layer.backward(x, y, cache), loraplus::StateError);
  layer.forward(x, y, cache);
  CHECK_THROWS_AS(layer.backward(x.leftCols(2), y.leftCols(2), cache), loraplus::StateError);
}

TEST_CASE("the cache of another layer is refused, with and without dropout") {
  const auto weight = shared<double>(5, 4);
  auto layer = trained(weight, {.rank = 3});
  auto dropping = trained(weight, {.rank = 3, .dropout = 0.5});
  auto smaller = trained(weight, {.rank = 2}).make_cache(3);
  auto plain = layer.make_cache(3);
  std::mt19937_64 generator{1};
  const auto x = test::random_matrix<double>(4, 3, 6);
  Matrix<double> y(5, 3);
  CHECK_THROWS_AS(layer.forward(x, y, smaller), loraplus::StateError);
  CHECK_THROWS_AS(dropping.forward(x, y, plain, generator), loraplus::StateError);
  CHECK_THROWS_AS(dropping.backward(x, y, plain), loraplus::StateError);
}

TEST_CASE("a backward pass through another layer than the forward pass is refused") {
  const auto weight = packed<double>(5, 4, Copies::two);
  const auto x = test::random_matrix<double>(4, 3, 6);
  const auto dy = test::random_matrix<double>(5, 3, 7);
  Matrix<double> y(5, 3);
  for (const Plan plan : {Plan::unmerged, Plan::merged}) {
    auto layer = trained(weight, {.rank = 2});
    layer.set_plan(plan);
    auto cache = layer.make_cache(3);
    layer.forward(x, y, cache);
    auto copy = layer;
    CHECK_NOTHROW(copy.backward(x, dy, cache));
    const auto refuses = [&](LoraLinear<PackedWeight<double>> other) {
      Matrix<double> dx(4, 3);
      return test::contains(
          test::message_of<loraplus::StateError>([&] { other.backward(x, dy, dx, cache); }),
          "through this layer");
    };
    CHECK(refuses(trained(weight, {.rank = 8})));
    CHECK(refuses(trained(weight, {.rank = 2})));
    if (plan == Plan::unmerged) {
      std::mt19937_64 generator{1};
      CHECK(refuses({weight, {.rank = 2, .dora = true}, generator}));
    }
    layer = trained(weight, {.rank = 8});  // as a folder that is loaded puts another in its place
    CHECK(refuses(layer));
  }
}

TEST_CASE("an output in the memory of an input is refused") {
  auto layer = trained(shared<double>(4, 4), {.rank = 3});
  auto cache = layer.make_cache(3);
  Matrix<double> x = test::random_matrix<double>(4, 3, 6), y(4, 3);
  CHECK_THROWS_AS(layer.forward(x, x, cache), loraplus::ArgumentError);
  layer.forward(x, y, cache);
  CHECK_THROWS_AS(layer.backward(x, y, y, cache), loraplus::ArgumentError);
}

TEST_CASE("factors may be set from each other") {
  auto layer = trained(shared<double>(4, 4), {.rank = 4});
  const Matrix<double> a = layer.factors().a(), b = layer.factors().b();
  layer.set_factors(layer.factors().b(), layer.factors().a());
  CHECK(layer.factors().a() == b);
  CHECK(layer.factors().b() == a);
}

TEST_CASE("a forward pass that fails half-way leaves no pass to go back through") {
  struct Failing {
    using Scalar = double;
    bool* fails;
    Index in_features() const { return 4; }
    Index out_features() const { return 5; }
    void forward(loraplus::ConstMatrixView<double>, loraplus::MatrixView<double> y) const {
      if (*fails) throw std::runtime_error("the weight is gone");
      y.setZero();
    }
    void backward(loraplus::ConstMatrixView<double>, loraplus::MatrixView<double>) const {}
  };
  bool fails = false;
  auto layer = trained(Failing{&fails}, {.rank = 2});
  auto cache = layer.make_cache(3);
  const auto x = test::random_matrix<double>(4, 3, 6);
  Matrix<double> y(5, 3);
  layer.forward(x, y, cache);
  fails = true;
  CHECK_THROWS_AS(layer.forward(x, y, cache), std::runtime_error);
  CHECK_THROWS_AS(layer.backward(x, y, cache), loraplus::StateError);
}

TEST_CASE("an empty batch does nothing") {
  auto layer = trained(shared<double>(5, 4), {.rank = 2, .bias = BiasMode::lora_only});
  auto cache = layer.make_cache(3);
  const Matrix<double> x(4, 0);
  Matrix<double> y(5, 0), dx(4, 0);
  layer.forward(x, y, cache);
  layer.backward(x, y, dx, cache);
  layer.visit_parameters([](const auto& p) { CHECK((p.gradient == 0).all()); });
}

TEST_CASE("NaN and infinity propagate to the samples they are in, and to the gradients") {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    auto layer = trained(shared<double>(5, 4), {.rank = 2});
    auto cache = layer.make_cache(3);
    auto x = test::random_matrix<double>(4, 3, 6);
    Matrix<double> y(5, 3), dx(4, 3);
    x(2, 1) = bad;
    layer.forward(x, y, cache);
    CHECK(y.col(0).allFinite());
    CHECK_FALSE(y.col(1).array().isFinite().any());
    CHECK(y.col(2).allFinite());
    layer.backward(x, Matrix<double>(Matrix<double>::Ones(5, 3)), dx, cache);
    CHECK_FALSE(layer.factors().a_gradient().allFinite());
    CHECK_FALSE(layer.factors().b_gradient().allFinite());
    CHECK(dx.allFinite());  // dx does not depend on x
  }
}

TEST_CASE("adapters over one shared weight are independent, and share its memory") {
  const auto weight = shared<float>(5, 4);
  auto first = trained(weight, {.rank = 2});
  std::mt19937_64 generator{1};
  const LoraLinear second{weight, {.rank = 3}, generator};
  CHECK(first.weight().weight().data() == second.weight().weight().data());
  const auto x = test::random_matrix<float>(4, 2, 6);
  Matrix<float> base(5, 2);
  weight.forward(x, base);
  CHECK(test::same_bits(predict(second, x), base));
  CHECK_FALSE(test::same_bits(predict(first, x), base));
}

TEST_CASE("a smaller batch uses the left columns of a larger cache") {
  auto layer = trained(shared<double>(5, 4), {.rank = 2, .alpha = 3});
  const auto x = test::random_matrix<double>(4, 2, 6);
  const auto dy = test::random_matrix<double>(5, 2, 7);
  Matrix<double> y(5, 2), dx(4, 2), y_exact(5, 2), dx_exact(4, 2);
  auto exact = layer.make_cache(2);
  auto large = layer.make_cache(64);
  layer.forward(x, y_exact, exact);
  layer.backward(x, dy, dx_exact, exact);
  const Matrix<double> gradient = layer.factors().b_gradient();
  loraplus::zero_gradients(layer);
  layer.forward(x, y, large);
  layer.backward(x, dy, dx, large);
  CHECK(test::same_bits(y, y_exact));
  CHECK(test::same_bits(dx, dx_exact));
  CHECK(test::same_bits(layer.factors().b_gradient(), gradient));
}
