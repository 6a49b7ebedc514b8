#include <Eigen/SVD>
#include <limits>
#include <loraplus/adapter/initialize.hpp>
#include <loraplus/adapter/lora_options.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/initialize_example.hpp"
#include "support/matrices.hpp"

using loraplus::ArgumentError;
using loraplus::Factors;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::olora;
using loraplus::orthogonal;
using loraplus::pissa;
using loraplus::residual;
using loraplus::RowMajorMatrix;
using loraplus::ShapeError;
using loraplus::to_plain;
using loraplus::Vector;

namespace {

/// s B A in double.
template <typename Scalar>
Matrix<double> delta_of(const Factors<Scalar>& factors) {
  return factors.scaling * factors.b.template cast<double>() * factors.a.template cast<double>();
}

/// The singular values from Eigen's other algorithm.
Vector<double> singular_values_of(const Matrix<double>& matrix) {
  return Eigen::JacobiSVD<Matrix<double>>(matrix).singularValues();
}

/// out x in with the singular values 1, 1/2, 1/4, ...
Matrix<double> halving_matrix(Index out, Index in) {
  const auto svd = loraplus::detail::thin_svd(test::random_matrix<double>(out, in, 3));
  Vector<double> s(svd.s.size());
  for (Index i = 0; i < s.size(); ++i) {
    s(i) = std::exp2(-static_cast<double>(i));
  }
  return svd.u * s.asDiagonal() * svd.v.transpose();
}

/// T20: the base has changed, and the adapted layer still computes what the layer did.
template <typename W, typename Scalar>
void require_same_output(const W& w, const Factors<Scalar>& factors) {
  const Matrix<Scalar> base = residual(w, factors);
  const auto x = test::random_matrix<Scalar>(w.cols(), 7, 5);
  const Matrix<Scalar> output =
      base * x + static_cast<Scalar>(factors.scaling) * factors.b * (factors.a * x);
  CHECK(test::relative_distance(output, w * x) < (sizeof(Scalar) == 4 ? 1e-6 : 1e-14));
  CHECK(test::relative_distance(base, w) > 1e-3);
}

const std::vector<std::pair<Index, Index>> weight_shapes{{24, 40}, {40, 24}, {9, 9}, {1, 5}};

}  // namespace

TEMPLATE_TEST_CASE("T20: PiSSA and OLoRA leave the output as it was and change the base", "", float,
                   double) {
  for (const auto& [out, in] : weight_shapes) {
    const auto w = test::random_matrix<TestType>(out, in, 1);
    for (const Index rank : {Index{1}, std::min(out, in)}) {
      std::mt19937_64 generator{2};
      require_same_output(w, pissa(w, rank, 2.5));
      require_same_output(w, pissa(w, rank, 2.5, 16, generator));
      require_same_output(w, olora(w, rank, 0.5));
    }
  }
}

TEMPLATE_TEST_CASE("factors do not depend on the storage order of the weight", "", float, double) {
  const auto w = test::random_matrix<TestType>(6, 9, 1);
  const RowMajorMatrix<TestType> row_major = w;
  for (const Index rank : {1, 4, 6}) {
    CHECK(test::same_bits(pissa(row_major, rank, 2).a, pissa(w, rank, 2).a));
    CHECK(test::same_bits(olora(row_major, rank, 2).b, olora(w, rank, 2).b));
    const auto factors = pissa(w, rank, 2);
    CHECK(test::same_bits(residual(row_major, factors), residual(w, factors)));
  }
}

TEST_CASE("a weight may be an expression or a block") {
  const auto w = test::random_matrix<double>(12, 10, 1);
  const Matrix<double> part = 2 * w.block(3, 2, 7, 5);
  const auto factors = pissa(2 * w.block(3, 2, 7, 5), 2, 1);
  CHECK(test::same_bits(factors.a, pissa(part, 2, 1).a));
  CHECK(test::same_bits(olora(2 * w.block(3, 2, 7, 5), 2, 1).a, olora(part, 2, 1).a));
  CHECK(test::same_bits(residual(2 * w.block(3, 2, 7, 5), factors), residual(part, factors)));
}

TEST_CASE("PiSSA by hand: the larger of two components, shared evenly between the factors") {
  Matrix<double> w(2, 2), expected(2, 2);
  w << 0, 8, 2, 0;
  expected << 0, 0, 2, 0;
  const auto factors = pissa(w, 1, 2);  // sqrt(8 / 2) = 2
  CHECK(test::relative_distance(factors.a.cwiseAbs(), RowMajorMatrix<double>{{0, 2}}) < 1e-15);
  CHECK(test::relative_distance(factors.b.cwiseAbs(), Matrix<double>{{2}, {0}}) < 1e-15);
  CHECK(test::relative_distance(residual(w, factors), expected) < 1e-15);
}

