#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/adapter/magnitude.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/frozen/weight_view.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/optim/optimizer.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"
#include "support/sparse_weight.hpp"

using loraplus::BiasMode;
using loraplus::Index;
using loraplus::LoraLinear;
using loraplus::LoraOptions;
using loraplus::Matrix;
using loraplus::PackedWeight;
using loraplus::RowMajorMatrix;
using loraplus::SharedWeight;
using loraplus::Vector;
using loraplus::WeightView;

namespace {

/// A decomposed adapter in the middle of its training: B != 0, m is not the norm.
template <loraplus::FrozenWeight Frozen>
LoraLinear<Frozen> decomposed(Frozen weight, LoraOptions options) {
  using Scalar = typename Frozen::Scalar;
  options.dora = true;
  std::mt19937_64 generator{3};
  LoraLinear<Frozen> layer(std::move(weight), options, generator);
  auto factors = layer.factors().factors();
  factors.a = test::random_matrix<Scalar>(factors.a.rows(), factors.a.cols(), 4);
  factors.b = test::random_matrix<Scalar>(factors.b.rows(), factors.b.cols(), 5);
  layer.set_factors(factors);
  layer.set_magnitude(test::random_vector<Scalar>(layer.out_features(), 6));
  return layer;
}

/// The norms of the rows of W + s B A, from the matrix.
template <typename Layer>
Vector<double> norms_of(const Layer& layer, const Matrix<double>& w) {
  Matrix<double> direction = w;
  layer.factors().add_to(direction);
  return direction.rowwise().norm();
}

/// y = W x + b + (f - 1) W d(x) + f s B A d(x), where f = m / n for an n that is given.
template <typename Layer>
Matrix<double> decomposed_output(const Layer& layer, const Matrix<double>& w,
                                 const Matrix<double>& x, const Matrix<double>& mask,
                                 const Vector<double>& n) {
  const Matrix<double> dropped = mask.cwiseProduct(x);
  const Vector<double> f = layer.magnitude()->values().cwiseQuotient(n);
  Matrix<double> delta = Matrix<double>::Zero(w.rows(), w.cols());
  layer.factors().add_to(delta);
  const Vector<double> added = f.array() - 1;
  Vector<double> b = layer.bias();
  if (b.size() == 0) b.setZero(w.rows());
  return (w * x + added.asDiagonal() * (w * dropped) + f.asDiagonal() * (delta * dropped))
             .colwise() +
         b;
}

/// All gradients by differences of decomposed_output with n held, within 1e-7.
template <typename Layer>
void require_detached_gradients(Layer& layer, const Matrix<double>& w, Index samples) {
  auto x = test::random_matrix<double>(layer.in_features(), samples, 7);
  const auto dy = test::random_matrix<double>(layer.out_features(), samples, 8);
  Matrix<double> mask = Matrix<double>::Ones(x.rows(), samples), y(dy.rows(), samples),
                 dx(x.rows(), samples);
  std::mt19937_64 generator{9};
  if (layer.dropout() > 0) loraplus::detail::draw_dropout_mask(layer.dropout(), mask, generator);
  auto cache = layer.make_cache(samples);
  generator.seed(9);
  layer.forward(x, y, cache, generator);
  const Vector<double> n = norms_of(layer, w);
  CHECK(test::relative_distance(y, decomposed_output(layer, w, x, mask, n)) < 1e-12);
  layer.backward(x, dy, dx, cache);
  const auto objective = [&] {
    return dy.cwiseProduct(decomposed_output(layer, w, x, mask, n)).sum();
  };
  using Flat = Eigen::Array<double, Eigen::Dynamic, 1>;
  layer.visit_parameters([&](loraplus::Parameter<double> parameter) {
    const Flat analytic = parameter.gradient;
    const auto error = loraplus::compare_gradient<double>(parameter.name.str(), parameter.value,
                                                          analytic, objective);
    CAPTURE(error.tensor, error.worst, error.analytic, error.numeric);
    CHECK(error.relative < 1e-7);
  });
  const Flat analytic = dx.reshaped();
  CHECK(loraplus::compare_gradient<double>("x", Eigen::Map<Flat>(x.data(), x.size()), analytic,
                                           objective)
            .relative < 1e-7);
  loraplus::zero_gradients(layer);
}

}  // namespace

