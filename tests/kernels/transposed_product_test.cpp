#include <loraplus/kernels/transposed_product.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/guarded.hpp"
#include "support/matrices.hpp"
#include "support/threads.hpp"

namespace kernels = loraplus::kernels;
using kernels::DotFactor;
using kernels::PackedMatrix;
using loraplus::Index;
using loraplus::Matrix;

namespace {

struct Shape {
  Index rows, cols, n;
};

/// y = s M' x, or y += s M' x, at random, and what it should be.
template <typename Scalar>
struct Problem {
  Matrix<Scalar> m, x, before;
  Scalar s = Scalar(1.7);

  explicit Problem(const Shape& shape)
      : m(test::random_matrix<Scalar>(shape.rows, shape.cols, 1)),
        x(test::random_matrix<Scalar>(shape.rows, shape.n, 2)),
        before(test::random_matrix<Scalar>(shape.cols, shape.n, 3)) {}

  DotFactor<Scalar> columns() const { return {{m.data(), m.outerStride()}, m.rows(), m.cols()}; }

  Matrix<Scalar> product(const DotFactor<Scalar>& factor, bool keep) const {
    Matrix<Scalar> y = before;
    kernels::multiply_transposed<Scalar>(factor, s, x, y, keep);
    return y;
  }

  test::Exact<Scalar> exact(bool keep) const {
    test::Exact<Scalar> sum(m.cols(), x.cols());
    sum.add(m.transpose(), x, s);
    if (keep) sum.add(before);
    return sum;
  }
};

/// Both layouts have one result, and it is right.
template <typename Scalar>
void require_product(const Shape& shape) {
  const auto& [rows, cols, n] = shape;
  const Problem<Scalar> problem(shape);
  const PackedMatrix<Scalar> packed(problem.m);
  for (const bool keep : {false, true}) {
    CAPTURE(rows, cols, n, keep);
    const Matrix<Scalar> y = problem.product(problem.columns(), keep);
    CHECK(problem.exact(keep).error(y) <= 1);
    CHECK(test::same_values(problem.product(DotFactor<Scalar>(packed), keep), y));
  }
}

constexpr Index copy_cols = kernels::detail::dot_copy_cols;

}  // namespace

TEMPLATE_TEST_CASE("a transposed product of any shape is right, and the same from both layouts", "",
                   float, double) {
  const test::Threads one(1);
  std::mt19937_64 generator{1};
  const auto draw = [&](Index most) { return loraplus::uniform_index(generator, most) + 1; };
  for (int i = 0; i < 120; ++i) {
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
    for (const bool keep : {false, true}) {
      const Matrix<Scalar> batch = problem.product(problem.columns(), keep);
      Matrix<Scalar> alone = problem.before;
      for (Index j = 0; j < shape.n; ++j) {
        kernels::multiply_transposed<Scalar>(problem.columns(), problem.s, problem.x.col(j),
                                             alone.col(j), keep);
      }
      CHECK(test::same_values(alone, batch));
      // and a coefficient does not depend on the other columns of M: copied or not, whatever tile
      for (const Index i : {Index{0}, shape.cols / 2, shape.cols - 1}) {
        Matrix<Scalar> row = problem.before.row(i);
        kernels::multiply_transposed<Scalar>({{problem.m.col(i).data(), shape.rows}, shape.rows, 1},
                                             problem.s, problem.x, row, keep);
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
    for (const bool keep : {false, true}) {
      CAPTURE(shape.rows, shape.cols, shape.n, keep);
      const Problem<Scalar> problem(shape);
      const Matrix<Scalar> expected = problem.product(problem.columns(), keep);
      const test::Guarded<Scalar> m(problem.m), x(problem.x);
      test::Guarded<Scalar> y(problem.before, Scalar(7));
      kernels::multiply_transposed<Scalar>(
          {{m.view().data(), m.view().outerStride()}, shape.rows, shape.cols}, problem.s, x.view(),
          y.view(), keep);
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
      test::Tight<Scalar> m(problem.m), x(problem.x), y(problem.before);
      kernels::multiply_transposed<Scalar>({{m.view().data(), rows}, rows, cols}, problem.s,
                                           x.view(), y.view());
      CHECK(test::same_values(y.view(), problem.product(problem.columns(), false)));
    }
  }
}

TEMPLATE_TEST_CASE("a transposed product over no rows is zero, or what was there", "", float,
                   double) {
  using Scalar = TestType;
  for (const Index cols : {Index{5}, copy_cols + 1}) {
    const Problem<Scalar> problem({0, cols, 9});
    const PackedMatrix<Scalar> packed(problem.m);
    for (const auto& factor : {problem.columns(), DotFactor<Scalar>(packed)}) {
      CHECK((problem.product(factor, false).array() == 0).all());
      CHECK(problem.product(factor, true) == problem.before);
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
          Matrix<Scalar>* const matrices[] = {&problem.m, &problem.x, &problem.before};
          (*matrices[where])(at, at) = bad;
          const PackedMatrix<Scalar> packed(problem.m);
          for (const bool keep : {false, true}) {
            const auto exact = problem.exact(keep);
            CHECK(exact.value().allFinite() == (where == 2 && !keep));
            CHECK(exact.same_specials(problem.product(problem.columns(), keep)));
            CHECK(exact.same_specials(problem.product(DotFactor<Scalar>(packed), keep)));
          }
        }
      }
    }
  }
}