TEST_CASE("the product of PiSSA is the best approximation of the weight, whatever the scaling") {
  for (const auto& [out, in] : {std::pair<Index, Index>{24, 40}, {40, 24}, {9, 9}}) {
    const auto w = test::random_matrix<double>(out, in, 1);
    const Vector<double> s = singular_values_of(w);
    for (const Index rank : {1, 3, 8}) {
      for (const double scaling : {0.25, 1.0, 16.0}) {
        const auto factors = pissa(w, rank, scaling);
        CHECK(factors.rank() == rank);
        CHECK(factors.scaling == scaling);
        const Matrix<double> base = residual(w, factors);
        // Eckart, Young and Mirsky
        CHECK(base.norm() == Approx(s.tail(s.size() - rank).norm()).epsilon(1e-12));
        CHECK(singular_values_of(base)(0) == Approx(s(rank)).epsilon(1e-12));
        CHECK(factors.a.norm() == Approx(factors.b.norm()).epsilon(1e-12));
      }
    }
  }
}

TEMPLATE_TEST_CASE("randomised PiSSA finds the exact components", "", float, double) {
  const double tolerance = sizeof(TestType) == 4 ? 1e-6 : 1e-12;
  for (const auto& [out, in] : {std::pair<Index, Index>{60, 30}, {30, 60}}) {
    const Matrix<TestType> w = halving_matrix(out, in).template cast<TestType>();
    for (const Index iterations : {2, 16}) {
      std::mt19937_64 generator{1};
      const auto found = pissa(w, 4, 2, iterations, generator);
      CHECK(test::relative_distance(delta_of(found), delta_of(pissa(w, 4, 2))) < tolerance);
    }
  }
}

TEST_CASE("randomised PiSSA of many iterations keeps components near the rounding of the first") {
  // without orthonormal bases in between, (2^-7)^33 would be lost
  const auto w = halving_matrix(40, 40);
  std::mt19937_64 generator{1};
  const auto found = pissa(w, 8, 1, 16, generator);
  CHECK(test::relative_distance(delta_of(found), delta_of(pissa(w, 8, 1))) < 1e-12);
}

TEST_CASE("randomised PiSSA of a weight of low rank needs no iteration") {
  const Matrix<double> w =
      test::random_matrix<double>(40, 3, 1) * test::random_matrix<double>(3, 50, 2);
  std::mt19937_64 generator{1}, same{1};
  const auto found = pissa(w, 3, 1, 0, generator);
  CHECK(test::relative_distance(delta_of(found), w) < 1e-12);
  CHECK(test::same_bits(found.a, pissa(w, 3, 1, 0, same).a));
}

TEST_CASE("golden factors of PEFT 0.21: \"pissa\" and \"olora\", r = 2, alpha = 4") {
  const auto w = test::example_weight();
  const auto of_pissa = pissa(w, 2, 2);
  const Matrix<double> pissa_a{{0.0086041, 1.1531943, 1.5080962},
                               {0.9762883, 1.0604663, 0.8053355}};
  const Matrix<double> pissa_b{
      {0.2044344, 0.568504}, {0.2683302, 1.089265}, {1.2182944, 0.6770475}, {1.4164214, 0.8707492}};
  const Matrix<double> pissa_base{{2.8934703, -1.6772639, 1.2990595},
                                  {-0.1222558, 0.0708687, -0.054888},
                                  {-1.3010223, 0.7541676, -0.5841098},
                                  {0.7245786, -0.4200178, 0.3253098}};
  CHECK(test::relative_distance(of_pissa.a.cwiseAbs(), pissa_a) < 1e-6);  // but for the signs
  CHECK(test::relative_distance(of_pissa.b.cwiseAbs(), pissa_b) < 1e-6);
  CHECK(test::relative_distance(residual(w, of_pissa), pissa_base) < 1e-6);
  const auto of_olora = olora(w, 2, 2);
  const Matrix<double> olora_a{{-4.5825758, -1.0910894, 0.8728715}, {0, -5.8145957, -2.3995442}};
  const Matrix<double> olora_b{
      {-0.8728715, 0.1637914}, {-0.4364358, -0.4340473}, {0, -0.859905}, {0.2182179, -0.2129288}};
  const Matrix<double> olora_base{
      {-4, 0, 3.309859}, {-2, -3, -2.3211265}, {0, -5, -2.12676}, {1, -1, 4.5971832}};
  CHECK(test::relative_distance(of_olora.a, olora_a) < 1e-6);
  CHECK(test::relative_distance(of_olora.b, olora_b) < 1e-6);
  CHECK(test::relative_distance(residual(w, of_olora), olora_base) < 1e-6);
}

