#include <loraplus/adapter/low_rank.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Initialization;
using loraplus::LoraOptions;
using loraplus::LowRank;
using loraplus::Matrix;
using loraplus::RowMajorMatrix;

namespace {

LowRank<double> made(const LoraOptions& options, Index out = 400, Index in = 500) {
  std::mt19937_64 generator{1};
  return LowRank<double>(out, in, options, generator);
}

/// Mean 0 and this standard deviation, to five standard errors.
template <typename Derived>
void require_moments(const Eigen::MatrixBase<Derived>& matrix, double deviation) {
  const auto count = static_cast<double>(matrix.size());
  CHECK(std::abs(matrix.mean()) < 5 * deviation / std::sqrt(count));
  CHECK(std::abs(std::sqrt(matrix.squaredNorm() / count) / deviation - 1) < 5 / std::sqrt(count));
}

}  // namespace

TEST_CASE("T1: a_uniform is PEFT's default: A ~ U(-1/sqrt(in), 1/sqrt(in)), B = 0") {
  const auto factors = made({.rank = 4});
  const double bound = 1 / std::sqrt(500.0);
  CHECK(factors.b().isZero(0));
  CHECK(factors.a().cwiseAbs().maxCoeff() <= bound);
  CHECK(factors.a().cwiseAbs().maxCoeff() > 0.99 * bound);
  require_moments(factors.a(), bound / std::sqrt(3.0));
}

TEST_CASE("T1: a_gaussian is PEFT's: A ~ N(0, 1/r^2), B = 0") {
  const auto factors = made({.rank = 4, .initialization = Initialization::a_gaussian});
  CHECK(factors.b().isZero(0));
  require_moments(factors.a(), 1.0 / 4);
}

TEST_CASE("b_uniform is the LoRA+ paper's: A = 0, B ~ U(-1/sqrt(r), 1/sqrt(r))") {
  const auto factors = made({.rank = 4, .initialization = Initialization::b_uniform});
  CHECK(factors.a().isZero(0));
  CHECK(factors.b().cwiseAbs().maxCoeff() <= 0.5);
  CHECK(factors.b().cwiseAbs().maxCoeff() > 0.49);
  require_moments(factors.b(), 0.5 / std::sqrt(3.0));
}

TEST_CASE("init_scale multiplies the random factor") {
  for (const auto initialization :
       {Initialization::a_uniform, Initialization::a_gaussian, Initialization::b_uniform}) {
    const auto plain = made({.rank = 3, .initialization = initialization}, 6, 5);
    const auto scaled = made({.rank = 3, .initialization = initialization, .init_scale = 4}, 6, 5);
    CHECK(test::relative_distance(scaled.a(), 4 * plain.a()) < 1e-15);
    CHECK(test::relative_distance(scaled.b(), 4 * plain.b()) < 1e-15);
  }
}

TEST_CASE("float and double factors start from the same numbers") {
  std::mt19937_64 first{5}, second{5};
  const LowRank<double> wide(6, 5, {.rank = 3}, first);
  const LowRank<float> narrow(6, 5, {.rank = 3}, second);
  CHECK(narrow.a() == wide.a().cast<float>());
}

TEST_CASE("a golden initialisation: the first numbers of A, row by row") {
  // U(-1/2, 1/2) for in = 4, from the uniform numbers of seed 42
  std::mt19937_64 generator{42};
  const LowRank<double> factors(3, 4, {.rank = 2}, generator);
  CHECK(factors.a()(0, 0) == 0x1.82a3befaddcbcp-1 - 0.5);
  CHECK(factors.a()(0, 1) == 0x1.472f1f73724a0p-1 - 0.5);
  CHECK(factors.a()(0, 2) == 0x1.81192cfe1cbcfp-1 - 0.5);
  CHECK(factors.a()(0, 3) == 0x1.171621fc50d68p-3 - 0.5);
}

TEST_CASE("setting factors checks both shapes before it changes anything") {
  auto factors = made({.rank = 3}, 6, 5);
  const RowMajorMatrix<double> a = test::random<RowMajorMatrix<double>>(3, 5, 1);
  const auto b = test::random_matrix<double>(6, 3, 2);
  factors.set_factors(a, b);
  CHECK(factors.a() == a);
  CHECK(factors.b() == b);
  const std::string message = test::message_of<loraplus::ShapeError>(
      [&] { factors.set_factors(2 * a, Matrix<double>(6, 2)); });
  CHECK(message == "set_factors: B must be 6 x 3, found 6 x 2");
  CHECK(factors.a() == a);
  CHECK_THROWS_AS(factors.set_factors(a.transpose(), b), loraplus::ShapeError);
  CHECK(factors.b() == b);
}

