#include <loraplus/kernels/packet.hpp>
#include <vector>

#include "support/catch.hpp"
#include "support/exact.hpp"
#include "support/matrices.hpp"

namespace kernels = loraplus::kernels;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::Vector;

namespace {

template <typename Scalar>
Vector<Scalar> scalars(const kernels::Packet<Scalar>& packet) {
  Vector<Scalar> values(kernels::packet_size<Scalar>);
  kernels::store(values.data(), packet);
  return values;
}

/// store_sums of the first Count columns of `packets` onto the first coefficients of `to`.
template <int Count, typename Scalar>
Vector<Scalar> stored_sums(const Matrix<Scalar>& packets, Scalar s, bool keep, Vector<Scalar> to) {
  kernels::Packet<Scalar> loaded[Count];
  for (int i = 0; i < Count; ++i) {
    loaded[i] = kernels::load(packets.col(i).data());
  }
  kernels::store_sums<Count>(loaded, s, keep, to.data());
  return to;
}

/// Whether Count sums are, bit for bit, those of the packets one by one, and all else is as it was.
template <int Count, typename Scalar>
bool sums_like_single_ones(const Matrix<Scalar>& packets, Scalar s, bool keep) {
  const auto before = test::random_vector<Scalar>(packets.cols(), 2);
  Vector<Scalar> expected = before;
  for (Index i = 0; i < Count; ++i) {
    const Vector<Scalar> one = before.segment(i, 1);
    expected(i) = stored_sums<1>(Matrix<Scalar>(packets.col(i)), s, keep, one)(0);
  }
  return test::same_values(stored_sums<Count>(packets, s, keep, before), expected);
}

}  // namespace

TEMPLATE_TEST_CASE("a part of a packet is read and written, and nothing past it", "", float, double,
                   long double) {
  using Scalar = TestType;
  const Index size = kernels::packet_size<Scalar>;
  for (Index count = 0; count <= size; ++count) {
    CAPTURE(count, size);
    const auto values = test::random_vector<Scalar>(size, 1);
    // the heap ends with the part, where the address sanitizer sees a step too far
    const std::vector<Scalar> part(values.data(), values.data() + count);
    Vector<Scalar> expected = values;
    expected.tail(size - count).setZero();
    CHECK(scalars<Scalar>(kernels::load_part(part.data(), count)) == expected);

    Vector<Scalar> before_nan =
        Vector<Scalar>::Constant(size, std::numeric_limits<Scalar>::quiet_NaN());
    before_nan.head(count) = values.head(count);
    CHECK(scalars<Scalar>(kernels::load_part(before_nan.data(), count)) == expected);
  }
}

TEMPLATE_TEST_CASE("a packet computes coefficient by coefficient", "", float, double, long double) {
  using Scalar = TestType;
  const Index size = kernels::packet_size<Scalar>;
  const auto a = test::random_vector<Scalar>(size, 1), b = test::random_vector<Scalar>(size, 2),
             c = test::random_vector<Scalar>(size, 3);
  const auto load = [](const Vector<Scalar>& from) { return kernels::load(from.data()); };
  auto kept = load(a);
  kernels::keep_in_register<Scalar>(kept);
  CHECK(test::same_values(scalars<Scalar>(kept), a));
  CHECK((scalars<Scalar>(kernels::broadcast(Scalar(1.25))).array() == Scalar(1.25)).all());
  const auto found = scalars<Scalar>(kernels::multiply_add(load(a), load(b), load(c)));
  for (Index i = 0; i < size; ++i) {
    CHECK(test::Exact<Scalar>(1, 1).add(a.row(i), b.row(i)).add(c.row(i)).error(found.row(i)) <= 1);
  }
}

TEMPLATE_TEST_CASE("a sum over a packet has the same bits however many are stored together", "",
                   float, double, long double) {
  using Scalar = TestType;
  const Index size = kernels::packet_size<Scalar>;
  for (unsigned seed = 1; seed <= 20; ++seed) {
    for (const Scalar s : {Scalar(1), Scalar(1.7)}) {
      for (const bool keep : {false, true}) {
        CAPTURE(seed, s, keep);
        const auto packets = test::random_matrix<Scalar>(size, 8, seed);
        CHECK(sums_like_single_ones<1>(packets, s, keep));
        CHECK(sums_like_single_ones<2>(packets, s, keep));
        CHECK(sums_like_single_ones<3>(packets, s, keep));
        CHECK(sums_like_single_ones<4>(packets, s, keep));

        const auto before = test::random_vector<Scalar>(4, 3);
        const Matrix<Scalar> four = packets.leftCols(4).transpose();
        test::Exact<Scalar> exact(4, 1);
        exact.add(four, Vector<Scalar>::Ones(size), s);
        if (keep) exact.add(before);
        CHECK(exact.error(stored_sums<4>(packets, s, keep, before)) <= 1);
      }
    }
  }
}

TEMPLATE_TEST_CASE("a square is transposed between strides, and nothing else is written", "", float,
                   double, long double) {
  using Scalar = TestType;
  const auto check = []<int Limit>(std::integral_constant<int, Limit> /*limit*/) {
    const Index side = kernels::square_size<Scalar, Limit>;
    CAPTURE(Limit, side);
    CHECK(side >= 1);
    CHECK((side <= Limit || side == 2));  // SSE2 has no smaller packet of double
    const auto from = test::random_matrix<Scalar>(side + 3, side, 1);
    Matrix<Scalar> to = Matrix<Scalar>::Constant(side + 5, side + 1, Scalar(7)), expected = to;
    expected.topLeftCorner(side, side) = from.topRows(side).transpose();
    kernels::transpose<Limit>(from.data(), from.outerStride(), to.data(), to.outerStride());
    CHECK(to == expected);
  };
  check(std::integral_constant<int, 4>{});
  check(std::integral_constant<int, 8>{});
}
