#include <Eigen/SVD>
#include <limits>
#include <loraplus/adapter/initialize_eva.hpp>
#include <loraplus/adapter/thin_svd.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/initialize_example.hpp"
#include "support/matrices.hpp"

using loraplus::ArgumentError;
using loraplus::eva;
using loraplus::EvaStatistics;
using loraplus::Index;
using loraplus::largest_eva_rank;
using loraplus::Matrix;
using loraplus::principal_components;
using loraplus::PrincipalComponents;
using loraplus::redistribute_ranks;
using loraplus::RowMajorMatrix;
using loraplus::Vector;

namespace {

EvaStatistics seen(const Matrix<double>& x) {
  EvaStatistics statistics(x.rows());
  statistics.add(x);
  return statistics;
}

/// in x n: the directions of an orthonormal basis with falling spreads around a mean far away.
Matrix<double> spread_inputs(Index in, Index n) {
  Matrix<double> x = test::random_matrix<double>(in, n, 21);
  for (Index i = 0; i < in; ++i) {
    x.row(i) *= std::exp2(-static_cast<double>(i));
  }
  const Matrix<double> basis = loraplus::detail::thin_qr(test::random_matrix<double>(in, in, 22)).q;
  return (basis * x).colwise() + Vector<double>::Constant(in, 100);
}

/// Components that explain this much, for the redistribution, which sees nothing else of them.
PrincipalComponents explaining(const Vector<double>& ratios) {
  return {RowMajorMatrix<double>::Identity(ratios.size(), ratios.size()), ratios, ratios};
}

}  // namespace

TEST_CASE("EVA by hand: the centred inputs' directions, B zero, the largest coefficient positive") {
  // around the mean (10, 20, 30): 3 along the second axis, 1 along the first
  const Matrix<double> x{{10, 10, 11, 9}, {17, 23, 20, 20}, {30, 30, 30, 30}};
  const auto components = principal_components(seen(x), 3);
  CHECK(test::relative_distance(components.directions.topRows(2),
                                RowMajorMatrix<double>{{0, 1, 0}, {1, 0, 0}}) < 1e-14);
  CHECK(test::relative_distance(components.singular_values.head(2),
                                Vector<double>(Eigen::Vector2d(18, 2).cwiseSqrt())) < 1e-14);
  CHECK(test::relative_distance(components.explained_variance_ratio,
                                Vector<double>(Eigen::Vector3d(0.9, 0.1, 0))) < 1e-14);
  const auto factors = eva<float>(components, 5, 2, 0.5);
  CHECK(test::relative_distance(factors.a, RowMajorMatrix<float>{{0, 1, 0}, {1, 0, 0}}) < 1e-7);
  CHECK(factors.b.isZero(0));
  CHECK(factors.b.rows() == 5);
  CHECK(factors.b.cols() == 2);
  CHECK(factors.scaling == 0.5);
}

TEST_CASE("the components are those of the SVD of the centred inputs") {
  for (const auto& [in, n] : {std::pair<Index, Index>{6, 50}, {30, 12}}) {
    const auto x = spread_inputs(in, n);
    const Matrix<double> centred = x.colwise() - x.rowwise().mean();
    const Eigen::JacobiSVD<Matrix<double>> svd(centred, Eigen::ComputeThinU);
    const auto components = principal_components(seen(x), 5);
    CHECK(test::relative_distance(components.directions.cwiseAbs(),
                                  svd.matrixU().leftCols(5).transpose().cwiseAbs()) < 1e-9);
    CHECK(test::relative_distance(components.singular_values, svd.singularValues().head(5)) < 1e-9);
    const Vector<double> squares = svd.singularValues().array().square();
    CHECK(test::relative_distance(components.explained_variance_ratio,
                                  squares.head(5) / squares.sum()) < 1e-9);
  }
}

TEMPLATE_TEST_CASE("the rows of EVA's A are orthonormal", "", float, double) {
  const auto statistics = seen(spread_inputs(20, 50));
  for (const Index rank : {1, 8, 20}) {
    const auto factors = eva<TestType>(statistics, 10, rank, 1);
    CHECK(factors.rank() == rank);
    const Matrix<TestType> gram = factors.a * factors.a.transpose();
    CHECK(test::relative_distance(gram, Matrix<TestType>::Identity(rank, rank)) <
          (sizeof(TestType) == 4 ? 1e-6 : 1e-13));
    CHECK(factors.b.isZero(0));
  }
}

