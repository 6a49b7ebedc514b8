#include <loraplus/kernels/transposed_product.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/exact.hpp"
#include "support/guarded.hpp"
#include "support/matrices.hpp"
#include "support/sanitized.hpp"
#include "support/threads.hpp"

namespace kernels = loraplus::kernels;
using kernels::DotFactor;
using kernels::PackedMatrix;
using loraplus::ConstVectorView;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::Vector;

namespace {

struct Shape {
  Index rows, cols, n;
};

/// y = s M' x, or b + s M' x, at random, and what it should be.
template <typename Scalar>
struct Problem {
  Matrix<Scalar> m, x;
  Vector<Scalar> b;
  Scalar s = Scalar(1.7);

  explicit Problem(const Shape& shape)
      : m(test::random_matrix<Scalar>(shape.rows, shape.cols, 1)),
        x(test::random_matrix<Scalar>(shape.rows, shape.n, 2)),
        b(test::random_vector<Scalar>(shape.cols, 3)) {}

  DotFactor<Scalar> columns() const { return DotFactor<Scalar>(m); }

  ConstVectorView<Scalar> bias(bool has_bias) const {
    return {b.data(), has_bias ? b.size() : Index{0}};
  }

  Matrix<Scalar> product(const DotFactor<Scalar>& factor, bool has_bias) const {
    Matrix<Scalar> y = Matrix<Scalar>::Constant(m.cols(), x.cols(), Scalar(7));
    kernels::multiply_transposed<Scalar>(factor, s, x, y, bias(has_bias));
    return y;
  }

  test::Exact<Scalar> exact(bool has_bias) const {
    test::Exact<Scalar> sum(m.cols(), x.cols());
    sum.add(m.transpose(), x, s);
    if (has_bias) sum.add(b);
    return sum;
  }
};

/// Both layouts have one result, and it is right.
template <typename Scalar>
void require_product(const Shape& shape) {
  const auto& [rows, cols, n] = shape;
  const Problem<Scalar> problem(shape);
  const PackedMatrix<Scalar> packed(problem.m);
  for (const bool has_bias : {false, true}) {
    CAPTURE(rows, cols, n, has_bias);
    const Matrix<Scalar> y = problem.product(problem.columns(), has_bias);
    CHECK(problem.exact(has_bias).error(y) <= 1);
    CHECK(test::same_values(problem.product(DotFactor<Scalar>(packed), has_bias), y));
  }
}

constexpr Index copy_cols = kernels::detail::dot_copy_cols;

}  // namespace

TEMPLATE_TEST_CASE("a transposed product of any shape is right, and the same from both layouts", "",
                   float, double) {
  const test::Threads one(1);
  std::mt19937_64 generator{1};
  const auto draw = [&](Index most) { return loraplus::uniform_index(generator, most) + 1; };
  for (int i = 0; i < test::repetitions(120); ++i) {
    const Index largest = i % 3 == 0 ? 200 : 40;
    require_product<TestType>({draw(largest), draw(largest), draw(largest)});
  }
}

TEST_CASE("a transposed product with packets of one scalar is right too") {
  require_product<long double>({13, 9, 11});
  require_product<long double>({150, copy_cols + 1, 5});
}

TEMPLATE_TEST_CASE("a transposed product is right on both sides of every boundary between blocks",
                   "", float, double) {
  const test::Threads one(1);
  const Index rows = kernels::detail::dot_packets * kernels::packet_size<TestType>;
  const Index samples = kernels::detail::dot_samples;
  for (const Index cols : {Index{3}, copy_cols - 1, copy_cols, copy_cols + 5}) {
    for (const Index n : {Index{1}, samples - 1, samples, samples + 1, 2 * samples + 7}) {
      require_product<TestType>({21, cols, n});
    }
    for (const Index height : {rows - 1, rows, rows + 1, 2 * rows + 9}) {
      require_product<TestType>({height, cols, 5});
    }
  }
  require_product<TestType>({rows + 3, copy_cols, samples + 1});
}

TEMPLATE_TEST_CASE("a sample of a batch is the transposed product of that sample alone", "", float,
                   double) {
  using Scalar = TestType;
  for (const auto& shape : {Shape{50, 7, 5}, Shape{50, copy_cols, 101}, Shape{2500, 6, 9},
                            Shape{2501, copy_cols + 1, 8}, Shape{5, 1, 40}}) {
    CAPTURE(shape.rows, shape.cols, shape.n);
    const Problem<Scalar> problem(shape);
    for (const bool has_bias : {false, true}) {
      const Matrix<Scalar> batch = problem.product(problem.columns(), has_bias);
      Matrix<Scalar> alone(shape.cols, shape.n);
      for (Index j = 0; j < shape.n; ++j) {
        kernels::multiply_transposed<Scalar>(problem.columns(), problem.s, problem.x.col(j),
                                             alone.col(j), problem.bias(has_bias));
      }
      CHECK(test::same_values(alone, batch));
      // and a coefficient does not depend on the other columns of M: copied or not, whatever tile
      for (const Index i : {Index{0}, shape.cols / 2, shape.cols - 1}) {
        Matrix<Scalar> row(1, shape.n);
        kernels::multiply_transposed<Scalar>(
            DotFactor<Scalar>(problem.m.col(i)), problem.s, problem.x, row,
            ConstVectorView<Scalar>(&problem.b(i), has_bias ? 1 : 0));
        CHECK(test::same_values(row, batch.row(i)));
      }
    }
  }
}

