#include <loraplus/kernels/product.hpp>
#include <span>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/exact.hpp"
#include "support/guarded.hpp"
#include "support/matrices.hpp"
#include "support/sanitized.hpp"
#include "support/threads.hpp"

namespace kernels = loraplus::kernels;
using kernels::ColumnMajorFactor;
using kernels::PackedFactor;
using kernels::PackedMatrix;
using loraplus::ConstVectorView;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::Vector;

namespace {

struct Shape {
  Index out, in, n, rank = 0;
};

/// y = b + M x + F h at random, and what it should be.
template <typename Scalar>
struct Problem {
  Matrix<Scalar> m, x, f, h;
  Vector<Scalar> b;

  explicit Problem(const Shape& shape)
      : m(test::random_matrix<Scalar>(shape.out, shape.in, 1)),
        x(test::random_matrix<Scalar>(shape.in, shape.n, 2)),
        f(test::random_matrix<Scalar>(shape.out, shape.rank, 3)),
        h(test::random_matrix<Scalar>(shape.rank, shape.n, 4)),
        b(test::random_vector<Scalar>(shape.out, 5)) {}

  kernels::LowRankTerm<Scalar> term(const Matrix<Scalar>& right) const { return {f, right}; }

  ConstVectorView<Scalar> bias() const { return {b.data(), b.size()}; }

  ColumnMajorFactor<Scalar> columns(bool is_copied) const { return {m, is_copied}; }

  template <typename Factor>
  Matrix<Scalar> product(const Factor& factor) const {
    Matrix<Scalar> y = Matrix<Scalar>::Constant(m.rows(), x.cols(), Scalar(7));
    kernels::multiply<Scalar>(factor, x, y, bias(), term(h));
    return y;
  }

  test::Exact<Scalar> exact() const {
    return test::Exact<Scalar>(m.rows(), x.cols()).add(m, x).add(f, h).add(b);
  }
};

/// Packed and column-major, copied or not, have one result, and it is right.
template <typename Scalar>
void require_product(const Shape& shape) {
  const auto& [out, in, n, rank] = shape;
  CAPTURE(out, in, n, rank);
  const Problem<Scalar> problem(shape);
  const PackedMatrix<Scalar> packed(problem.m);
  const Matrix<Scalar> y = problem.product(PackedFactor(packed));
  CHECK(problem.exact().error(y) <= 1);
  CHECK(test::same_values(problem.product(problem.columns(true)), y));
  CHECK(test::same_values(problem.product(problem.columns(false)), y));
}

}  // namespace

TEMPLATE_TEST_CASE("a product of any shape is right, and the same from every layout, bit for bit",
                   "", float, double) {
  const test::Threads one(1);
  std::mt19937_64 generator{1};
  const auto draw = [&](Index most) { return loraplus::uniform_index(generator, most) + 1; };
  for (int i = 0; i < test::repetitions(150); ++i) {
    const Index largest = i % 3 == 0 ? 200 : 40;
    require_product<TestType>({draw(largest), draw(largest), draw(largest), draw(33) - 1});
  }
}

TEST_CASE("a product with packets of one scalar is right too") {
  require_product<long double>({13, 9, 11, 3});
  require_product<long double>({1, 300, 5, 0});
  require_product<long double>({40, 1, 1, 32});
  require_product<Eigen::half>({13, 9, 11, 3});
  require_product<Eigen::bfloat16>({40, 9, 11, 3});
}

TEMPLATE_TEST_CASE("a product is right on both sides of every boundary between blocks", "", float,
                   double) {
  const test::Threads one(1);
  using Blocks = kernels::detail::Blocks<TestType>;
  const Index size = kernels::packet_size<TestType>, width = kernels::outer_cols;
  for (const Index n :
       {width - 1, width, width + 1, Index{127}, Index{128}, Index{129}, Index{257}, Index{300}}) {
    require_product<TestType>({3 * size + 1, 20, n, 5});
  }
  for (const Index n : {Index{1}, width + 1, Index{33}}) {  // several passes over the columns of M
    Index most = Blocks(1, Index{1} << 20, n, Index{1} << 20).cols;  // or less, in equal parts
    while (Blocks(1, most + 1, n, most + 1).cols == most + 1) {
      ++most;
    }
    for (const Index in : {most - 1, most + 1, 2 * most + 1}) {
      CHECK((Blocks(1, in, n, in).cols < in) == (in > most));
      require_product<TestType>({size + 1, in, n, 5});
    }
  }
  for (const Index in : {15, 16, 17, 255, 256, 257, 513}) {  // panels of a column-major M
    require_product<TestType>({2 * size + 1, in, 3, 2});
  }
}