// The vectors of a case worked out by hand; here a column is a sample.
TEST_CASE("the hand-worked example of a decomposed layer") {
  const Matrix<double> w = (Matrix<double>(2, 3) << 1, 2, -1, 0, 1, 3).finished();
  const Vector<double> b = (Vector<double>(2) << 0.5, -1).finished();
  const Matrix<double> a = (Matrix<double>(1, 3) << 1, 0, 2).finished();
  const Matrix<double> up = (Matrix<double>(2, 1) << 2, -1).finished();
  const Matrix<double> x = (Matrix<double>(3, 2) << 1, 0, 2, -1, 3, 1).finished();
  std::mt19937_64 generator{1};
  LoraLinear layer{WeightView{w, b}, {.rank = 1, .alpha = 2, .dora = true}, generator};
  layer.set_factors(a, up);
  layer.set_magnitude((Vector<double>(2) << 3, 4).finished());

  auto cache = layer.make_cache(2);
  Matrix<double> y(2, 2), dx(3, 2);
  layer.forward(x, y, cache);
  layer.backward(x, Matrix<double>(Matrix<double>::Ones(2, 2)), dx, cache);
  CHECK(test::relative_distance(cache.adapter.magnitude->norm.array().square().matrix(),
                                (Vector<double>(2) << 78, 6).finished()) < 1e-12);
  const Matrix<double> expected = (Matrix<double>(2, 2) << 10.690493307301361, 2.1984155512168937,
                                   -5.898979485566357, -4.265986323710905)
                                      .finished();
  CHECK(test::relative_distance(y, expected) < 1e-12);
  CHECK(test::relative_distance(
            layer.magnitude()->gradient(),
            (Vector<double>(2) << 3.962969619506085, -2.041241452319315).finished()) < 1e-12);
  CHECK(test::relative_distance(
            layer.factors().b_gradient(),
            (Matrix<double>(2, 1) << 6.114295984380817, 29.39387691339814).finished()) < 1e-12);
  CHECK(test::relative_distance(
            layer.factors().a_gradient(),
            (Matrix<double>(1, 3) << -1.9072538827373897, -1.9072538827373897, -7.629015530949559)
                .finished()) < 1e-12);
  const Vector<double> dx_column =
      (Vector<double>(3) << -1.5675707724940109, 2.3123593823422097, 0.7447886098481986).finished();
  CHECK(test::relative_distance(dx, dx_column.replicate(1, 2)) < 1e-12);
}

TEST_CASE("the gradients of a decomposed layer: its norm is a constant to them") {
  for (const auto& [out, in] : {std::pair<Index, Index>{5, 7}, {1, 1}, {1, 5}, {6, 2}}) {
    for (const Index rank : {1, 3, 8}) {
      for (const double dropout : {0.0, 0.4}) {
        for (const Index samples : {1, 4}) {
          CAPTURE(out, in, rank, dropout, samples);
          const auto w = test::random_matrix<double>(out, in, 1);
          const auto b = test::random_vector<double>(out, 2);
          const LoraOptions options{
              .rank = rank, .alpha = 5, .dropout = dropout, .bias = BiasMode::lora_only};
          auto over_view = decomposed(WeightView{w, b}, options);
          auto over_packed = decomposed(PackedWeight<double>(w, b), options);
          require_detached_gradients(over_view, w, samples);
          require_detached_gradients(over_packed, w, samples);
          test::require_accumulation(over_view, samples, 6, std::mt19937_64{7});
        }
      }
    }
  }
}

TEST_CASE("a decomposed layer stands on a weight that cannot be read, and on blocks of outputs") {
  const auto w = test::random_matrix<double>(6, 70, 1);
  auto over_sparse = decomposed(test::SparseWeight<double>{w.sparseView()}, {.rank = 3});
  require_detached_gradients(over_sparse, w, 3);
  for (const std::vector<bool>& groups : {std::vector<bool>{true, true, true}, {true, true}}) {
    auto blocks = decomposed(WeightView{w}, {.rank = 2, .alpha = 3, .enabled_groups = groups});
    require_detached_gradients(blocks, w, 3);
  }
}

