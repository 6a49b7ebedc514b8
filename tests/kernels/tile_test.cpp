#include <loraplus/kernels/tile.hpp>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/guarded.hpp"
#include "support/matrices.hpp"

namespace kernels = loraplus::kernels;
using kernels::Columns;
using kernels::Terms;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::Vector;

namespace {

/// `depth` terms of an outer tile: a is height x depth, b is cols x depth, with room between the
/// columns of both.
template <typename Scalar>
struct Factors {
  Matrix<Scalar> a, b;  // a column at least
  Index cols, depth;

  Factors(Index height, Index tile_cols, Index terms, unsigned seed)
      : a(test::random_matrix<Scalar>(height + 3, terms + 1, seed)),
        b(test::random_matrix<Scalar>(tile_cols + 2, terms + 1, seed + 1)),
        cols(tile_cols),
        depth(terms) {}

  Terms<Scalar> terms() const {
    return {depth,    a.data(),       a.outerStride(), kernels::packet_size<Scalar>,
            b.data(), b.outerStride()};
  }

  void add_to(test::Exact<Scalar>& sum) const {
    sum.add(a.topLeftCorner(sum.value().rows(), depth), b.topLeftCorner(cols, depth).transpose());
  }
};

}  // namespace

TEMPLATE_TEST_CASE("every outer tile is the sum of its terms, with the same bits in each", "",
                   float, double, long double) {
  using Scalar = TestType;
  const Index size = kernels::packet_size<Scalar>;
  for (Index packets = 1; packets <= kernels::outer_rows; ++packets) {
    for (Index cols = 1; cols <= kernels::outer_cols; ++cols) {
      for (const Index depth : {0, 1, 2, 19}) {
        CAPTURE(packets, cols, depth);
        const Index height = packets * size;
        const Factors<Scalar> first(height, cols, depth, 1), second(height, cols, depth / 2, 3);
        const auto tile = kernels::find_outer_tile<Scalar>(packets, cols);
        const auto c0 = test::random_matrix<Scalar>(height, cols, 5);
        test::Guarded<Scalar> c(c0);
        test::Exact<Scalar> exact(height, cols);
        exact.add(c0);
        first.add_to(exact);
        second.add_to(exact);

        const Columns<Scalar> to{c.view().data(), c.view().outerStride()};
        tile(first.terms(), second.terms(), {to.data, to.stride}, to);  // C0 is C
        CHECK(exact.error(c.view()) <= 1);
        CHECK(c.is_intact());

        Matrix<Scalar> apart(height, cols);
        tile(first.terms(), second.terms(), {c0.data(), height}, {apart.data(), height});
        CHECK(test::same_values(apart, c.inside()));

        Matrix<Scalar> single = c0;  // by the smallest tile
        for (Index j = 0; j < cols; ++j) {
          for (Index i = 0; i < packets; ++i) {
            Terms<Scalar> one = first.terms(), other = second.terms();
            one.a += i * size, other.a += i * size;
            one.b += j, other.b += j;
            const Columns<Scalar> at{single.data() + j * height + i * size, height};
            kernels::find_outer_tile<Scalar>(1, 1)(one, other, {at.data, height}, at);
          }
        }
        CHECK(test::same_values(single, c.inside()));

        Matrix<Scalar> repeated(height, cols), expected = c0.col(0).replicate(1, cols);
        tile(first.terms(), {}, {c0.data(), 0}, {repeated.data(), height});
        tile(first.terms(), {}, {expected.data(), height}, {expected.data(), height});
        CHECK(test::same_values(repeated, expected));
      }
    }
  }
}