TEST_CASE("golden components of the incremental PCA of PEFT 0.21, signs included") {
  const auto components = principal_components(seen(test::example_inputs()), 3);
  const Matrix<double> directions{{0.8608899, 0.5017707, -0.0842303},
                                  {-0.2893963, 0.6190723, 0.730068},
                                  {0.4184713, -0.6041324, 0.6781636}};
  CHECK(test::relative_distance(components.directions, directions) < 1e-6);
  CHECK(test::relative_distance(components.singular_values,
                                Vector<double>(Eigen::Vector3d(3.3254, 1.9701, 1.1448))) < 1e-4);
  CHECK(test::relative_distance(components.explained_variance_ratio,
                                Vector<double>(Eigen::Vector3d(0.6805, 0.2389, 0.0806))) < 1e-4);
}

TEST_CASE("EVA finds the subspace in which inputs lie") {
  const auto basis = loraplus::detail::thin_qr(test::random_matrix<double>(30, 4, 1)).q;
  Matrix<double> x = basis * test::random_matrix<double>(4, 40, 2);
  x.colwise() += test::random_vector<double>(30, 3);
  const auto factors = eva<double>(seen(x), 10, 4, 1);
  CHECK(test::relative_distance(factors.a.transpose() * factors.a, basis * basis.transpose()) <
        1e-12);
}

TEST_CASE("EVA's statistics are exact however samples are cut into batches") {
  const auto x = spread_inputs(5, 30);
  EvaStatistics parts(5);
  parts.add(x.leftCols(1));
  parts.add(x.middleCols(1, 0));
  parts.add(x.middleCols(1, 9));
  parts.add(x.rightCols(20));
  CHECK(parts.samples() == 30);
  CHECK(test::relative_distance(parts.scatter(), seen(x).scatter()) < 1e-12);
  const Matrix<double> centred = x.colwise() - x.rowwise().mean();
  CHECK(test::relative_distance(parts.scatter(), centred * centred.transpose()) < 1e-12);
  EvaStatistics narrow(5);
  narrow.add(RowMajorMatrix<float>(x.cast<float>()));
  CHECK(narrow.samples() == 30);
}

TEST_CASE("EVA whitens by the square roots of the singular values") {
  const auto components = principal_components(seen(spread_inputs(6, 50)), 3);
  const auto factors = eva<double>(components, 4, 3, 1, {.whiten = true});
  for (Index i = 0; i < 3; ++i) {
    CHECK(factors.a.row(i).norm() ==
          Approx(1 / std::sqrt(components.singular_values(i))).epsilon(1e-12));
  }
}

TEST_CASE("there are at most as many components as inputs, and one less than samples") {
  CHECK(principal_components(seen(spread_inputs(6, 50)), 9).singular_values.size() == 6);
  CHECK(principal_components(seen(spread_inputs(6, 4)), 9).singular_values.size() == 3);
  CHECK(principal_components(seen(spread_inputs(6, 4)), 2).directions.rows() == 2);
}

TEST_CASE("inputs that do not vary explain nothing") {
  const auto components = principal_components(seen(Matrix<double>::Constant(3, 9, 2)), 3);
  CHECK(components.explained_variance_ratio.isZero(0));
  CHECK(components.directions.allFinite());
}

TEST_CASE("EVA names what it refuses") {
  const auto refused = [](auto&& make) { return test::message_of<ArgumentError>(make); };
  const auto statistics = seen(spread_inputs(5, 4));
  CHECK(refused([] { eva<float>(EvaStatistics(5), 4, 2, 1); }) ==
        "principal_components: at least 2 samples are needed, found 0");
  CHECK(refused([&] { eva<float>(statistics, 4, 4, 1); }) ==
        "eva: rank must be from 1 to 3, the number of components, found 4");
  CHECK(refused([&] { eva<float>(statistics, 4, 0, 1); }) ==
        "principal_components: at least 1 component must be taken, found 0");
  CHECK_THROWS_AS(eva<float>(statistics, 4, 2, 0), ArgumentError);
  const auto constant = seen(Matrix<double>::Constant(3, 9, 2));
  CHECK(refused([&] { eva<float>(constant, 4, 1, 1, {.whiten = true}); }) ==
        "eva: a singular value to whiten by must be positive, found 0");
}