TEMPLATE_TEST_CASE("T17: before training a decomposed layer equals its frozen weight", "", float,
                   double) {
  using Scalar = TestType;
  const double tolerance = std::is_same_v<Scalar, float> ? 1e-6 : 1e-14;
  std::mt19937_64 generator{1};
  const SharedWeight<Scalar> weight(test::random_matrix<Scalar>(40, 30, 1),
                                    test::random_vector<Scalar>(40, 2));
  const auto x = test::random_matrix<Scalar>(30, 5, 3);
  Matrix<Scalar> base(40, 5);
  weight.forward(x, base);
  for (const auto initialization :
       {loraplus::Initialization::a_uniform, loraplus::Initialization::b_uniform,
        loraplus::Initialization::both_uniform}) {
    LoraLinear layer{
        weight, {.rank = 4, .initialization = initialization, .dora = true}, generator};
    // With `both_uniform` m is the norm of W + s B A, so the rows are not scaled there either.
    CHECK((layer.magnitude()->values().array() > 0).all());
    const bool is_identity = initialization != loraplus::Initialization::both_uniform;
    CHECK((test::relative_distance(predict(layer, x), base) < tolerance) == is_identity);
    layer.set_enabled(false);
    CHECK(test::same_bits(predict(layer, x), base));
  }
}

TEST_CASE("T17: all parameters of a decomposed layer get gradients") {
  const auto x = test::random_matrix<double>(7, 4, 5), dy = test::random_matrix<double>(5, 4, 6);
  const auto gradients = [&](loraplus::Initialization initialization, int steps) {
    std::mt19937_64 generator{1};
    LoraLinear layer{
        SharedWeight<double>(test::random_matrix<double>(5, 7, 1),
                             test::random_vector<double>(5, 2)),
        {.rank = 2, .initialization = initialization, .bias = BiasMode::lora_only, .dora = true},
        generator};
    loraplus::Optimizer optimizer{loraplus::AdamW{.learning_rate = 0.1}, layer};
    auto cache = layer.make_cache(4);
    Matrix<double> y(5, 4);
    for (int step = 0; step <= steps; ++step) {
      if (step > 0) optimizer.step(layer);
      layer.forward(x, y, cache);
      layer.backward(x, dy, cache);
    }
    std::vector<std::string> moved;  // those of which every coefficient gets one
    layer.visit_parameters([&](const auto& p) {
      if (p.gradient.abs().minCoeff() > 1e-6) moved.push_back(p.name.str());
    });
    return moved;
  };
  using ParameterNames = std::vector<std::string>;
  const ParameterNames all{"lora_A", "lora_B", "lora_magnitude_vector", "bias"};
  using loraplus::Initialization;
  CHECK(gradients(Initialization::both_uniform, 0) == all);
  // Beside a factor of zero the other one's is zero; after a step there is none.
  CHECK(gradients(Initialization::a_uniform, 0) ==
        ParameterNames{"lora_B", "lora_magnitude_vector", "bias"});
  CHECK(gradients(Initialization::a_uniform, 1) == all);
  CHECK(gradients(Initialization::b_uniform, 1) == all);
}

TEMPLATE_TEST_CASE("T18: a merged decomposed layer equals the unmerged, and unmerging is exact", "",
                   float, double) {
  using Scalar = TestType;
  const double tolerance = std::is_same_v<Scalar, float> ? 1e-5 : 1e-13;
  for (const auto& [out, in] : {std::pair<Index, Index>{6, 6}, {8, 4}, {4, 8}}) {
    const auto w = test::random_matrix<Scalar>(out, in, 1);
    const auto b = test::random_vector<Scalar>(out, 2);
    const Matrix<Scalar> before = w;
    auto layer = decomposed(WeightView{w, b}, {.rank = 2, .alpha = 5, .bias = BiasMode::lora_only});
    const auto x = test::random_matrix<Scalar>(in, 5, 7);
    const Matrix<Scalar> unmerged = predict(layer, x);
    layer.merge();
    CHECK(test::relative_distance(predict(layer, x), unmerged) < tolerance);
    layer.unmerge();
    CHECK(test::same_bits(predict(layer, x), unmerged));
    CHECK(test::same_bits(w, before));
  }
}

TEST_CASE("the norm follows every change of the factors, with one cache") {
  const auto w = test::random_matrix<double>(5, 4, 1);
  auto layer = decomposed(WeightView{w}, {.rank = 2});
  auto cache = layer.make_cache(3);
  const auto x = test::random_matrix<double>(4, 3, 7);
  Matrix<double> y(5, 3);
  for (const double scale : {1.0, 2.0, 1.0, -3.0}) {
    layer.set_factors(test::random_matrix<double>(2, 4, 4),
                      scale * test::random_matrix<double>(5, 2, 5));
    layer.forward(x, y, cache);
    CHECK(test::relative_distance(cache.adapter.magnitude->norm, norms_of(layer, w)) < 1e-12);
    CHECK(test::same_bits(y, predict(layer, x)));
  }
}

