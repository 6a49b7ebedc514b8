#include <Eigen/SVD>
#include <limits>
#include <loraplus/adapter/initialize_data.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/initialize_example.hpp"
#include "support/matrices.hpp"

using loraplus::ArgumentError;
using loraplus::corda;
using loraplus::CordaMethod;
using loraplus::CordaNormalization;
using loraplus::CordaStatistics;
using loraplus::Factors;
using loraplus::Index;
using loraplus::lora_ga;
using loraplus::LoraGaDirection;
using loraplus::LoraGaScale;
using loraplus::LoraGaStatistics;
using loraplus::Matrix;
using loraplus::NonFiniteError;
using loraplus::residual;
using loraplus::RowMajorMatrix;
using loraplus::ShapeError;
using loraplus::Vector;

namespace {

CordaStatistics statistics_of(const Matrix<double>& x) {
  CordaStatistics statistics(x.rows());
  statistics.add(x);
  return statistics;
}

/// Inputs that differ in scale and in correlation.
Matrix<double> correlated_inputs(Index in, Index n) {
  return test::random_matrix<double>(in, in, 11) * test::random_matrix<double>(in, n, 12);
}

/// C as the formula of PEFT has it, damped.
Matrix<double> damped_by_hand(const Matrix<double>& x) {
  const Matrix<double> c = x * x.transpose() / static_cast<double>(x.cols());
  return c + 0.01 * c.diagonal().mean() * Matrix<double>::Identity(c.rows(), c.cols());
}

/// out x in with a gradient whose components are the first axes, 4, 3, 2, 1.
Matrix<double> axis_gradient(Index out, Index in) {
  Matrix<double> gradient = Matrix<double>::Zero(out, in);
  gradient.diagonal().head(4) = Eigen::Vector4d(4, 3, 2, 1);
  return gradient;
}

/// T20 for these initialisations: the base has changed, base + s B A has not.
template <typename W, typename Scalar>
void require_same_sum(const W& w, const Factors<Scalar>& factors) {
  const Matrix<Scalar> base = residual(w, factors);
  const Matrix<double> sum = base.template cast<double>() + factors.scaling *
                                                                factors.b.template cast<double>() *
                                                                factors.a.template cast<double>();
  CHECK(test::relative_distance(sum, w) < (sizeof(Scalar) == 4 ? 1e-6 : 1e-14));
  CHECK(test::relative_distance(base, w) > 1e-3);
}

}  // namespace

TEMPLATE_TEST_CASE("T20: CorDA and LoRA-GA leave the output as it was and change the base", "",
                   float, double) {
  for (const auto& [out, in] : {std::pair<Index, Index>{12, 20}, {20, 12}, {8, 8}}) {
    const auto w = test::random_matrix<TestType>(out, in, 1);
    const RowMajorMatrix<TestType> row_major = w;
    const auto statistics = statistics_of(correlated_inputs(in, 64));
    const auto gradient = test::random_matrix<TestType>(out, in, 2);
    for (const Index rank : {1, 4}) {
      for (const auto method : {CordaMethod::ipm, CordaMethod::kpm}) {
        const auto factors = corda(w, statistics, rank, 2.5, method);
        require_same_sum(w, factors);
        CHECK(test::same_bits(corda(row_major, statistics, rank, 2.5, method).a, factors.a));
      }
      const auto factors = lora_ga(w, gradient, rank, 2.5);
      require_same_sum(w, factors);
      CHECK(test::same_bits(lora_ga(row_major, gradient, rank, 2.5).b, factors.b));
    }
  }
}

TEST_CASE("the covariance of CorDA is E[x x'], however samples are cut into batches") {
  const auto x = correlated_inputs(5, 30);
  CordaStatistics parts(5);
  parts.add(x.leftCols(1));
  parts.add(x.middleCols(1, 0));
  parts.add(x.rightCols(29));
  const Matrix<double> expected = x * x.transpose() / 30;
  CHECK(test::relative_distance(parts.covariance(), expected) < 1e-14);
  CordaStatistics narrow(5);
  narrow.add(x.cast<float>());
  CHECK(test::relative_distance(narrow.covariance(), expected) < 1e-6);
}