TEST_CASE("EVA's statistics refuse a batch and stay as they were") {
  auto statistics = seen(spread_inputs(3, 4));
  const Matrix<double> before = statistics.scatter();
  Matrix<double> x = spread_inputs(3, 4);
  x(1, 1) = std::numeric_limits<double>::quiet_NaN();
  CHECK(test::message_of<loraplus::NonFiniteError>([&] { statistics.add(x); }) ==
        "EvaStatistics: x is not finite");
  CHECK(test::message_of<loraplus::ShapeError>([&] { statistics.add(x.topRows(2)); }) ==
        "EvaStatistics: x must be 3 x 4, found 2 x 4");
  CHECK(statistics.samples() == 4);
  CHECK(statistics.scatter() == before);
  CHECK_THROWS_AS(principal_components(seen(1e200 * spread_inputs(3, 4)), 1),
                  loraplus::NonFiniteError);
}

TEST_CASE("ranks go to the layers whose components explain most") {
  const std::vector<PrincipalComponents> layers{explaining(Eigen::Vector4d(0.9, 0.05, 0.03, 0.02)),
                                                explaining(Eigen::Vector4d(0.4, 0.3, 0.2, 0.1)),
                                                explaining(Eigen::Vector4d(0.04, 0.03, 0.02, 0))};
  const auto found = [&](const std::vector<Index>& ranks, double rho) {
    return redistribute_ranks(layers, ranks, rho);
  };
  CHECK(found({2, 2, 2}, 2) == std::vector<Index>{2, 4, 0});
  CHECK(found({2, 2, 2}, 1.5) == std::vector<Index>{2, 3, 1});  // at most 3 a layer
  CHECK(found({2, 2, 2}, 1) == std::vector<Index>{2, 2, 2});
  CHECK(found({1, 1, 1}, 2) == std::vector<Index>{1, 2, 0});
  CHECK(found({1, 2, 3}, 2) == std::vector<Index>{2, 4, 0});
  CHECK(found({4, 4, 4}, 100) == std::vector<Index>{4, 4, 4});  // no more components
  CHECK(redistribute_ranks({}, {}, 2).empty());
}

TEST_CASE("of components that explain as much the earlier layer's goes first") {
  const std::vector<PrincipalComponents> layers(3, explaining(Eigen::Vector3d(0.5, 0.3, 0.2)));
  const std::vector<Index> ranks{1, 1, 2};
  CHECK(redistribute_ranks(layers, ranks, 2) == std::vector<Index>{2, 1, 1});
}

TEST_CASE("the highest rank of a layer is r rho, rounded as Python rounds") {
  CHECK(largest_eva_rank(8, 2, 100) == 16);
  CHECK(largest_eva_rank(8, 1, 100) == 8);
  CHECK(largest_eva_rank(3, 1.5, 100) == 4);
  CHECK(largest_eva_rank(1, 2.5, 100) == 2);
  CHECK(largest_eva_rank(8, 2, 12) == 12);
  CHECK(largest_eva_rank(8, 1e300, 12) == 12);
}

TEST_CASE("alpha follows a redistributed rank") {
  CHECK(loraplus::redistributed_alpha(16, 8, 12) == 24);
  CHECK(loraplus::redistributed_alpha(5, 8, 4) == 2.5);
}

TEST_CASE("the redistribution names what it refuses") {
  const std::vector<PrincipalComponents> layers(2, explaining(Eigen::Vector2d(0.8, 0.2)));
  const auto refused = [&](const std::vector<Index>& ranks, double rho) {
    return test::message_of<ArgumentError>([&] { redistribute_ranks(layers, ranks, rho); });
  };
  CHECK(refused({1}, 2) == "redistribute_ranks: there must be 2 ranks, one a layer, found 1");
  CHECK(refused({1, 0}, 2) == "largest_eva_rank: rank must be at least 1, found 0");
  CHECK(refused({1, 1}, 0.5) == "largest_eva_rank: rho must be at least 1 and finite, found 0.5");
}