TEMPLATE_TEST_CASE("a tile at the edge computes the same and touches nothing past it", "", float,
                   double, long double) {
  using Scalar = TestType;
  const Index size = kernels::packet_size<Scalar>;
  for (Index packets = 1; packets <= kernels::outer_rows; ++packets) {
    for (Index cols = 1; cols <= kernels::outer_cols; ++cols) {
      for (Index rows = (packets - 1) * size + 1; rows <= packets * size; ++rows) {
        CAPTURE(packets, cols, rows);
        const Factors<Scalar> factors(packets * size, cols, 7, 1);
        const auto c0 = test::random_matrix<Scalar>(packets * size, cols, 5);
        Matrix<Scalar> whole = c0;
        kernels::find_outer_tile<Scalar>(packets, cols)(
            factors.terms(), {}, {whole.data(), packets * size}, {whole.data(), packets * size});
        const Matrix<Scalar> expected = whole.topRows(rows);

        const Matrix<Scalar> initial = c0.topRows(rows);  // the heap ends with its last row
        test::Guarded<Scalar> c(Matrix<Scalar>::Zero(rows, cols), Scalar(7));
        kernels::add_tile<Scalar>({packets, rows, cols}, factors.terms(), {},
                                  {initial.data(), rows},
                                  {c.view().data(), c.view().outerStride()});
        CHECK(test::same_values(c.inside(), expected));
        CHECK(c.is_intact());

        Matrix<Scalar> in_place = initial;
        kernels::add_tile<Scalar>({packets, rows, cols}, {}, factors.terms(),
                                  {in_place.data(), rows}, {in_place.data(), rows});
        CHECK(test::same_values(in_place, expected));
      }
    }
  }
}

TEMPLATE_TEST_CASE("every dot tile is the sum of its products, with the same bits in each", "",
                   float, double, long double) {
  using Scalar = TestType;
  const Index size = kernels::packet_size<Scalar>;
  const auto s = Scalar(1.7);
  for (Index rows = 1; rows <= kernels::dot_rows; ++rows) {
    for (Index cols = 1; cols <= kernels::dot_cols; ++cols) {
      for (const Index depth : {Index{0}, Index{1}, size - 1, size, 3 * size + 1, 5 * size - 1}) {
        for (const bool keep : {false, true}) {
          CAPTURE(rows, cols, depth, keep);
          const auto a = test::random_matrix<Scalar>(depth, rows, 1);  // no room behind the last
          const auto b = test::random_matrix<Scalar>(depth, cols, 2);
          const auto before = test::random_matrix<Scalar>(rows, cols, 3);
          test::Guarded<Scalar> c(before, Scalar(7));
          kernels::find_dot_tile<Scalar>(rows, cols)(
              depth / size, depth % size, {a.data(), size, depth}, {b.data(), size, depth}, s, keep,
              {c.view().data(), c.view().outerStride()});
          test::Exact<Scalar> exact(rows, cols);
          exact.add(a.transpose(), b, s);
          if (keep) exact.add(before);
          CHECK(exact.error(c.view()) <= 1);
          CHECK(c.is_intact());

          Matrix<Scalar> single = before;  // by the smallest tile
          for (Index j = 0; j < cols; ++j) {
            for (Index i = 0; i < rows; ++i) {
              kernels::find_dot_tile<Scalar>(1, 1)(
                  depth / size, depth % size, {a.data() + i * depth, size, depth},
                  {b.data() + j * depth, size, depth}, s, keep, {&single(i, j), rows});
            }
          }
          CHECK(test::same_values(single, c.inside()));
        }
      }
    }
  }
}

TEST_CASE("a dot tile follows the steps from packet to packet of either factor") {
  const Index size = kernels::packet_size<float>, rows = kernels::dot_rows, packets = 5;
  const auto a = test::random_matrix<float>(packets * size, rows, 1);
  const auto b = test::random_matrix<float>(packets * size, 2, 2);
  Matrix<float> strips(rows * size + 3, packets);  // packet t of every column of a, side by side
  for (Index t = 0; t < packets; ++t) {
    strips.col(t).head(rows * size) = a.middleRows(t * size, size).reshaped();
  }
  Matrix<float> expected(rows, 2), found(rows, 2);
  const auto tile = kernels::find_dot_tile<float>(rows, 2);
  const kernels::Strided<const float> right{b.data(), size, b.rows()};
  tile(packets, 0, {a.data(), size, a.rows()}, right, 1, false, {expected.data(), rows});
  tile(packets, 0, {strips.data(), strips.rows(), size}, right, 1, false, {found.data(), rows});
  CHECK(test::same_values(found, expected));
}