TEST_CASE("PEFT's covariance: batches over their largest input, summed, over their number") {
  CordaStatistics statistics(2, CordaNormalization::batches);
  statistics.add(Matrix<double>{{2, -8}, {1, 0}});  // the largest is 2, not 8
  statistics.add(Matrix<double>{{-3}, {-6}});       // the largest is -3
  // ([1 -4; .5 0] [1 -4; .5 0]' + [1; 2] [1; 2]') / 2
  CHECK(test::relative_distance(statistics.covariance(), Matrix<double>{{9, 1.25}, {1.25, 2.125}}) <
        1e-15);
}

TEST_CASE("CorDA with uncorrelated inputs is PiSSA, but for the balance between the factors") {
  const auto w = test::random_matrix<double>(7, 4, 1);
  const auto statistics = statistics_of(2 * Matrix<double>::Identity(4, 4));  // C = I
  const auto found = corda(w, statistics, 3, 2);
  const auto expected = loraplus::pissa(w, 3, 2);
  const double balance = std::sqrt(1.01);  // of the damped C
  CHECK(test::relative_distance((balance * found.a).cwiseAbs(), expected.a.cwiseAbs()) < 1e-13);
  CHECK(test::relative_distance((found.b / balance).cwiseAbs(), expected.b.cwiseAbs()) < 1e-13);
  CHECK(test::relative_distance(found.b * found.a, expected.b * expected.a) < 1e-13);
}

TEST_CASE("what CorDA leaves is smallest for its inputs (ipm), or largest (kpm)") {
  for (const auto& [out, in] : {std::pair<Index, Index>{7, 10}, {10, 7}}) {
    const auto w = test::random_matrix<double>(out, in, 1);
    const auto x = correlated_inputs(in, 40);
    const Matrix<double> c = damped_by_hand(x);
    const Vector<double> s = Eigen::JacobiSVD<Matrix<double>>(w * c).singularValues();
    for (const Index rank : {1, 3}) {
      const Matrix<double> after_ipm = residual(w, corda(w, statistics_of(x), rank, 4)) * c;
      CHECK(after_ipm.norm() == Approx(s.tail(7 - rank).norm()).epsilon(1e-9));
      const auto kpm = corda(w, statistics_of(x), rank, 4, CordaMethod::kpm);
      CHECK((residual(w, kpm) * c).norm() == Approx(s.head(7 - rank).norm()).epsilon(1e-9));
    }
  }
}

TEST_CASE("golden factors of PEFT 0.21: \"corda\", r = 2, alpha = 4, one batch") {
  const auto w = test::example_weight();
  CordaStatistics statistics(3, CordaNormalization::batches);
  statistics.add(test::example_inputs());
  const auto ipm = corda(w, statistics, 2, 2);
  const Matrix<double> ipm_a{{0.5773274, 1.1874635, 0.4628814}, {1.1688199, 0.6146531, 1.7102495}};
  const Matrix<double> ipm_b{{0.9062257, 0.7254269},
                             {1.2934285, 0.3914786},
                             {1.5810035, 0.5246842},
                             {0.3242647, 1.0307076}};
  CHECK(test::relative_distance(ipm.a.cwiseAbs(), ipm_a) < 1e-5);
  CHECK(test::relative_distance(ipm.b.cwiseAbs(), ipm_b) < 1e-5);
  const auto kpm = corda(w, statistics, 2, 2, CordaMethod::kpm);
  const Matrix<double> kpm_a{{1.1688199, 0.6146531, 1.7102495}, {1.349133, 1.3519363, 2.8341622}};
  const Matrix<double> kpm_base{{1.0463765, 2.1522219, 0.8389483},
                                {1.4934633, 3.0717988, 1.1974084},
                                {1.8255136, 3.7547669, 1.4636356},
                                {0.374414, 0.7701046, 0.3001924}};
  CHECK(test::relative_distance(kpm.a.cwiseAbs(), kpm_a) < 1e-5);
  CHECK(test::relative_distance(residual(w, kpm), kpm_base) < 1e-5);
}

TEST_CASE("golden factors of PEFT 0.21: \"lora_ga\", r = 1, alpha = 2, stable") {
  const Matrix<double> gradient{{1, 2, 0}, {0, 3, 1}, {-2, 0, 1}, {1, 0, 4}};
  const auto factors = lora_ga(test::example_weight(), gradient, 1, 2);
  const Matrix<double> b{{0.6686592}, {0.7630497}, {0.2652169}, {0.6058721}};
  CHECK(test::relative_distance(factors.a.cwiseAbs(),
                                RowMajorMatrix<double>{{0.1891097, 0.4362118, 0.8797481}}) < 1e-5);
  CHECK(test::relative_distance(factors.b.cwiseAbs(), b) < 1e-5);
}