TEST_CASE("OLoRA by hand: Householder's signs") {
  Matrix<double> w(2, 2), base(2, 2);
  w << 3, 5, 4, 10;
  base << -3, -8.2, -4, -7.6;
  const auto factors = olora(w, 1, 2);
  CHECK(test::relative_distance(factors.a, RowMajorMatrix<double>{{-5, -11}}) < 1e-15);
  CHECK(test::relative_distance(factors.b, Matrix<double>{{-0.6}, {-0.8}}) < 1e-15);
  CHECK(test::relative_distance(residual(w, factors), base) < 1e-14);
}

TEST_CASE("OLoRA: B is orthonormal, A upper triangular, and B A the weight at full rank") {
  for (const auto& [out, in] : weight_shapes) {
    const auto w = test::random_matrix<double>(out, in, 1);
    const Index full = std::min(out, in);
    for (const Index rank : {Index{1}, (full + 1) / 2, full}) {
      const auto factors = olora(w, rank, 3);
      const Matrix<double> gram = factors.b.transpose() * factors.b;
      CHECK(test::relative_distance(gram, Matrix<double>::Identity(rank, rank)) < 1e-13);
      CHECK(factors.a.leftCols(rank).isUpperTriangular(0));
      CHECK(test::relative_distance(factors.a, factors.b.transpose() * w) < 1e-13);
    }
    const auto factors = olora(w, full, 3);
    CHECK(test::relative_distance(factors.b * factors.a, w) < 1e-13);
  }
}

TEMPLATE_TEST_CASE("T22: orthogonal factors are not zero, their product is", "", float, double) {
  std::mt19937_64 generator{1};
  for (const Index rank : {2, 8, 16}) {
    const auto factors = orthogonal<TestType>(20, 30, rank, 2, generator);
    CHECK(factors.rank() == rank);
    CHECK(factors.scaling == 2);
    CHECK(factors.a.norm() > 0.1);
    CHECK(factors.b.norm() > 0.1);
    CHECK((factors.b * factors.a).cwiseAbs().maxCoeff() < (sizeof(TestType) == 4 ? 1e-6 : 1e-15));
    const auto w = test::random_matrix<TestType>(20, 30, 1);
    CHECK(test::relative_distance(residual(w, factors), w) < 1e-6);
  }
}

TEST_CASE("T22: orthogonal coefficients have the mean square of PEFT's, 1/200") {
  // a coefficient is the sum of r/2 products of N(0, 1/100) and of an orthonormal row of r numbers
  std::mt19937_64 generator{1};
  const auto factors = orthogonal<double>(3000, 2000, 16, 1, generator);
  CHECK(factors.a.squaredNorm() / static_cast<double>(factors.a.size()) ==
        Approx(1 / 200.0).epsilon(0.05));
  CHECK(factors.b.squaredNorm() / static_cast<double>(factors.b.size()) ==
        Approx(1 / 200.0).epsilon(0.05));
}

TEST_CASE("T22: orthogonal requires an even rank") {
  std::mt19937_64 generator{1};
  const auto refused = [&](Index rank) {
    return test::message_of<ArgumentError>([&] { orthogonal<float>(20, 30, rank, 1, generator); });
  };
  CHECK(refused(7) == "orthogonal: requires an even rank, got 7");
  CHECK(refused(0) == "orthogonal: requires an even rank, got 0");
  CHECK(refused(-2) == "orthogonal: requires an even rank, got -2");
  CHECK_THROWS_AS(orthogonal<float>(20, 30, 2, 0, generator), ArgumentError);
}

TEMPLATE_TEST_CASE("T20: a trained adapter over the residual becomes one over the untouched base",
                   "", float, double) {
  for (const auto& [rank, scaling] : {std::pair<Index, double>{8, 2}, {32, 5.0 / 8}}) {
    const auto w = test::random_matrix<TestType>(48, 40, 1);
    const auto initial = pissa(w, rank, scaling);
    auto trained = initial;
    trained.a += test::random<RowMajorMatrix<TestType>>(rank, 40, 2);
    trained.b += test::random_matrix<TestType>(48, rank, 3);
    trained.bias = test::random_vector<TestType>(48, 4);
    const auto plain = to_plain(trained, initial);
    CHECK(plain.rank() == 2 * rank);
    CHECK(plain.scaling == scaling);
    CHECK(plain.bias == trained.bias);
    const Matrix<double> before = residual(w, initial).template cast<double>() + delta_of(trained);
    const Matrix<double> after = w.template cast<double>() + delta_of(plain);
    CHECK(test::relative_distance(after, before) < 1e-6);
  }
}

