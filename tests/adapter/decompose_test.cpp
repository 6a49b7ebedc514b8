#include <Eigen/SVD>
#include <loraplus/adapter/decompose.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::ArgumentError;
using loraplus::decompose;
using loraplus::Factors;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::NonFiniteError;
using loraplus::RankChoice;
using loraplus::RowMajorMatrix;
using loraplus::Vector;
using loraplus::WeightedFactors;

namespace {

using DoubleTerms = std::vector<WeightedFactors<double>>;

template <typename Scalar>
Factors<Scalar> random_factors(Index out, Index in, Index rank, double scaling, unsigned seed) {
  return {.a = test::random<RowMajorMatrix<Scalar>>(rank, in, seed),
          .b = test::random_matrix<Scalar>(out, rank, seed + 1),
          .scaling = scaling};
}

/// The singular values of a matrix by the other algorithm of Eigen.
Vector<double> jacobi_values(const Matrix<double>& m) {
  return Eigen::JacobiSVD<Matrix<double>>(m).singularValues();
}

/// diag(4, 3, 2, 1) with its rows moved round: energies 16, 9, 4, 1 of 30.
Matrix<double> known_spectrum() {
  Matrix<double> m = Matrix<double>::Zero(5, 4);
  m(1, 0) = 4;
  m(2, 1) = -3;
  m(4, 2) = 2;
  m(0, 3) = 1;
  return m;
}

Matrix<double> sum_of(const DoubleTerms& terms) {
  const Factors<double>& first = terms.front().factors;
  Matrix<double> sum = Matrix<double>::Zero(first.out_features(), first.in_features());
  for (const auto& term : terms) {
    const Factors<double>& f = term.factors;
    for (Index k = 0; k < f.rank(); ++k) {
      sum += term.weight * f.scaling * f.b.col(k) * f.a.row(k);
    }
  }
  return sum;
}

}  // namespace

TEST_CASE("a difference of full rank is decomposed exactly, with scaling 1 and no bias") {
  const auto delta = test::random_matrix<double>(7, 5, 1);
  const Factors<double> factors = decompose(delta, RankChoice::fixed(5));
  CHECK(factors.rank() == 5);
  CHECK(factors.scaling == 1);
  CHECK(factors.bias.size() == 0);
  CHECK(test::relative_distance(factors.delta(), delta) < 1e-14);
}

TEST_CASE("B = U S and A = V', as convert_to_lora of PEFT") {
  const auto factors = decompose(test::random_matrix<double>(7, 5, 2), RankChoice::fixed(3));
  CHECK((factors.a * factors.a.transpose() - Matrix<double>::Identity(3, 3)).norm() < 1e-14);
  const Matrix<double> gram = factors.b.transpose() * factors.b;
  const Vector<double> s = jacobi_values(test::random_matrix<double>(7, 5, 2)).head(3);
  CHECK((gram - Matrix<double>(s.cwiseAbs2().asDiagonal())).norm() < 1e-13 * gram.norm());
}

TEST_CASE("no adapter of the rank is closer: the error is the energy of what is left out") {
  const auto delta = test::random_matrix<double>(12, 9, 3);
  const Vector<double> s = jacobi_values(delta);
  for (Index rank = 1; rank < 9; ++rank) {
    const double error = (decompose(delta, RankChoice::fixed(rank)).delta() - delta).norm();
    CHECK(std::abs(error - s.tail(9 - rank).norm()) < 1e-13 * s(0));
  }
}

TEST_CASE("an energy share gives the fewest components that hold it") {
  const auto rank = [](double share) {
    return decompose(known_spectrum(), RankChoice::energy(share)).rank();
  };
  CHECK(rank(1e-9) == 1);
  CHECK(rank(15.9 / 30) == 1);
  CHECK(rank(16.1 / 30) == 2);
  CHECK(rank(24.9 / 30) == 2);
  CHECK(rank(25.1 / 30) == 3);
  CHECK(rank(29.1 / 30) == 4);
  CHECK(rank(1) == 4);
}

TEST_CASE("all the energy of a matrix of low rank is in as many components") {
  const Factors<double> low = random_factors<double>(40, 30, 3, 0.5, 4);
  const Factors<double> found = decompose(low.delta(), RankChoice::energy(1));
  CHECK(found.rank() == 3);
  CHECK(test::relative_distance(found.delta(), low.delta()) < 1e-14);
}

TEST_CASE("shares are counted where squares of singular values overflow or vanish") {
  for (const double scale : {1e-170, 1e+170}) {
    const Matrix<double> delta = scale * known_spectrum();
    CHECK(decompose(delta, RankChoice::energy(0.8)).rank() == 2);
  }
}

TEST_CASE("a zero difference has an adapter of rank 1 by any share, and of any fixed rank") {
  const Matrix<float> zero = Matrix<float>::Zero(4, 6);
  for (const auto& choice :
       {RankChoice::energy(0.5), RankChoice::energy(1), RankChoice::fixed(3)}) {
    const Factors<float> factors = decompose(zero, choice);
    CHECK(factors.delta().isZero(0));
    CHECK(factors.a.allFinite());
  }
  CHECK(decompose(zero, RankChoice::energy(1)).rank() == 1);
  CHECK(decompose(zero, RankChoice::fixed(3)).rank() == 3);
}