TEST_CASE("the two kinds of CorDA take the weight apart") {
  const auto w = test::random_matrix<double>(7, 10, 1);
  const auto statistics = statistics_of(correlated_inputs(10, 40));
  const auto largest = corda(w, statistics, 3, 1);
  const auto smallest = corda(w, statistics, 4, 1, CordaMethod::kpm);
  CHECK(test::relative_distance(largest.b * largest.a + smallest.b * smallest.a, w) < 1e-9);
}

TEST_CASE("CorDA takes inputs that leave directions out") {
  const auto w = test::random_matrix<double>(6, 8, 1);
  const auto statistics = statistics_of(test::random_matrix<double>(8, 2, 1));  // C of rank 2
  require_same_sum(w, corda(w, statistics, 4, 1));
  require_same_sum(w, corda(w, statistics, 4, 1, CordaMethod::kpm));
}

TEST_CASE("CorDA names what it refuses") {
  const auto w = test::random_matrix<double>(5, 3, 1);
  const auto refused = [](auto&& make) { return test::message_of<ArgumentError>(make); };
  CordaStatistics statistics(3);
  CHECK(refused([&] { corda(w, statistics, 2, 1); }) ==
        "CordaStatistics: samples are needed, found 0");
  statistics.add(Matrix<double>::Zero(3, 4));
  CHECK(refused([&] { corda(w, statistics, 2, 1); }) ==
        "corda: the mean square of the inputs must not be 0, found 0");
  CHECK(refused([&] { corda(w, statistics, 4, 1); }) ==
        "corda: rank must be from 1 to 3, the smaller side of the 5 x 3 weight, found 4");
  CHECK_THROWS_AS(corda(w, statistics, 2, -1), ArgumentError);
  const auto others = statistics_of(test::random_matrix<double>(4, 9, 1));
  CHECK(test::message_of<ShapeError>([&] { corda(w, others, 2, 1); }) ==
        "corda: the covariance must be 3 x 3, found 4 x 4");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(corda(nan * w, others, 2, 1), NonFiniteError);
}

TEST_CASE("CorDA's statistics refuse a batch and stay as they were") {
  CordaStatistics statistics(2, CordaNormalization::batches);
  statistics.add(Matrix<double>{{1}, {1}});
  const Matrix<double> before = statistics.covariance();
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(statistics.add(Matrix<double>{{1}, {infinity}}), NonFiniteError);
  CHECK(test::message_of<ShapeError>([&] { statistics.add(Matrix<double>(3, 4)); }) ==
        "CordaStatistics: x must be 2 x 4, found 3 x 4");
  CHECK(test::message_of<ArgumentError>([&] {
          statistics.add(Matrix<double>{{-1}, {0}});
        }) ==
        "CordaStatistics: the largest input of a batch must not be 0 to divide by it, found 0");
  CHECK(statistics.covariance() == before);
}

TEST_CASE("LoRA-GA's statistics are the mean of dy x' over batches") {
  const auto x = test::random_matrix<float>(4, 6, 1);
  const auto dy = test::random_matrix<float>(3, 6, 2);
  LoraGaStatistics statistics(3, 4);
  statistics.add(dy.leftCols(2), x.leftCols(2));
  statistics.add(dy.rightCols(4), x.rightCols(4));
  const Matrix<double> expected = dy.cast<double>() * x.cast<double>().transpose() / 2;
  CHECK(test::relative_distance(statistics.gradient(), expected) < 1e-14);
  CHECK_THROWS_AS(statistics.add(dy, x.leftCols(2)), ShapeError);
  CHECK_THROWS_AS(statistics.add(dy, x.topRows(2)), ShapeError);
  CHECK_THROWS_AS(statistics.add(dy * std::numeric_limits<float>::infinity(), x), NonFiniteError);
  CHECK(test::relative_distance(statistics.gradient(), expected) < 1e-14);
  CHECK(test::message_of<ArgumentError>([] { LoraGaStatistics(3, 4).gradient(); }) ==
        "LoraGaStatistics: batches are needed, found 0");
}

