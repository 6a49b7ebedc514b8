#include <loraplus/kernels/gradient_product.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/guarded.hpp"
#include "support/matrices.hpp"
#include "support/threads.hpp"

namespace kernels = loraplus::kernels;
using loraplus::Index;
using loraplus::Matrix;

namespace {

struct Shape {
  Index rows, cols, n;
};

/// G += X H' at random, and what it should be.
template <typename Scalar>
struct Problem {
  Matrix<Scalar> x, h, before;

  explicit Problem(const Shape& shape)
      : x(test::random_matrix<Scalar>(shape.rows, shape.n, 1)),
        h(test::random_matrix<Scalar>(shape.cols, shape.n, 2)),
        before(test::random_matrix<Scalar>(shape.rows, shape.cols, 3)) {}

  Matrix<Scalar> product() const {
    Matrix<Scalar> g = before;
    kernels::accumulate<Scalar>(x, h, g);
    return g;
  }

  test::Exact<Scalar> exact() const {
    return test::Exact<Scalar>(x.rows(), h.rows()).add(x, h.transpose()).add(before);
  }
};

template <typename Scalar>
void require_product(const Shape& shape) {
  CAPTURE(shape.rows, shape.cols, shape.n);
  const Problem<Scalar> problem(shape);
  CHECK(problem.exact().error(problem.product()) <= 1);
}

constexpr Index copy_cols = kernels::detail::gradient_copy_cols;

}  // namespace

TEMPLATE_TEST_CASE("a gradient of any shape is added to what was there", "", float, double) {
  const test::Threads one(1);
  std::mt19937_64 generator{1};
  const auto draw = [&](Index most) { return loraplus::uniform_index(generator, most) + 1; };
  for (int i = 0; i < 150; ++i) {
    const Index largest = i % 3 == 0 ? 200 : 40;
    require_product<TestType>({draw(largest), draw(largest), draw(largest)});
  }
}

TEMPLATE_TEST_CASE("a gradient is right on both sides of every boundary between blocks", "", float,
                   double, long double) {
  const test::Threads one(1);
  const Index size = kernels::packet_size<TestType>;
  for (const Index cols : {Index{1}, copy_cols - 1, copy_cols, copy_cols + 1}) {
    for (const Index rows : {size, 3 * size, 3 * size + 1, 7 * size - 1}) {
      for (const Index n : {1, 255, 256, 257, 515}) {
        require_product<TestType>({rows, cols, n});
      }
    }
  }
}

TEMPLATE_TEST_CASE("a coefficient of a gradient depends on its own row and column alone", "", float,
                   double) {
  using Scalar = TestType;
  for (const auto& shape :
       {Shape{37, 3, 20}, Shape{50, copy_cols + 3, 300}, Shape{100, copy_cols - 1, 257}}) {
    CAPTURE(shape.rows, shape.cols, shape.n);
    const Problem<Scalar> problem(shape);
    const Matrix<Scalar> together = problem.product();
    Matrix<Scalar> columns = problem.before, rows = problem.before;
    for (Index j = 0; j < shape.cols; ++j) {
      kernels::accumulate<Scalar>(problem.x, problem.h.middleRows(j, 1), columns.col(j));
    }
    CHECK(test::same_values(columns, together));
    for (Index i = 0; i < shape.rows; ++i) {
      kernels::accumulate<Scalar>(problem.x.middleRows(i, 1), problem.h, rows.middleRows(i, 1));
    }
    CHECK(test::same_values(rows, together));
  }
}

TEMPLATE_TEST_CASE("a gradient over two batches is that over both at once, bit for bit", "", float,
                   double) {
  using Scalar = TestType;
  for (const Index first : {1, 7, 256, 299}) {
    const Problem<Scalar> problem({40, copy_cols, 300});
    Matrix<Scalar> g = problem.before;
    kernels::accumulate<Scalar>(problem.x.leftCols(first), problem.h.leftCols(first), g);
    kernels::accumulate<Scalar>(problem.x.rightCols(300 - first), problem.h.rightCols(300 - first),
                                g);
    CHECK(test::same_values(g, problem.product()));
  }
}

TEMPLATE_TEST_CASE("a gradient reads and writes blocks, and nothing around them", "", float,
                   double) {
  using Scalar = TestType;
  for (const auto& shape : {Shape{1, 1, 1}, Shape{37, 5, 9}, Shape{65, copy_cols + 1, 10}}) {
    CAPTURE(shape.rows, shape.cols, shape.n);
    const Problem<Scalar> problem(shape);
    const test::Guarded<Scalar> x(problem.x), h(problem.h);
    test::Guarded<Scalar> g(problem.before, Scalar(7));
    kernels::accumulate<Scalar>(x.view(), h.view(), g.view());
    CHECK(test::same_values(g.view(), problem.product()));
    CHECK(g.is_intact());
  }
}

TEMPLATE_TEST_CASE("a gradient reads nothing behind its factors", "", float, double) {
  using Scalar = TestType;
  const Index size = kernels::packet_size<Scalar>;
  for (const Index rows : {size - 1, size + 1, 4 * size - 1, 4 * size}) {
    for (const Index cols : {Index{5}, copy_cols + 1}) {
      const Problem<Scalar> problem({rows, cols, 11});
      test::Tight<Scalar> x(problem.x), h(problem.h), g(problem.before);
      kernels::accumulate<Scalar>(x.view(), h.view(), g.view());
      CHECK(test::same_values(g.view(), problem.product()));
    }
  }
}

TEMPLATE_TEST_CASE("no samples add nothing to a gradient, and one without a side is empty", "",
                   float, double) {
  const Problem<TestType> none({20, 9, 0});
  CHECK(none.product() == none.before);
  require_product<TestType>({0, 9, 5});
  require_product<TestType>({20, 0, 5});
}

TEMPLATE_TEST_CASE("NaN and infinity reach the rows and columns of a gradient they belong to", "",
                   float, double) {
  using Scalar = TestType;
  for (const Scalar bad :
       {std::numeric_limits<Scalar>::quiet_NaN(), std::numeric_limits<Scalar>::infinity()}) {
    for (const Index cols : {Index{19}, copy_cols + 19}) {
      for (const Index at : {0, 15, 16, 18}) {
        for (int where = 0; where < 3; ++where) {
          CAPTURE(bad, cols, at, where);
          Problem<Scalar> problem({19, cols, 19});
          Matrix<Scalar>* const matrices[] = {&problem.x, &problem.h, &problem.before};
          (*matrices[where])(at, at) = bad;
          const auto exact = problem.exact();
          CHECK_FALSE(exact.value().allFinite());
          CHECK(exact.same_specials(problem.product()));
        }
      }
    }
  }
}