TEST_CASE("a scaling that is not finite in the scalar is refused") {
  std::mt19937_64 generator{1};
  const auto scaled = [](double scaling) {
    return LowRank<float>(loraplus::Factors<float>{loraplus::RowMajorMatrix<float>::Ones(1, 2),
                                                   Matrix<float>::Ones(3, 1), scaling});
  };
  CHECK_THROWS_AS(scaled(std::numeric_limits<double>::quiet_NaN()), loraplus::ArgumentError);
  CHECK_THROWS_AS(scaled(1e300), loraplus::ArgumentError);
  CHECK_THROWS_AS((LowRank<float>(3, 2, {.rank = 1, .alpha = 1e300}, generator)),
                  loraplus::ArgumentError);
  CHECK_NOTHROW((LowRank<double>(3, 2, {.rank = 1, .alpha = 1e300}, generator)));
}

TEST_CASE("the product added to a matrix is s B A") {
  auto factors = made({.rank = 3, .alpha = 7}, 6, 5);
  const auto a = test::random_matrix<double>(3, 5, 1);
  const auto b = test::random_matrix<double>(6, 3, 2);
  factors.set_factors(a, b);
  auto w = test::random_matrix<double>(6, 5, 3);
  const Matrix<double> expected = w + 7.0 / 3 * b * a;
  factors.add_to(w);
  CHECK(test::relative_distance(w, expected) < 1e-15);
}

TEST_CASE("each product has s and the scale once, and a block its own ranks and outputs") {
  LowRank<double> factors = made({.rank = 2,
                                  .alpha = 3,
                                  .initialization = Initialization::both_uniform,
                                  .enabled_groups = {true, false, true}},
                                 6, 5);
  const double scale = 0.5, s = scale * 1.5;
  const Matrix<double> a = factors.a();           // 4 x 5
  Matrix<double> b = Matrix<double>::Zero(6, 4);  // the blocks where they belong
  b.topLeftCorner(2, 2) = factors.b(0);
  b.bottomRightCorner(2, 2) = factors.b(1);
  const auto x = test::random_matrix<double>(5, 7, 1), dy = test::random_matrix<double>(6, 7, 2);
  Matrix<double> h(4, 7), z(4, 7), y = dy, w = Matrix<double>::Zero(6, 5);

  factors.project(x, h, scale);
  CHECK(test::relative_distance(h, s * a * x) < 1e-14);
  factors.expand(h, y);
  CHECK(test::relative_distance(y, dy + b * h) < 1e-14);
  factors.add_to(w, scale);
  CHECK(test::relative_distance(w, s * b * a) < 1e-14);

  factors.backward(x, dy, h, z, scale);
  CHECK(test::relative_distance(z, s * b.transpose() * dy) < 1e-14);
  CHECK(test::relative_distance(factors.a_gradient(), z * x.transpose()) < 1e-14);
  const Matrix<double> b_gradient = dy * h.transpose();
  CHECK(test::relative_distance(factors.b_gradient(0), b_gradient.topLeftCorner(2, 2)) < 1e-14);
  CHECK(test::relative_distance(factors.b_gradient(1), b_gradient.bottomRightCorner(2, 2)) < 1e-14);

  Matrix<double> of_tokens(4, 2);
  factors.project(std::vector<Index>{3, 0}, of_tokens, scale);
  CHECK(test::relative_distance(of_tokens.col(0), s * a.col(3)) < 1e-14);
  CHECK(test::relative_distance(of_tokens.col(1), s * a.col(0)) < 1e-14);
}

TEST_CASE("the bias of B has s and the scale once, as its gradient") {
  LowRank<double> factors = made(
      {.rank = 2, .alpha = 3, .initialization = Initialization::both_uniform, .lora_bias = true}, 6,
      5);
  const double scale = 0.5, s = scale * 1.5;
  const auto x = test::random_matrix<double>(5, 7, 1), dy = test::random_matrix<double>(6, 7, 2);
  Matrix<double> h(2, 7), z(2, 7), y = dy;
  factors.add_bias(y, scale);
  CHECK(test::relative_distance(y, dy.colwise() + s * factors.bias()) < 1e-14);
  factors.project(x, h, scale);
  factors.backward(x, dy, h, z, scale);
  int biases = 0;
  factors.visit_parameters([&](const loraplus::Parameter<double>& parameter) {
    if (parameter.role != loraplus::Role::bias) return;
    ++biases;
    CHECK(test::relative_distance(parameter.gradient.matrix(), s * dy.rowwise().sum()) < 1e-14);
  });
  CHECK(biases == 1);
}

TEST_CASE("the parameters are lora_A and lora_B, of two dimensions whatever the rank") {
  auto factors = made({.rank = 1}, 6, 5);
  std::vector<std::string> names;
  factors.visit_parameters([&](const loraplus::Parameter<double>& parameter) {
    names.push_back(parameter.name.str() + " " + std::string(to_string(parameter.role)));
    CHECK_FALSE(parameter.is_vector);
  });
  CHECK(names == std::vector<std::string>{"lora_A lora_a", "lora_B lora_b"});
}