TEMPLATE_TEST_CASE("groups of rows, each with several passes over the samples, change nothing", "",
                   float, double) {
  const test::Threads one(1);
  using Scalar = TestType;
  const std::vector<Shape> shapes{{1100, 2000, 132, 3}, {4400, 256, 132}};
  for (const auto& shape : std::span(shapes).first(test::sanitized ? 1 : 2)) {
    const kernels::detail::Blocks<Scalar> blocks(shape.out, shape.in, shape.n, shape.in);
    CHECK(blocks.packets * kernels::packet_size<Scalar> < shape.out);
    CHECK(blocks.samples < shape.n);
    const Problem<Scalar> problem(shape);
    const PackedMatrix<Scalar> packed(problem.m);
    const Matrix<Scalar> y = problem.product(PackedFactor(packed));
    CHECK(test::same_values(problem.product(problem.columns(true)), y));
    for (const Index j : {blocks.samples - 1, blocks.samples, shape.n - 1}) {
      test::Exact<Scalar> exact(shape.out, 1);
      exact.add(problem.m, problem.x.col(j)).add(problem.f, problem.h.col(j)).add(problem.b);
      CHECK(exact.error(y.col(j)) <= 1);
    }
  }
}

TEMPLATE_TEST_CASE("a sample of a batch is the product of that sample alone, bit for bit", "",
                   float, double) {
  using Scalar = TestType;
  for (const auto& shape : {Shape{37, 50, 2, 3}, Shape{37, 50, 7, 3}, Shape{100, 1500, 9, 8},
                            Shape{64, 33, 130, 32}, Shape{1, 20, 40, 1}, Shape{5, 2100, 70}}) {
    CAPTURE(shape.out, shape.in, shape.n, shape.rank);
    const Problem<Scalar> problem(shape);
    const PackedMatrix<Scalar> packed(problem.m);
    const Matrix<Scalar> batch = problem.product(PackedFactor(packed));
    Matrix<Scalar> alone(shape.out, shape.n);
    for (Index j = 0; j < shape.n; ++j) {
      const Matrix<Scalar> h = problem.h.col(j);
      kernels::multiply<Scalar>(PackedFactor(packed), problem.x.col(j), alone.col(j),
                                problem.bias(), problem.term(h));
    }
    CHECK(test::same_values(alone, batch));
  }
}

TEMPLATE_TEST_CASE("a product reads and writes blocks of larger matrices, and nothing around them",
                   "", float, double) {
  using Scalar = TestType;
  for (const auto& shape : {Shape{1, 1, 1, 1}, Shape{17, 20, 9, 5}, Shape{50, 33, 2}}) {
    CAPTURE(shape.out, shape.in, shape.n);
    const Problem<Scalar> problem(shape);
    const PackedMatrix<Scalar> packed(problem.m);
    const Matrix<Scalar> expected = problem.product(PackedFactor(packed));

    const test::Guarded<Scalar> m(problem.m), x(problem.x), f(problem.f), h(problem.h);
    const Matrix<Scalar> zero = Matrix<Scalar>::Zero(shape.out, shape.n);
    test::Guarded<Scalar> y(zero, Scalar(7)), y_columns(zero, Scalar(7));
    const kernels::LowRankTerm<Scalar> term{f.view(), h.view()};
    kernels::multiply<Scalar>(PackedFactor(packed), x.view(), y.view(), problem.bias(), term);
    CHECK(test::same_values(y.view(), expected));
    CHECK(y.is_intact());
    for (const bool is_copied : {false, true}) {
      const ColumnMajorFactor<Scalar> columns(m.view(), is_copied);
      kernels::multiply<Scalar>(columns, x.view(), y_columns.view(), problem.bias(), term);
      CHECK(test::same_values(y_columns.view(), expected));
      CHECK(y_columns.is_intact());
    }
  }
}