TEST_CASE("LoRA-GA by hand: which components of the gradient go to which factor") {
  const auto axes = [](Index first, Index second) {
    RowMajorMatrix<double> a = RowMajorMatrix<double>::Zero(2, 6);
    a(0, first) = a(1, second) = 1;
    return a;
  };
  const auto columns = [](Index first, double one, Index second, double two) {
    Matrix<double> b = Matrix<double>::Zero(5, 2);
    b(first, 0) = one;
    b(second, 1) = two;
    return b;
  };
  const auto w = test::random_matrix<double>(5, 6, 1);
  const auto made = [&](LoraGaDirection direction) {
    return lora_ga(w, axis_gradient(5, 6), 2, 1,
                   {.direction = direction, .scale = LoraGaScale::unit});
  };
  const auto first = made(LoraGaDirection::arb2r);
  CHECK(test::relative_distance(first.a.cwiseAbs(), axes(0, 1)) < 1e-14);
  CHECK(test::relative_distance(first.b.cwiseAbs(), columns(2, 2, 3, 1)) < 1e-14);
  const auto last = made(LoraGaDirection::a2rbr);
  CHECK(test::relative_distance(last.a.cwiseAbs(), axes(2, 3)) < 1e-14);
  CHECK(test::relative_distance(last.b.cwiseAbs(), columns(0, 4, 1, 3)) < 1e-14);
  const auto alternating = made(LoraGaDirection::arbr);
  CHECK(test::relative_distance(alternating.a.cwiseAbs(), axes(1, 3)) < 1e-14);
  CHECK(test::relative_distance(alternating.b.cwiseAbs(), columns(0, 4, 2, 2)) < 1e-14);
}

// PEFT's "random" gives A and B the same r components, and so the first step r directions of 2 r.
TEST_CASE("LoRA-GA's random direction deals 2 r components out to A and B, each to one") {
  const auto w = test::random_matrix<double>(5, 6, 1);
  std::mt19937_64 generator{1};
  std::vector<Index> of_a(4, 0);
  for (int draw = 0; draw < 200; ++draw) {
    const auto made =
        lora_ga(w, axis_gradient(5, 6), 2, 1,
                {.direction = LoraGaDirection::random, .scale = LoraGaScale::unit}, generator);
    Vector<double> shares = Vector<double>::Zero(6);  // of each axis in A and B
    for (Index k = 0; k < 2; ++k) {
      Index in_a = 0, in_b = 0;
      CHECK(made.a.row(k).cwiseAbs().maxCoeff(&in_a) == Approx(1));
      const double s = made.b.col(k).cwiseAbs().maxCoeff(&in_b);
      CHECK(s == Approx(4.0 - static_cast<double>(in_b)));
      CHECK(made.a.row(k).norm() == Approx(1));
      CHECK(made.b.col(k).norm() == Approx(s));
      shares(in_a) += 1;
      shares(in_b) += 1;
      ++of_a[static_cast<std::size_t>(in_a)];
    }
    CHECK(shares == Vector<double>{{1, 1, 1, 1, 0, 0}});
  }
  for (const Index count : of_a) {
    CHECK(std::abs(static_cast<double>(count) - 100) < 35);  // five standard deviations
  }
}

TEST_CASE("LoRA-GA's random direction is the generator's, and scales by the largest of B") {
  const auto w = test::random_matrix<double>(9, 8, 1),
             gradient = test::random_matrix<double>(9, 8, 2);
  const loraplus::LoraGaOptions options{.direction = LoraGaDirection::random,
                                        .scale = LoraGaScale::weight_svd};
  const auto made = [&](unsigned seed) {
    std::mt19937_64 generator{seed};
    return lora_ga(w, gradient, 4, 2, options, generator);
  };
  const auto first = made(1);
  CHECK(test::same_bits(made(1).a, first.a));
  CHECK(test::same_bits(made(1).b, first.b));
  CHECK_FALSE(test::same_bits(made(2).a, first.a));
  require_same_sum(w, first);
  const double largest = Eigen::JacobiSVD<Matrix<double>>(w).singularValues()(0);
  for (unsigned seed = 1; seed < 9; ++seed) {  // the largest of B stands first in some only
    CHECK(made(seed).b.colwise().norm().maxCoeff() == Approx(largest).epsilon(1e-12));
  }
  CHECK(test::message_of<ArgumentError>([&] { lora_ga(w, gradient, 4, 2, options); }) ==
        "lora_ga: the direction `random` needs a generator");
  std::mt19937_64 unused{1};
  CHECK(test::same_bits(lora_ga(w, gradient, 4, 2, {}, unused).b, lora_ga(w, gradient, 4, 2).b));
  CHECK(unused == std::mt19937_64{1});
}

