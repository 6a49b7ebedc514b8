#include <Eigen/SVD>
#include <loraplus/adapter/combine.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::ArgumentError;
using loraplus::Combination;
using loraplus::combine;
using loraplus::CombineOptions;
using loraplus::Factors;
using loraplus::Index;
using loraplus::MajoritySign;
using loraplus::Matrix;
using loraplus::NonFiniteError;
using loraplus::RowMajorMatrix;
using loraplus::ShapeError;
using loraplus::Vector;
using loraplus::WeightedFactors;

namespace {

template <typename Scalar>
using Terms = std::vector<WeightedFactors<Scalar>>;

constexpr auto all_combinations = {Combination::linear,
                                   Combination::cat,
                                   Combination::svd,
                                   Combination::ties,
                                   Combination::ties_svd,
                                   Combination::dare_linear,
                                   Combination::dare_linear_svd,
                                   Combination::dare_ties,
                                   Combination::dare_ties_svd,
                                   Combination::magnitude_prune,
                                   Combination::magnitude_prune_svd};

bool is_svd(Combination type) {
  return to_string(type).find("svd") != std::string_view::npos;
}
bool is_dare(Combination type) {
  return to_string(type).find("dare") != std::string_view::npos;
}
bool needs_equal_ranks(Combination type) {
  return !is_svd(type) && type != Combination::cat;
}

template <typename Scalar>
Factors<Scalar> drawn_factors(Index out, Index in, Index rank, double scaling, unsigned seed) {
  return {.a = test::random<RowMajorMatrix<Scalar>>(rank, in, seed),
          .b = test::random_matrix<Scalar>(out, rank, seed + 1),
          .scaling = scaling};
}

template <typename Scalar>
Factors<Scalar> combined(const Terms<Scalar>& terms, const CombineOptions& options) {
  std::mt19937_64 generator{7};
  return combine<Scalar>(terms, options, generator);
}

template <typename Scalar>
Matrix<double> exact_sum(const Terms<Scalar>& terms) {
  const Factors<Scalar>& first = terms.front().factors;
  Matrix<double> sum = Matrix<double>::Zero(first.out_features(), first.in_features());
  for (const auto& term : terms) {
    const Factors<Scalar>& f = term.factors;
    sum += term.weight * f.scaling * f.b.template cast<double>() * f.a.template cast<double>();
  }
  return sum;
}

/// B = (1 ... 1)', A = the vector, so that A is combined like the vector itself.
Factors<double> of_row(const Eigen::RowVectorXd& a, double scaling = 1) {
  return {.a = a, .b = Matrix<double>::Ones(1, 1), .scaling = scaling};
}

Factors<double> of_rank_one(const Eigen::RowVectorXd& a, const Vector<double>& b, double scaling) {
  return {.a = a, .b = b, .scaling = scaling};
}

template <typename Derived>
double largest_error(const Eigen::MatrixBase<Derived>& found,
                     std::initializer_list<double> expected) {
  REQUIRE(found.size() == static_cast<Index>(expected.size()));
  double error = 0;
  Index i = 0;
  for (const double x : expected) {
    error = std::max(error, std::abs(static_cast<double>(found(i++)) - x));
  }
  return error;
}

// ---- a naive oracle: entry by entry, by sorting and by loops

using Entry = std::vector<double>;  // one entry of each adapter

void naive_prune(Matrix<double>& m, double density) {
  if (density >= 1) return;
  std::vector<double> sorted(m.data(), m.data() + m.size());
  std::sort(sorted.begin(), sorted.end(),
            [](double x, double y) { return std::abs(x) > std::abs(y); });
  const auto kept = static_cast<std::size_t>(density * static_cast<double>(m.size()));
  for (Index i = 0; i < m.size(); ++i) {  // the entries of the oracle's cases all differ
    bool found = false;
    for (std::size_t k = 0; k < kept; ++k) {
      found = found || sorted[k] == m.data()[i];
    }
    if (!found) m.data()[i] = 0;
  }
}

double naive_elected(const Entry& entry, const Entry& weights, MajoritySign majority) {
  double votes = 0;
  for (const double x : entry) {
    if (majority == MajoritySign::total) votes += x;
    if (majority == MajoritySign::frequency && x != 0) votes += x > 0 ? 1 : -1;
  }
  double sum = 0;
  int count = 0;
  for (std::size_t i = 0; i < entry.size(); ++i) {
    const bool agrees = votes >= 0 ? entry[i] > 0 : entry[i] < 0;
    if (!agrees) continue;
    sum += weights[i] * entry[i];
    ++count;
  }
  return count == 0 ? 0 : sum / count;
}

Matrix<double> naive_merge(std::vector<Matrix<double>> tensors, const Entry& weights,
                           const CombineOptions& options) {
  for (auto& tensor : tensors) {
    naive_prune(tensor, options.density);
  }
  const bool elects = to_string(options.type).find("ties") != std::string_view::npos;
  Matrix<double> merged = Matrix<double>::Zero(tensors[0].rows(), tensors[0].cols());
  for (Index i = 0; i < merged.size(); ++i) {
    Entry entry;
    for (const auto& tensor : tensors) {
      entry.push_back(tensor.data()[i]);
    }
    for (std::size_t k = 0; k < entry.size() && !elects; ++k) {
      merged.data()[i] += weights[k] * entry[k];
    }
    if (elects) merged.data()[i] = naive_elected(entry, weights, options.majority_sign);
  }
  return merged;
}

Matrix<double> naive_delta(const Terms<double>& terms, const CombineOptions& options) {
  std::vector<Matrix<double>> a, b, products;
  Entry a_weights, b_weights, weights;
  for (const auto& term : terms) {
    const Factors<double>& f = term.factors;
    const double q = term.weight * f.scaling;
    a.emplace_back(f.a);
    b.emplace_back(f.b);
    products.emplace_back(f.scaling * f.b * f.a);
    a_weights.push_back((q < 0 ? -1 : 1) * std::sqrt(std::abs(q)));
    b_weights.push_back(std::sqrt(std::abs(q)));
    weights.push_back(term.weight);
  }
  if (is_svd(options.type)) return naive_merge(products, weights, options);
  return naive_merge(b, b_weights, options) * naive_merge(a, a_weights, options);
}

/// The closest matrix of the rank, by the other algorithm of Eigen.
Matrix<double> truncated(const Matrix<double>& m, Index rank) {
  const Eigen::JacobiSVD<Matrix<double>> svd(m, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return svd.matrixU().leftCols(rank) * svd.singularValues().head(rank).asDiagonal() *
         svd.matrixV().leftCols(rank).transpose();
}

}  // namespace

// ---- hand vectors

TEST_CASE("linear: a hand vector") {
  const auto f1 = of_rank_one(Eigen::RowVector2d(1, 2), Eigen::Vector2d(1, 0), 2);
  const auto f2 = of_rank_one(Eigen::RowVector2d(0, 1), Eigen::Vector2d(1, 1), 4);
  const auto sum =
      combine<double>(Terms<double>{{f1, 0.5}, {f2, -0.3}}, {.type = Combination::linear});
  CHECK(largest_error(sum.a, {1, 0.9045548849896679}) < 1e-12);
  CHECK(largest_error(sum.b, {2.095445115010332, 1.0954451150103321}) < 1e-12);
}

TEST_CASE("cat: a hand vector") {
  const auto f1 = of_rank_one(Eigen::RowVector2d(1, 2), Eigen::Vector2d(1, 0), 2);
  const auto f2 = of_rank_one(Eigen::RowVector2d(0, 1), Eigen::Vector2d(1, 1), 4);
  const auto sum = combine<double>(Terms<double>{{f1, 0.5}, {f2, -0.3}});
  CHECK(largest_error(sum.delta(), {1, 0, 0.8, -1.2}) < 1e-12);  // column by column
}

TEST_CASE("ties and magnitude_prune: hand vectors") {
  // A has the weights sqrt|q| = 1, 2
  const auto t1 = of_row(Eigen::RowVector4d(1, -2, 3, -4));
  const auto t2 = of_row(Eigen::RowVector4d(-5, 1, 2, -1), 4);
  const Terms<double> terms{{t1, 1}, {t2, 1}};
  const auto ties = combine<double>(terms, {.type = Combination::ties, .density = 0.5});
  CHECK(largest_error(ties.a, {-10, 0, 3.5, -4}) < 1e-12);
  const auto sum = combine<double>(terms, {.type = Combination::magnitude_prune, .density = 0.5});
  CHECK(largest_error(sum.a, {-10, 0, 7, -4}) < 1e-12);
}

TEST_CASE("the majority by frequency may differ from that of the total; none is +") {
  const auto f1 = of_row(Eigen::RowVector4d(1, 2, 0, -3));
  const auto f2 = of_row(Eigen::RowVector4d(1, -2, 0, -1));
  const auto f3 = of_row(Eigen::RowVector4d(-5, 0, 0, 2));
  const Terms<double> terms{{f1, 1}, {f2, 1}, {f3, 1}};
  const auto total = combine<double>(terms, {.type = Combination::ties});
  CHECK(largest_error(total.a, {-5, 2, 0, -2}) < 1e-15);
  const auto frequency =
      combine<double>(terms, {.type = Combination::ties, .majority_sign = MajoritySign::frequency});
  CHECK(largest_error(frequency.a, {1, 2, 0, -2}) < 1e-15);
}

TEST_CASE("of entries of equal magnitude the first are kept, as many as the density says") {
  const auto f = of_row(Eigen::RowVector4d(2, -2, 2, 1));
  const Terms<double> terms{{f, 1}, {f, 0}};
  const auto kept = [&](double density) {
    return combine<double>(terms, {.type = Combination::magnitude_prune, .density = density});
  };
  CHECK(largest_error(kept(0.49).a, {2, 0, 0, 0}) < 1e-15);
  CHECK(largest_error(kept(0.5).a, {2, -2, 0, 0}) < 1e-15);
  CHECK(largest_error(kept(0.99).a, {2, -2, 2, 0}) < 1e-15);
  CHECK(kept(0.99).b.isZero(0));  // 0.99 of one entry is none
}

// ---- against the oracle

TEST_CASE("every type that draws nothing is that of a naive oracle") {
  const auto f1 = drawn_factors<double>(9, 7, 3, 0.5, 1);
  const auto f2 = drawn_factors<double>(9, 7, 3, 2, 11);
  const auto f3 = drawn_factors<double>(9, 7, 3, 1.5, 21);
  const Terms<double> terms{{f1, 1.2}, {f2, -0.8}, {f3, 0.4}};
  for (const Combination type : all_combinations) {
    if (is_dare(type) || type == Combination::cat) continue;
    for (const double density : {0.0, 0.1, 0.5, 0.9, 1.0, 1.5}) {
      for (const auto majority : {MajoritySign::total, MajoritySign::frequency}) {
        CAPTURE(to_string(type), density, majority);
        CombineOptions options{.type = type, .density = density, .majority_sign = majority};
        if (type == Combination::linear || type == Combination::svd) options.density = 1;
        Matrix<double> expected = naive_delta(terms, options);
        if (is_svd(type)) expected = truncated(expected, 3);
        const auto sum = combine<double>(terms, options);
        CHECK(sum.rank() == 3);
        CHECK(test::relative_distance(sum.delta(), expected) < 1e-12);
      }
    }
  }
}

TEST_CASE("float adapters are combined in double and rounded once") {
  const auto f1 = drawn_factors<float>(9, 7, 3, 0.3, 1);
  const auto f2 = drawn_factors<float>(9, 7, 3, 2, 11);
  const Factors<double> d1{.a = f1.a.cast<double>(), .b = f1.b.cast<double>(), .scaling = 0.3};
  const Factors<double> d2{.a = f2.a.cast<double>(), .b = f2.b.cast<double>(), .scaling = 2};
  for (const Combination type : all_combinations) {
    CAPTURE(to_string(type));
    const CombineOptions options{.type = type, .density = 0.7};
    const auto narrow = combined(Terms<float>{{f1, 0.6}, {f2, -1.1}}, options);
    const auto wide = combined(Terms<double>{{d1, 0.6}, {d2, -1.1}}, options);
    CHECK(test::same_bits(narrow.a, RowMajorMatrix<float>(wide.a.cast<float>())));
    CHECK(test::same_bits(narrow.b, Matrix<float>(wide.b.cast<float>())));
  }
}

TEST_CASE("golden values of PEFT 0.21.2, in double") {
  const auto factors = [](std::initializer_list<double> a, std::initializer_list<double> b,
                          double s) {
    Factors<double> f{.a = RowMajorMatrix<double>(2, 4), .b = Matrix<double>(3, 2), .scaling = s};
    std::copy(a.begin(), a.end(), f.a.data());
    std::copy(b.begin(), b.end(), f.b.data());
    return f;
  };
  const auto f1 = factors({1, -.5, .25, 2, -1.5, .75, .5, -.125}, {.5, 2, -.75, -1, .25, 1.5}, 1.5);
  const auto f2 =
      factors({.5, 1.25, -1, -.25, 2, -.375, .625, 1}, {-1.25, 1, .875, .375, 2, -.5}, 0.5);
  const auto check = [&](const CombineOptions& options, std::initializer_list<double> row_by_row) {
    CAPTURE(to_string(options.type), options.density);
    const auto sum = combine<double>(Terms<double>{{f1, 1.5}, {f2, -0.5}}, options);
    const Matrix<double> columns = sum.delta().transpose();
    CHECK(largest_error(columns.reshaped(), row_by_row) < 1e-12);
  };
  check({.type = Combination::linear},
        {4.421875, -1.89453125, -0.46484375, 1.29296875, -0.09375, -3.0078125, 3.6640625, 9.9921875,
         -7.359375, 3.5703125, 0.2734375, -3.5234375});
  check({.type = Combination::cat},
        {4.46875, -1.82421875, -1.21484375, 2.359375, 2.53125, -1.953125, 1.34375, 8.4921875,
         -6.609375, 3.0546875, 1.5625, -3.6171875});
  check({.type = Combination::svd, .svd_rank = 1},
        {3.148273812225, -1.6281747299307, -0.24051356908878, 3.6499945149291, 5.0753097995383,
         -2.6247688908411, -0.38773021246698, 5.8841301725241, -4.7765191626186, 2.4702450490191,
         0.36490398870689, -5.5377231409519});
  check({.type = Combination::ties, .density = 0.75, .majority_sign = MajoritySign::frequency},
        {1.109375, -1.296875, -0.640625, -1.125, 0.09375, 0.03125, 1.09375, 4.75, -1.9765625,
         2.2578125, 0.7109375, 0.1875});
  check({.type = Combination::ties_svd, .svd_rank = 1, .density = 0.6},
        {4.4952610644438, -0.51432298295823, -0.24117454805058, 2.3477180572479, 2.7028251184914,
         -0.30924234597906, -0.14500884755457, 1.4115912836423, -6.1186157114172, 0.70005827006635,
         0.32826889422912, -3.1955395660279});
  check({.type = Combination::magnitude_prune_svd, .svd_rank = 1, .density = 0.6},
        {3.0673649531406, -0.69587133981162, -0.13266993920533, 3.5563294671913, 5.1623879974619,
         -1.1711543645118, -0.22328406050162, 5.9853173120633, -4.858942153729, 1.1023137573247,
         0.2101593941332, -5.6334995752598});
}

// ---- what holds for every type

TEST_CASE("T12: a single adapter reweighted is w s B A, whatever the type") {
  const auto f = drawn_factors<double>(6, 5, 3, 2.5, 1);
  for (const Combination type : all_combinations) {
    for (const double weight : {1.0, -1.0, 0.3, -2.0, 0.0}) {
      CAPTURE(to_string(type), weight);
      const auto sum =
          combined(Terms<double>{{f, weight}}, {.type = type, .svd_rank = 1, .density = 0.1});
      CHECK((sum.delta() - weight * f.delta()).norm() < 1e-14 * f.delta().norm());
      CHECK(sum.rank() == 3);
    }
  }
}

TEST_CASE(
    "K2, K19: the result is plain factors of scaling exactly 1; the adapters stay as they are") {
  const auto f1 = drawn_factors<double>(6, 5, 4, 8 / std::sqrt(4.0), 1);
  const auto f2 = drawn_factors<double>(6, 5, 4, 8 / std::sqrt(4.0), 3);
  const auto before = f1;
  for (const Combination type : all_combinations) {
    CAPTURE(to_string(type));
    CHECK(combined(Terms<double>{{f1, 0.5}, {f2, 0.5}}, {.type = type}).scaling == 1);
    CHECK(combined(Terms<double>{{f1, 0.5}}, {.type = type}).scaling == 1);
  }
  CHECK(test::same_bits(f1.a, before.a));
  CHECK(test::same_bits(f1.b, before.b));
  CHECK(f1.scaling == before.scaling);
}

TEST_CASE("K3: the biases of B are combined, sum of w s b, whatever the type") {
  auto f1 = drawn_factors<double>(6, 5, 2, 2, 1);
  auto f2 = drawn_factors<double>(6, 5, 2, 4, 3);
  const auto f3 = drawn_factors<double>(6, 5, 2, 4, 5);
  f1.bias = test::random_vector<double>(6, 7);
  f2.bias = test::random_vector<double>(6, 8);
  const Vector<double> expected = 0.5 * 2 * f1.bias - 0.3 * 4 * f2.bias;
  for (const Combination type : all_combinations) {
    CAPTURE(to_string(type));
    const CombineOptions options{.type = type, .density = 0.5};
    const auto sum = combined(Terms<double>{{f3, 1}, {f1, 0.5}, {f2, -0.3}}, options);
    CHECK(sum.scaling == 1);  // by which the bias is multiplied once more
    CHECK(test::relative_distance(sum.bias, expected) < 1e-15);
    CHECK(combined(Terms<double>{{f1, -2}}, options).bias.isApprox(-4 * f1.bias, 1e-15));
    CHECK(combined(Terms<double>{{f3, 1}, {f3, 1}}, options).bias.size() == 0);
  }
}

TEST_CASE("K1: the svd types have each scaling once") {
  const auto f1 = drawn_factors<double>(6, 5, 2, 3, 1);
  const auto f2 = drawn_factors<double>(6, 5, 2, 0.25, 3);
  const Terms<double> terms{{f1, 0.5}, {f2, 2}};
  const auto svd = combine<double>(terms, {.type = Combination::svd, .svd_rank = 4});
  CHECK(test::relative_distance(svd.delta(), 1.5 * f1.b * f1.a + 0.5 * f2.b * f2.a) < 1e-14);
  const auto pruned = combine<double>(
      terms, {.type = Combination::magnitude_prune_svd, .svd_rank = 5, .density = 1});
  CHECK(test::relative_distance(pruned.delta(), 1.5 * f1.b * f1.a + 0.5 * f2.b * f2.a) < 1e-14);
}

TEST_CASE("K4: linear has cross terms; cat, and svd of the summed ranks, are exact") {
  const auto f1 = drawn_factors<double>(8, 7, 2, 3, 1);
  const auto f2 = drawn_factors<double>(8, 7, 2, 0.5, 3);
  const Terms<double> terms{{f1, 0.6}, {f2, -4}};
  const Matrix<double> sum = 1.8 * f1.b * f1.a - 2 * f2.b * f2.a;
  const auto delta = [&](Combination type, Index rank = 0) {
    return combine<double>(terms, {.type = type, .svd_rank = rank}).delta();
  };
  const double c = std::sqrt(1.8 * 2);
  const Matrix<double> cross = -c * f1.b * f2.a + c * f2.b * f1.a;
  CHECK(test::relative_distance(delta(Combination::linear), sum + cross) < 1e-14);
  CHECK(test::relative_distance(delta(Combination::linear), sum) > 0.1);
  CHECK(test::relative_distance(delta(Combination::cat), sum) < 1e-14);
  CHECK(test::relative_distance(delta(Combination::svd, 4), sum) < 1e-14);
}

TEST_CASE("K15: a density of 0 gives zeros and no NaN") {
  auto f1 = drawn_factors<float>(6, 5, 2, 2, 1);
  const auto f2 = drawn_factors<float>(6, 5, 2, 4, 3);
  for (const Combination type : all_combinations) {
    if (to_string(type) == "linear" || to_string(type) == "cat" || to_string(type) == "svd")
      continue;
    CAPTURE(to_string(type));
    const auto sum = combined(Terms<float>{{f1, 1}, {f2, 1}}, {.type = type, .density = 0});
    CHECK(sum.delta().isZero(0));
    CHECK(sum.a.allFinite());
    CHECK(sum.b.allFinite());
  }
}

TEST_CASE("T10: cat of weights 1 is both adapters at once, and neither alone") {
  const auto f1 = drawn_factors<float>(20, 10, 4, 0.5, 1);
  const auto f2 = drawn_factors<float>(20, 10, 4, 2, 3);
  const auto x = test::random_matrix<float>(10, 9, 5);
  const auto sum = combine<float>(Terms<float>{{f1, 1}, {f2, 1}});
  const Matrix<float> y1 = f1.delta() * x;
  const Matrix<float> y2 = f2.delta() * x;
  const Matrix<float> y = sum.delta() * x;
  CHECK(test::relative_distance(y, y1 + y2) < 1e-6);
  CHECK(test::relative_distance(y, y1) > 0.1);
  CHECK(test::relative_distance(y, y2) > 0.1);
}

TEST_CASE("T11: a weight of -1 negates; identical adapters of weights 1 and -1 cancel") {
  const auto f = drawn_factors<float>(12, 10, 3, 1.5, 1);
  for (const Combination type : {Combination::linear, Combination::cat, Combination::svd}) {
    CAPTURE(to_string(type));
    const auto negated = combine<float>(Terms<float>{{f, -1}}, {.type = type});
    CHECK(test::relative_distance(negated.delta(), -f.delta()) < 1e-6);
    const auto nothing = combine<float>(Terms<float>{{f, 1}, {f, -1}}, {.type = type});
    CHECK(nothing.delta().norm() < 1e-6 * f.delta().norm());
  }
}

TEST_CASE("T12: the ranks of the results, of 8 and 20") {
  const auto f8 = drawn_factors<double>(20, 30, 8, 1, 1);
  const auto f20 = drawn_factors<double>(20, 30, 20, 1, 3);
  const Terms<double> terms{{f8, 0.5}, {f20, 0.5}};
  const auto rank = [&](Combination type, Index svd_rank) {
    return combined(terms, {.type = type, .svd_rank = svd_rank, .density = 0.5}).rank();
  };
  CHECK(rank(Combination::cat, 0) == 28);
  for (const Combination type : all_combinations) {
    CAPTURE(to_string(type));
    if (is_svd(type)) {
      CHECK(rank(type, 0) == 20);
      CHECK(rank(type, 3) == 3);
      CHECK(rank(type, 64) == 64);
    }
    if (needs_equal_ranks(type)) {
      CHECK_THROWS_AS(rank(type, 0), ArgumentError);
      CHECK(combined(Terms<double>{{f8, 1}, {f8, 2}}, {.type = type}).rank() == 8);
    }
  }
}

TEST_CASE("T13: cat of the ranks 2 and 16") {
  const auto f2 = drawn_factors<double>(10, 20, 2, 1, 1);
  const auto f16 = drawn_factors<double>(10, 20, 16, 0.5, 3);
  const Terms<double> terms{{f2, 0.5}, {f16, 0.5}};
  const auto sum = combine<double>(terms);
  CHECK(sum.rank() == 18);
  CHECK(test::relative_distance(sum.delta(), exact_sum(terms)) < 1e-14);
}

TEST_CASE("svd gives the closest adapter of its rank") {
  const auto f1 = drawn_factors<double>(14, 11, 3, 1, 1);
  const auto f2 = drawn_factors<double>(14, 11, 5, 0.5, 3);
  const Terms<double> terms{{f1, 2}, {f2, -1}};
  for (const Index rank : {0, 1, 2, 6}) {
    const auto sum = combine<double>(terms, {.type = Combination::svd, .svd_rank = rank});
    const Matrix<double> expected = truncated(exact_sum(terms), rank > 0 ? rank : 5);
    CHECK(test::relative_distance(sum.delta(), expected) < 1e-13);
  }
}

TEST_CASE("a rank larger than a side is kept, with zeros, so that all layers have the same") {
  const auto f1 = drawn_factors<double>(2, 5, 4, 1, 1);
  const auto f2 = drawn_factors<double>(2, 5, 4, 0.5, 3);
  const Terms<double> terms{{f1, 2}, {f2, -1}};
  for (const Combination type : {Combination::svd, Combination::magnitude_prune_svd}) {
    const auto sum = combine<double>(terms, {.type = type});
    CHECK(sum.rank() == 4);
    CHECK(sum.a.bottomRows(2).isZero(0));
    CHECK(sum.b.rightCols(2).isZero(0));
    CHECK(test::relative_distance(sum.delta(), exact_sum(terms)) < 1e-14);
  }
}

TEST_CASE("adapters that are zero are combined to zero, of any type and of rank 1 too") {
  for (const Index rank : {1, 3}) {
    const Factors<float> zero{.a = RowMajorMatrix<float>::Zero(rank, 5),
                              .b = Matrix<float>::Zero(4, rank)};
    for (const Combination type : all_combinations) {
      CAPTURE(to_string(type), rank);
      const auto sum =
          combined(Terms<float>{{zero, 1}, {zero, -2}}, {.type = type, .density = 0.5});
      CHECK(sum.delta().isZero(0));
      CHECK(sum.a.allFinite());
      CHECK(sum.b.allFinite());
    }
  }
}

TEST_CASE("densities of 1 and more prune nothing and draw nothing") {
  const auto f1 = drawn_factors<double>(6, 5, 2, 2, 1);
  const auto f2 = drawn_factors<double>(6, 5, 2, 4, 3);
  const Terms<double> terms{{f1, 1}, {f2, -0.5}};
  const auto linear = combine<double>(terms, {.type = Combination::linear});
  const auto svd = combine<double>(terms, {.type = Combination::svd, .svd_rank = 3});
  for (const double density : {1.0, 3.0}) {
    for (const auto type : {Combination::magnitude_prune, Combination::dare_linear}) {
      const auto sum = combined(terms, {.type = type, .density = density});
      CHECK(test::same_bits(sum.a, linear.a));
      CHECK(test::same_bits(sum.b, linear.b));
    }
    for (const auto type : {Combination::magnitude_prune_svd, Combination::dare_linear_svd}) {
      const auto sum = combined(terms, {.type = type, .svd_rank = 3, .density = density});
      CHECK(test::relative_distance(sum.delta(), svd.delta()) < 1e-13);
    }
  }
  std::mt19937_64 used{1};
  combine<double>(terms, {.type = Combination::dare_ties, .density = 1}, used);
  combine<double>(terms, {.type = Combination::ties, .density = 0.5}, used);
  CHECK(used == std::mt19937_64{1});
}

// ---- dare

TEST_CASE("dare_linear: entries stay with the density, divided by it, drawn in storage order") {
  const double density = 0.3;
  const auto f1 = drawn_factors<double>(6, 5, 2, 4, 1);
  const auto f2 = drawn_factors<double>(6, 5, 2, 9, 3);
  std::mt19937_64 generator{3}, oracle{3};
  const auto sum =
      combine<double>(Terms<double>{{f1, 1}, {f2, -1}},
                      {.type = Combination::dare_linear, .density = density}, generator);
  const auto drop = [&](auto tensor) {
    for (Index i = 0; i < tensor.size(); ++i) {
      const bool kept = loraplus::uniform(oracle) < density;
      tensor.data()[i] = kept ? tensor.data()[i] / density : 0;
    }
    return tensor;
  };
  const auto a1 = drop(f1.a), a2 = drop(f2.a);
  const auto b1 = drop(f1.b), b2 = drop(f2.b);
  CHECK(test::relative_distance(sum.a, 2 * a1 - 3 * a2) < 1e-15);
  CHECK(test::relative_distance(sum.b, 2 * b1 + 3 * b2) < 1e-15);
  CHECK(generator == oracle);
}

TEST_CASE("dare_ties elects among the entries that stay") {
  // where both 1 and -3 stay the latter wins, so it is seen as often as it stays
  const Index n = 4000;
  const double density = 0.4;
  const auto f1 = of_row(Eigen::RowVectorXd::Constant(n, 1));
  const auto f2 = of_row(Eigen::RowVectorXd::Constant(n, -3));
  const auto sum = combined(Terms<double>{{f1, 1}, {f2, 1}},
                            {.type = Combination::dare_ties, .density = density});
  double ones = 0, threes = 0;
  for (const double x : sum.a.reshaped()) {
    ones += std::abs(x - 1 / density) < 1e-12 ? 1 : 0;
    threes += std::abs(x + 3 / density) < 1e-12 ? 1 : 0;
    CHECK((x == 0 || std::abs(x - 1 / density) < 1e-12 || std::abs(x + 3 / density) < 1e-12));
  }
  CHECK(std::abs(threes / n - density) < 5 * std::sqrt(density * (1 - density) / n));
  const double alone = density * (1 - density);
  CHECK(std::abs(ones / n - alone) < 5 * std::sqrt(alone * (1 - alone) / n));
}

TEST_CASE("dare_linear_svd keeps the sum in expectation") {
  const auto f1 = drawn_factors<double>(4, 5, 2, 1, 1);
  const auto f2 = drawn_factors<double>(4, 5, 2, 3, 3);
  const Terms<double> terms{{f1, 1}, {f2, -0.5}};
  std::mt19937_64 generator{9};
  Matrix<double> mean = Matrix<double>::Zero(4, 5);
  const int trials = 4000;
  for (int i = 0; i < trials; ++i) {
    mean +=
        combine<double>(
            terms, {.type = Combination::dare_linear_svd, .svd_rank = 4, .density = 0.8}, generator)
            .delta() /
        trials;
  }
  // an entry's deviation is sqrt((1 - d) / d / trials) = 0.008 of its parts
  CHECK(test::relative_distance(mean, exact_sum(terms)) < 0.05);
}

TEST_CASE("dare needs a generator") {
  const auto f = drawn_factors<double>(4, 5, 2, 1, 1);
  for (const Combination type : all_combinations) {
    const auto without = [&] { combine<double>(Terms<double>{{f, 1}, {f, 1}}, {.type = type}); };
    if (!is_dare(type)) {
      CHECK_NOTHROW(without());
      continue;
    }
    CHECK(test::message_of<ArgumentError>(without) ==
          "combine: " + std::string(to_string(type)) +
              " drops entries at random: pass a generator");
  }
}

// ---- svd_clamp

TEST_CASE("svd_clamp limits B and A to the quantile of their entries and the negatives of these") {
  const auto f1 = drawn_factors<double>(9, 8, 2, 1, 1);
  const auto f2 = drawn_factors<double>(9, 8, 2, 0.5, 3);
  const Terms<double> terms{{f1, 2}, {f2, -1}};
  const auto plain = combine<double>(terms, {.type = Combination::svd});
  std::vector<double> values;
  for (const Matrix<double>& m : {Matrix<double>(plain.a), plain.b}) {
    for (const double x : m.reshaped())
      values.insert(values.end(), {x, -x});
  }
  std::sort(values.begin(), values.end());
  for (const double share : {0.5, 0.8, 0.99, 1.0}) {
    const double position = share * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const double next = values[std::min(below + 1, values.size() - 1)];
    const double bound =
        values[below] + (position - static_cast<double>(below)) * (next - values[below]);
    const auto limited = combine<double>(terms, {.type = Combination::svd, .svd_clamp = share});
    CHECK((limited.a - plain.a.cwiseMin(bound).cwiseMax(-bound)).norm() < 1e-14);
    CHECK((limited.b - plain.b.cwiseMin(bound).cwiseMax(-bound)).norm() < 1e-14);
  }
}

// ---- refusals

TEST_CASE("options outside their ranges are refused") {
  const auto refused = [](const CombineOptions& options) {
    return test::message_of<ArgumentError>([&] { validate(options); });
  };
  CHECK(refused({.density = -0.1}) == "CombineOptions: density must not be negative, found -0.1");
  CHECK(refused({.svd_rank = -1}) == "CombineOptions: svd_rank must not be negative, found -1");
  CHECK(refused({.svd_clamp = 0.4}) == "CombineOptions: svd_clamp must be in [0.5, 1], found 0.4");
  CHECK_THROWS_AS(validate(CombineOptions{.density = std::nan("")}), ArgumentError);
  CHECK_THROWS_AS(validate(CombineOptions{.svd_clamp = std::nan("")}), ArgumentError);
  CHECK_THROWS_AS(validate(CombineOptions{.svd_clamp = 1.01}), ArgumentError);
  const auto f = drawn_factors<double>(4, 5, 2, 1, 1);
  CHECK_THROWS_AS(
      combine<double>(Terms<double>{{f, 1}}, {.type = Combination::ties, .density = -1}),
      ArgumentError);
}

TEST_CASE("adapters that cannot be combined are refused, and the one at fault is named") {
  const auto good = drawn_factors<double>(4, 5, 2, 1, 1);
  const auto refusal_of = [&](const Factors<double>& bad, Combination type = Combination::cat) {
    return test::message_of<std::exception>([&] {
      combined(Terms<double>{{good, 1}, {bad, 1}, {good, 1}}, {.type = type});
    });
  };
  CHECK(refusal_of(drawn_factors<double>(4, 6, 2, 1, 1)) ==
        "combine: adapter 2 of 3: A must be 2 x 5, found 2 x 6");
  CHECK(refusal_of(drawn_factors<double>(3, 5, 2, 1, 1)) ==
        "combine: adapter 2 of 3: B must be 4 x 2, found 3 x 2");
  auto bad = good;
  bad.b.resize(4, 3);
  CHECK(refusal_of(bad) == "combine: adapter 2 of 3: B must be 4 x 2, found 4 x 3");
  bad = good;
  bad.bias = Vector<double>::Ones(3);
  CHECK(refusal_of(bad) == "combine: adapter 2 of 3: the bias of B must be 4 x 1, found 3 x 1");
  bad = drawn_factors<double>(4, 5, 0, 1, 1);
  CHECK(refusal_of(bad) ==
        "combine: adapter 2 of 3: A is 0 x 5 and B is 4 x 0, neither may be empty");
  for (const Combination type : all_combinations) {
    if (!needs_equal_ranks(type)) continue;
    CHECK(refusal_of(drawn_factors<double>(4, 5, 3, 1, 1), type) ==
          "combine: adapter 2 of 3 has rank 3, the first has 2; " + std::string(to_string(type)) +
              " works entry by entry and needs equal ranks, cat and the svd types do not");
  }
  CHECK(test::message_of<ArgumentError>([] { combine<double>(Terms<double>{}); }) ==
        "combine: there are no adapters");
}

TEST_CASE("adapters that are not finite are refused, and the one at fault is named") {
  const auto good = drawn_factors<float>(4, 5, 2, 1, 1);
  const auto refusal_of = [&](const Factors<float>& bad, double weight = 1) {
    return test::message_of<NonFiniteError>([&] {
      combine<float>(Terms<float>{{good, 1}, {good, 1}, {bad, weight}});
    });
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  auto bad = good;
  bad.a(1, 2) = nan;
  CHECK(refusal_of(bad) == "combine: adapter 3 of 3: A is not finite");
  bad = good;
  bad.b(1, 1) = std::numeric_limits<float>::infinity();
  CHECK(refusal_of(bad) == "combine: adapter 3 of 3: B is not finite");
  bad = good;
  bad.bias = Vector<float>::Constant(4, nan);
  CHECK(refusal_of(bad) == "combine: adapter 3 of 3: the bias of B is not finite");
  bad = good;
  bad.scaling = std::nan("");
  CHECK(refusal_of(bad) == "combine: adapter 3 of 3: weight * scaling is not finite");
  CHECK(refusal_of(good, std::nan("")) ==
        "combine: adapter 3 of 3: weight * scaling is not finite");
  CHECK(refusal_of(good, 1e39) == "combine: A of the result is not finite");
}

TEST_CASE("the names of the types are those of PEFT") {
  CHECK(to_string(Combination::cat) == "cat");
  CHECK(to_string(Combination::magnitude_prune_svd) == "magnitude_prune_svd");
}