TEMPLATE_TEST_CASE("a transposed product reads and writes blocks, and nothing around them", "",
                   float, double) {
  using Scalar = TestType;
  for (const auto& shape :
       {Shape{1, 1, 1}, Shape{37, 5, 9}, Shape{33, copy_cols + 1, 10}, Shape{16, copy_cols, 1}}) {
    for (const bool has_bias : {false, true}) {
      CAPTURE(shape.rows, shape.cols, shape.n, has_bias);
      const Problem<Scalar> problem(shape);
      const Matrix<Scalar> expected = problem.product(problem.columns(), has_bias);
      const test::Guarded<Scalar> m(problem.m), x(problem.x);
      test::Guarded<Scalar> y(Matrix<Scalar>::Zero(shape.cols, shape.n), Scalar(7));
      kernels::multiply_transposed<Scalar>(DotFactor<Scalar>(m.view()), problem.s, x.view(),
                                           y.view(), problem.bias(has_bias));
      CHECK(test::same_values(y.view(), expected));
      CHECK(y.is_intact());
    }
  }
}

TEMPLATE_TEST_CASE("a transposed product reads nothing behind its factors", "", float, double) {
  using Scalar = TestType;
  const Index size = kernels::packet_size<Scalar>;
  for (const Index rows : {size - 1, size + 1, 4 * size - 1, 4 * size}) {
    for (const Index cols : {Index{5}, copy_cols + 1}) {
      const Problem<Scalar> problem({rows, cols, 11});
      test::Tight<Scalar> m(problem.m), x(problem.x), y(Matrix<Scalar>::Zero(cols, 11)),
          b(problem.b);
      kernels::multiply_transposed<Scalar>(DotFactor<Scalar>(m.view()), problem.s, x.view(),
                                           y.view(),
                                           ConstVectorView<Scalar>(b.view().data(), cols));
      CHECK(test::same_values(y.view(), problem.product(problem.columns(), true)));
    }
  }
}

TEMPLATE_TEST_CASE("a transposed product over no rows is zero, or the bias", "", float, double) {
  using Scalar = TestType;
  for (const Index cols : {Index{5}, copy_cols + 1}) {
    const Problem<Scalar> problem({0, cols, 9});
    const PackedMatrix<Scalar> packed(problem.m);
    for (const auto& factor : {problem.columns(), DotFactor<Scalar>(packed)}) {
      CHECK((problem.product(factor, false).array() == 0).all());
      CHECK(problem.product(factor, true) == problem.b.replicate(1, 9));
    }
    require_product<Scalar>({9, cols, 0});
  }
  require_product<Scalar>({9, 0, 7});
  require_product<Scalar>({0, 0, 0});
}

TEMPLATE_TEST_CASE("NaN and infinity reach the sums they are in, and no other", "", float, double) {
  using Scalar = TestType;
  for (const Scalar bad :
       {std::numeric_limits<Scalar>::quiet_NaN(), std::numeric_limits<Scalar>::infinity()}) {
    for (const Index cols : {Index{19}, copy_cols + 19}) {
      for (const Index at : {0, 15, 16, 18}) {
        for (int where = 0; where < 3; ++where) {
          CAPTURE(bad, cols, at, where);
          Problem<Scalar> problem({19, cols, 19});
          Matrix<Scalar>* const matrices[] = {&problem.m, &problem.x};
          if (where < 2) {
            (*matrices[where])(at, at) = bad;
          } else {
            problem.b(at) = bad;
          }
          const PackedMatrix<Scalar> packed(problem.m);
          for (const bool has_bias : {false, true}) {
            const auto exact = problem.exact(has_bias);
            CHECK(exact.value().allFinite() == (where == 2 && !has_bias));
            CHECK(exact.same_specials(problem.product(problem.columns(), has_bias)));
            CHECK(exact.same_specials(problem.product(DotFactor<Scalar>(packed), has_bias)));
          }
        }
      }
    }
  }
}

TEST_CASE("a transposed product refuses other shapes and names the matrix") {
  const Problem<float> problem({7, 4, 5});
  const auto message = [&](const Matrix<float>& x, Matrix<float> y, Index bias) {
    return test::message_of<loraplus::ShapeError>([&] {
      kernels::multiply_transposed<float>(problem.columns(), 1, x, y, {problem.b.data(), bias});
    });
  };
  const std::string where = "kernels::multiply_transposed: ";
  CHECK(message(Matrix<float>(6, 5), Matrix<float>(4, 5), 4) ==
        where + "x must be 7 x 5, found 6 x 5");
  CHECK(message(problem.x, Matrix<float>(4, 6), 4) == where + "y must be 4 x 5, found 4 x 6");
  CHECK(message(problem.x, Matrix<float>(4, 5), 3) == where + "b must be 4 x 1, found 3 x 1");
}