TEST_CASE("LoRA-GA's scales multiply the factors") {
  const auto w = test::random_matrix<double>(16, 6, 1);
  const auto made = [&](LoraGaScale scale) {
    return lora_ga(w, axis_gradient(16, 6), 2, 4, {.scale = scale});
  };
  const auto unit = made(LoraGaScale::unit);
  const auto stable = made(LoraGaScale::stable);
  CHECK(stable.scaling == 4);
  CHECK(stable.a == unit.a);
  CHECK(test::relative_distance(stable.b, unit.b / 2) < 1e-15);  // 16^(1/4) / sqrt(16)
  CHECK(test::same_bits(lora_ga(w, axis_gradient(16, 6), 2, 4).b, stable.b));
  const auto other =
      lora_ga(w, axis_gradient(16, 6), 2, 4, {.stable_gamma = 4});  // 16^(1/4) / sqrt(4)
  CHECK(test::relative_distance(other.b, unit.b) < 1e-15);
  const auto gd = made(LoraGaScale::gd_scale);
  CHECK(test::relative_distance(gd.a, unit.a / 4) < 1e-15);
  CHECK(test::relative_distance(gd.b, unit.b / 4) < 1e-15);
  const auto by_weight = made(LoraGaScale::weight_svd);
  const double largest = Eigen::JacobiSVD<Matrix<double>>(w).singularValues()(0);
  CHECK(by_weight.a == unit.a);
  CHECK(by_weight.b.col(0).norm() == Approx(largest).epsilon(1e-13));
  CHECK(test::relative_distance(by_weight.b, largest / 2 * unit.b) < 1e-13);
}

TEST_CASE("LoRA-GA's gradient of a lower rank than r leaves B zero, whatever the scale") {
  Matrix<double> gradient = Matrix<double>::Zero(6, 5);
  gradient(2, 3) = 7;
  const auto w = test::random_matrix<double>(6, 5, 1);
  const auto factors = lora_ga(w, gradient, 2, 1, {.scale = LoraGaScale::weight_svd});
  CHECK(factors.b.isZero(0));
  CHECK(std::abs(factors.a(0, 3)) == 1);
}

TEST_CASE("LoRA-GA at a random gradient: A has orthonormal rows, B orthogonal columns") {
  const auto w = test::random_matrix<double>(24, 30, 1);
  const auto gradient = test::random_matrix<double>(24, 30, 2);
  const Eigen::JacobiSVD<Matrix<double>> svd(gradient, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const auto factors = lora_ga(w, gradient, 12, 1, {.scale = LoraGaScale::unit});
  const Matrix<double> projector = factors.a.transpose() * factors.a;
  const Matrix<double> leading =
      svd.matrixV().leftCols(12) * svd.matrixV().leftCols(12).transpose();
  CHECK(test::relative_distance(projector, leading) < 1e-12);
  const Matrix<double> gram = factors.b.transpose() * factors.b;
  const Matrix<double> squares =
      svd.singularValues().tail(12).array().square().matrix().asDiagonal();
  CHECK(test::relative_distance(gram, squares) < 1e-12);
}

TEST_CASE("LoRA-GA names what it refuses") {
  const auto w = test::random_matrix<float>(5, 7, 1);
  const auto refused = [](auto&& make) { return test::message_of<ArgumentError>(make); };
  CHECK(refused([&] { lora_ga(w, w, 3, 1); }) ==
        "lora_ga: rank must be from 1 to 2, half of the smaller side of the 5 x 7 weight, found 3");
  CHECK_THROWS_AS(lora_ga(w, w, 2, 0), ArgumentError);
  CHECK(refused([&] { lora_ga(w, w, 2, 1, {.stable_gamma = 0}); }) ==
        "lora_ga: stable_gamma must be positive and finite, found 0");
  CHECK(test::message_of<ShapeError>([&] { lora_ga(w, w.leftCols(6), 2, 1); }) ==
        "lora_ga: the gradient must be 5 x 7, found 5 x 6");
  const Matrix<float> infinite = w * std::numeric_limits<float>::infinity();
  CHECK(test::message_of<NonFiniteError>([&] { lora_ga(w, infinite, 2, 1); }) ==
        "lora_ga: the gradient is not finite");
  CHECK_THROWS_AS(lora_ga(infinite, w, 2, 1), NonFiniteError);
}