TEST_CASE("T20: converted factors stand one above the other, the initial B negative") {
  const Factors<double> initial{
      .a = RowMajorMatrix<double>{{1, 2}}, .b = Matrix<double>{{3}, {4}, {5}}, .scaling = 2};
  const Factors<double> trained{
      .a = RowMajorMatrix<double>{{6, 7}}, .b = Matrix<double>{{8}, {9}, {10}}, .scaling = 2};
  const auto plain = to_plain(trained, initial);
  CHECK(plain.a == RowMajorMatrix<double>{{6, 7}, {1, 2}});
  CHECK(plain.b == Matrix<double>{{8, -3}, {9, -4}, {10, -5}});
  CHECK(plain.bias.size() == 0);
}

TEST_CASE("T20, T21: at twice the rank the scaling stays with 2 alpha, rank-stabilised sqrt(2)") {
  // of one layer at a time, so a rank or an alpha of its own is no reason to refuse
  using loraplus::lora_scaling;
  using loraplus::Scaling;
  CHECK(lora_scaling({.rank = 8, .alpha = 5}) == lora_scaling({.rank = 16, .alpha = 10}));
  CHECK(lora_scaling({.rank = 8, .alpha = 5, .scaling = Scaling::rank_stabilized}) ==
        Approx(lora_scaling(
                   {.rank = 16, .alpha = 5 * std::sqrt(2.0), .scaling = Scaling::rank_stabilized}))
            .epsilon(1e-15));
}

TEST_CASE("a conversion refuses factors of other layers and of another scaling") {
  const auto w = test::random_matrix<double>(6, 5, 1);
  const auto factors = pissa(w, 2, 2);
  CHECK(test::message_of<ShapeError>([&] { to_plain(factors, pissa(w.leftCols(4), 2, 2)); }) ==
        "to_plain: the initial A must be 2 x 5, found 2 x 4");
  CHECK(test::message_of<ShapeError>([&] { to_plain(factors, pissa(w.topRows(4), 2, 2)); }) ==
        "to_plain: the initial B must be 6 x 2, found 4 x 2");
  CHECK(test::message_of<ArgumentError>([&] { to_plain(factors, pissa(w, 2, 3)); }) ==
        "to_plain: the initial factors must have the scaling of the trained ones, found 3");
  CHECK(test::message_of<ShapeError>([&] { residual(w.leftCols(4), factors); }) ==
        "residual: the product of the factors must be 6 x 4, found 6 x 5");
}

TEST_CASE("initialisations from a weight name what they refuse") {
  auto w = test::random_matrix<float>(5, 3, 1);
  std::mt19937_64 generator{1};
  const auto refused = [](auto&& make) { return test::message_of<ArgumentError>(make); };
  const std::string too_high =
      ": rank must be from 1 to 3, the smaller side of the 5 x 3 weight, found 4";
  CHECK(refused([&] { pissa(w, 4, 1); }) == "pissa" + too_high);
  CHECK(refused([&] { pissa(w, 4, 1, 2, generator); }) == "pissa" + too_high);
  CHECK(refused([&] { olora(w, 4, 1); }) == "olora" + too_high);
  CHECK_THROWS_AS(pissa(w, 0, 1), ArgumentError);
  CHECK_THROWS_AS(olora(w, 0, 1), ArgumentError);
  CHECK(refused([&] { pissa(w, 2, 0); }) ==
        "pissa: the scaling must be positive and finite, found 0");
  CHECK_THROWS_AS(olora(w, 2, std::numeric_limits<double>::infinity()), ArgumentError);
  CHECK(refused([&] { pissa(w, 2, 1, -1, generator); }) ==
        "pissa: iterations must be at least 0, found -1");
  w(4, 2) = std::numeric_limits<float>::quiet_NaN();
  CHECK(test::message_of<loraplus::NonFiniteError>([&] { pissa(w, 2, 1); }) ==
        "pissa: the weight is not finite");
  CHECK_THROWS_AS(pissa(w, 2, 1, 2, generator), loraplus::NonFiniteError);
  CHECK_THROWS_AS(olora(w, 2, 1), loraplus::NonFiniteError);
}