TEMPLATE_TEST_CASE("a product reads nothing behind its factors", "", float, double) {
  using Scalar = TestType;
  const Index size = kernels::packet_size<Scalar>;
  for (const Index out : {size - 1, size + 1, 4 * size - 1, 4 * size}) {
    const Problem<Scalar> problem({out, 21, 11, 3});
    test::Tight<Scalar> m(problem.m), x(problem.x), f(problem.f), h(problem.h), b(problem.b),
        y(Matrix<Scalar>::Zero(out, 11));
    for (const bool is_copied : {false, true}) {
      const ColumnMajorFactor<Scalar> columns(m.view(), is_copied);
      kernels::multiply<Scalar>(columns, x.view(), y.view(),
                                ConstVectorView<Scalar>(b.view().data(), out),
                                {f.view(), h.view()});
      CHECK(test::same_values(y.view(), problem.product(columns)));
    }
  }
}

TEMPLATE_TEST_CASE("a product without inputs is the bias, one without outputs or samples nothing",
                   "", float, double) {
  using Scalar = TestType;
  const Problem<Scalar> no_inputs({20, 0, 9});
  const PackedMatrix<Scalar> packed(no_inputs.m);
  const Matrix<Scalar> expected = no_inputs.b.replicate(1, 9);
  CHECK(no_inputs.product(PackedFactor(packed)) == expected);
  CHECK(no_inputs.product(no_inputs.columns(true)) == expected);
  CHECK(no_inputs.product(no_inputs.columns(false)) == expected);
  require_product<Scalar>({20, 0, 9, 4});  // the low-rank term alone
  require_product<Scalar>({0, 20, 9});
  require_product<Scalar>({0, 20, 9, 4});
  require_product<Scalar>({20, 7, 0, 4});
  require_product<Scalar>({0, 0, 0});

  Matrix<Scalar> y = Matrix<Scalar>::Constant(20, 9, Scalar(7));
  kernels::multiply<Scalar>(PackedFactor(packed), no_inputs.x, y);
  CHECK((y.array() == 0).all());  // no bias either
}

TEMPLATE_TEST_CASE("NaN and infinity reach the outputs they belong to, and no other", "", float,
                   double) {
  using Scalar = TestType;
  for (const Scalar bad :
       {std::numeric_limits<Scalar>::quiet_NaN(), std::numeric_limits<Scalar>::infinity()}) {
    for (const Index at : {0, 15, 16, 18}) {  // 18: the last row, column and sample
      for (int where = 0; where < 5; ++where) {
        CAPTURE(bad, at, where);
        Problem<Scalar> problem({19, 19, 19, 19});
        Matrix<Scalar>* const matrices[] = {&problem.m, &problem.x, &problem.f, &problem.h};
        if (where < 4) {
          (*matrices[where])(at, at) = bad;
        } else {
          problem.b(at) = bad;
        }
        const PackedMatrix<Scalar> packed(problem.m);
        const auto exact = problem.exact();
        CHECK_FALSE(exact.value().allFinite());
        CHECK(exact.same_specials(problem.product(PackedFactor(packed))));
        CHECK(exact.same_specials(problem.product(problem.columns(true))));
        CHECK(exact.same_specials(problem.product(problem.columns(false))));
      }
    }
  }
}

TEST_CASE("a product refuses other shapes and names the matrix") {
  const Problem<float> problem({7, 4, 5, 3});
  const PackedMatrix<float> packed(problem.m);
  const PackedFactor factor(packed);
  Matrix<float> y(7, 5);
  const auto message = [&](const Matrix<float>& x, Matrix<float>& to, const Vector<float>& b,
                           const Matrix<float>& f, const Matrix<float>& h) {
    return test::message_of<loraplus::ArgumentError>([&] {
      kernels::multiply<float>(factor, x, to, ConstVectorView<float>(b.data(), b.size()), {f, h});
    });
  };
  const auto& [m, x, f, h, b] = problem;
  Matrix<float> low(6, 5);
  CHECK(message(low, y, b, f, h) == "kernels::multiply: x must be 4 x 5, found 6 x 5");
  CHECK(message(x, low, b, f, h) == "kernels::multiply: y must be 7 x 5, found 6 x 5");
  CHECK(message(x, y, b.head(6), f, h) == "kernels::multiply: b must be 7 x 1, found 6 x 1");
  CHECK(message(x, y, b, f.topRows(6), h) == "kernels::multiply: f must be 7 x 3, found 6 x 3");
  CHECK(message(x, y, b, f, h.leftCols(4)) == "kernels::multiply: h must be 3 x 5, found 3 x 4");
  CHECK(message(x, y, b, Matrix<float>(7, 33), Matrix<float>(33, 5)) ==
        "kernels::multiply: the rank of a term must be at most fused_rank, found 33");
}