TEST_CASE("a float difference is decomposed in double and rounded once") {
  const auto delta = test::random_matrix<float>(30, 20, 5);
  const Factors<float> narrow = decompose(delta, RankChoice::fixed(4));
  const Factors<double> wide = decompose(delta.cast<double>(), RankChoice::fixed(4));
  CHECK(test::same_bits(narrow.a, RowMajorMatrix<float>(wide.a.cast<float>())));
  CHECK(test::same_bits(narrow.b, Matrix<float>(wide.b.cast<float>())));
}

TEST_CASE("a difference may be an expression or row-major") {
  const auto w0 = test::random_matrix<double>(6, 5, 6);
  const auto w1 = test::random<RowMajorMatrix<double>>(6, 5, 7);
  const Factors<double> factors = decompose(w1 - w0, RankChoice::fixed(5));
  CHECK(test::relative_distance(factors.delta(), w1 - w0) < 1e-14);
}

TEST_CASE("what cannot be decomposed is refused with the sizes") {
  const Matrix<double> delta = Matrix<double>::Ones(7, 5);
  const auto message = [&](const Matrix<double>& m, const RankChoice& choice) {
    return test::message_of<ArgumentError>([&] { decompose(m, choice); });
  };
  CHECK(message(delta, RankChoice::fixed(6)) ==
        "decompose: a 7 x 5 matrix has no rank larger than 5, found rank 6");
  CHECK(message(Matrix<double>(0, 5), RankChoice::energy(0.5)) ==
        "decompose: a 0 x 5 matrix has no rank larger than 0, found rank 1");
  CHECK_THROWS_AS(RankChoice::fixed(0), ArgumentError);
  for (const double share : {0.0, -0.5, 1.0001, std::nan("")}) {
    CHECK_THROWS_AS(RankChoice::energy(share), ArgumentError);
  }
  CHECK(test::message_of<ArgumentError>([] { RankChoice::energy(2); }) ==
        "RankChoice: the share of the energy must be in (0, 1], found 2");
}

TEST_CASE("a difference that is not finite, or not in the scalar, is refused") {
  Matrix<float> delta = Matrix<float>::Ones(20, 20);
  delta(4, 2) = std::numeric_limits<float>::quiet_NaN();
  CHECK(test::message_of<NonFiniteError>([&] { decompose(delta, RankChoice::fixed(2)); }) ==
        "decompose: delta is not finite");
  delta.setConstant(std::numeric_limits<float>::max());  // its singular value is 20 times as large
  CHECK(test::message_of<NonFiniteError>([&] { decompose(delta, RankChoice::fixed(2)); }) ==
        "decompose: B of the result is not finite");
}

TEST_CASE("a sum of adapters is decomposed as the matrix that it is") {
  const Factors<double> f1 = random_factors<double>(30, 20, 2, 0.5, 10);
  const Factors<double> f2 = random_factors<double>(30, 20, 5, 3, 20);
  const Factors<double> f3 = random_factors<double>(30, 20, 1, 1, 30);
  const DoubleTerms terms{{f1, 2}, {f2, -0.7}, {f3, 0}};
  const Matrix<double> sum = sum_of(terms);
  for (const Index rank : {1, 4, 7}) {
    const auto from_terms = decompose<double>(terms, RankChoice::fixed(rank));
    const auto from_matrix = decompose(sum, RankChoice::fixed(rank));
    CHECK(from_terms.scaling == 1);
    CHECK(test::relative_distance(from_terms.delta(), from_matrix.delta()) < 1e-13);
    CHECK((from_terms.a * from_terms.a.transpose() - Matrix<double>::Identity(rank, rank)).norm() <
          1e-13);
  }
  CHECK(decompose<double>(terms, RankChoice::energy(1)).rank() == 7);
}

TEST_CASE("a sum of ranks larger than both sides is decomposed too") {
  const Factors<double> f1 = random_factors<double>(4, 6, 9, 1, 1);
  const Factors<double> f2 = random_factors<double>(4, 6, 3, 2, 3);
  const DoubleTerms terms{{f1, 1}, {f2, 1}};
  const auto factors = decompose<double>(terms, RankChoice::fixed(4));
  CHECK(test::relative_distance(factors.delta(), sum_of(terms)) < 1e-14);
  CHECK_THROWS_AS(decompose<double>(terms, RankChoice::fixed(5)), ArgumentError);
}

TEST_CASE("components beyond the ranks of the terms are zero") {
  const Factors<double> f = random_factors<double>(8, 9, 2, 1, 1);
  const auto factors = decompose<double>(DoubleTerms{{f, 1}}, RankChoice::fixed(6));
  CHECK(factors.rank() == 6);
  CHECK(factors.a.bottomRows(4).isZero(0));
  CHECK(factors.b.rightCols(4).isZero(0));
  CHECK(test::relative_distance(factors.delta(), f.delta()) < 1e-14);
}

TEST_CASE("the bias of a decomposed sum is the sum of w s b") {
  Factors<double> f1 = random_factors<double>(4, 6, 2, 2, 1);
  const Factors<double> f2 = random_factors<double>(4, 6, 2, 5, 3);
  f1.bias = test::random_vector<double>(4, 5);
  const auto factors = decompose<double>(DoubleTerms{{f1, -3}, {f2, 1}}, RankChoice::fixed(2));
  CHECK(test::relative_distance(factors.bias, -6 * f1.bias) < 1e-15);
}