TEST_CASE("a row of norm zero has no direction: its output is the bias, and nothing is NaN") {
  Matrix<double> w = test::random_matrix<double>(4, 3, 1);
  w.row(2).setZero();
  std::mt19937_64 generator{1};
  const auto b = test::random_vector<double>(4, 2);
  LoraLinear layer{WeightView{w, b}, {.rank = 2, .dora = true}, generator};
  const auto x = test::random_matrix<double>(3, 5, 3);
  auto cache = layer.make_cache(5);
  Matrix<double> y(4, 5), dx(3, 5);
  layer.forward(x, y, cache);
  CHECK((y.row(2).array() == b(2)).all());
  layer.backward(x, y, dx, cache);
  CHECK(dx.allFinite());
  layer.visit_parameters([](const auto& p) { CHECK(p.gradient.allFinite()); });
  layer.merge();
  CHECK(test::relative_distance(predict(layer, x), y) < 1e-14);
}

TEST_CASE("a weight without outputs' norms is refused what it has no place for") {
  std::mt19937_64 generator{1};
  const SharedWeight<float> weight(Matrix<float>::Ones(4, 3));
  CHECK(test::contains(test::message_of<loraplus::ArgumentError>([&] {
                         LoraLinear{weight, {.lora_bias = true, .dora = true}, generator};
                       }),
                       "lora_bias"));
  LoraLinear plain{weight, {.rank = 2}, generator};
  CHECK_THROWS_AS(plain.set_magnitude(Vector<float>::Ones(4)), loraplus::StateError);
  LoraLinear layer{
      PackedWeight<float>(Matrix<float>::Ones(4, 3)), {.rank = 2, .dora = true}, generator};
  CHECK_THROWS_AS(layer.set_magnitude(Vector<float>::Ones(3)), loraplus::ShapeError);
  CHECK(test::contains(
      test::message_of<loraplus::ArgumentError>([&] { layer.set_plan(loraplus::Plan::merged); }),
      "dora"));
  CHECK(layer.plan(100000) == loraplus::Plan::unmerged);
}

TEST_CASE("a cache of other blocks or sizes is refused, and factors of rank 0 are") {
  std::mt19937_64 generator{1};
  const SharedWeight<float> weight(Matrix<float>::Ones(4, 3));
  const LoraLinear two{
      weight, {.rank = 2, .dora = true, .enabled_groups = {true, true}}, generator};
  const LoraLinear one{weight, {.rank = 4, .dora = true}, generator};
  auto cache = one.make_cache(2);
  const Matrix<float> x = Matrix<float>::Ones(3, 2);
  Matrix<float> y(4, 2);
  CHECK_THROWS_AS(two.forward(x, y, cache), loraplus::StateError);
  CHECK_THROWS_AS((LoraLinear{weight, loraplus::Factors<float>{RowMajorMatrix<float>(0, 3),
                                                               Matrix<float>(4, 0)}}),
                  loraplus::ArgumentError);
}

TEST_CASE("NaN in a factor reaches its row and no other") {
  const auto w = test::random_matrix<double>(4, 3, 1);
  auto layer = decomposed(WeightView{w}, {.rank = 2});
  Matrix<double> b = layer.factors().b();
  b(1, 0) = std::numeric_limits<double>::quiet_NaN();
  layer.set_factors(layer.factors().a(), b);
  const Matrix<double> y = predict(layer, test::random_matrix<double>(3, 2, 1));
  CHECK(y.row(1).array().isNaN().all());
  CHECK(y.row(0).allFinite());
  CHECK(y.bottomRows(2).allFinite());
  CHECK_THROWS_AS(layer.merge(), loraplus::NonFiniteError);
}

TEST_CASE("O11: LoRA+ trains the magnitude of a linear layer with B") {
  std::mt19937_64 generator{1};
  LoraLinear layer{SharedWeight<double>(test::random_matrix<double>(4, 3, 1)),
                   {.rank = 2, .dora = true},
                   generator};
  const loraplus::LoraPlus optimizer{loraplus::AdamW{.learning_rate = 1e-3}, {.ratio = 16}, layer};
  CHECK(optimizer.group_of("lora_magnitude_vector").name == "B");
  CHECK(optimizer.group_of("lora_A").name == "A");
}
