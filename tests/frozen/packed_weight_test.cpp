#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/frozen/shared_weight.hpp>
#include <loraplus/frozen/weight_view.hpp>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/exact.hpp"
#include "support/guarded.hpp"
#include "support/matrices.hpp"
#include "support/sanitized.hpp"
#include "support/sparse_weight.hpp"
#include "support/threads.hpp"

using loraplus::Copies;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::PackedWeight;
using loraplus::RowMajorMatrix;
using loraplus::SharedWeight;
using loraplus::Vector;

namespace {

static_assert(loraplus::FrozenWeight<PackedWeight<float>>);
static_assert(loraplus::DenseWeight<PackedWeight<double>>);
static_assert(loraplus::AddsLowRank<PackedWeight<float>>);
static_assert(loraplus::MergesLowRank<PackedWeight<double>>);
static_assert(!loraplus::AddsLowRank<test::SparseWeight<float>>);
static_assert(!loraplus::MergesLowRank<test::SparseWeight<float>>);
static_assert(!loraplus::MergesLowRank<SharedWeight<float>>);
static_assert(
    std::is_same_v<decltype(PackedWeight(RowMajorMatrix<double>())), PackedWeight<double>>);

template <typename Scalar>
PackedWeight<Scalar> pack(const Matrix<Scalar>& w, const Vector<Scalar>& b, Copies copies) {
  return PackedWeight<Scalar>(w, b, {.copies = copies});
}

template <typename Weight>
auto forward(const Weight& weight, const Matrix<typename Weight::Scalar>& x) {
  Matrix<typename Weight::Scalar> y(weight.out_features(), x.cols());
  weight.forward(x, y);
  return y;
}

template <typename Weight>
auto backward(const Weight& weight, const Matrix<typename Weight::Scalar>& dy) {
  Matrix<typename Weight::Scalar> dx(weight.in_features(), dy.cols());
  weight.backward(dy, dx);
  return dx;
}

/// Packs a matrix in one of three forms: as it is, row-major, as a block of a larger one.
template <typename Scalar>
PackedWeight<Scalar> pack_from(Index form, const Matrix<Scalar>& w, const Vector<Scalar>& b,
                               Copies copies) {
  if (form == 0) return PackedWeight<Scalar>(w, b, {copies});
  if (form == 1) return PackedWeight<Scalar>(RowMajorMatrix<Scalar>(w), b, {copies});
  return PackedWeight<Scalar>(test::Guarded<Scalar>(w).view(), b, {copies});
}

/// Both products of both copies, with a bias or none, with a low-rank term or none, whose operands
/// are blocks of larger matrices.
template <typename Scalar>
void require_products(Index out, Index in, Index n, Index rank, Index form = 0) {
  CAPTURE(out, in, n, rank, form);
  const auto w = test::random_matrix<Scalar>(out, in, 1);
  const auto b = test::random_vector<Scalar>(out, 2);
  const auto x = test::random_matrix<Scalar>(in, n, 3);
  const auto dy = test::random_matrix<Scalar>(out, n, 4);
  const auto f = test::random_matrix<Scalar>(out, rank, 5);
  const auto at = test::random_matrix<Scalar>(in, rank, 6);
  const auto h = test::random_matrix<Scalar>(rank, n, 7);
  test::Exact<Scalar> y_exact(out, n), dx_exact(in, n);
  y_exact.add(w, x);
  dx_exact.add(w.transpose(), dy);
  auto y_biased = y_exact, y_adapted = y_exact, dx_adapted = dx_exact;
  y_biased.add(b);
  y_adapted.add(b).add(f, h);
  dx_adapted.add(at, h);
  for (const auto copies : {Copies::one, Copies::two}) {
    const auto weight = pack_from<Scalar>(form, w, b, copies);
    const auto unbiased = pack_from<Scalar>(form, w, {}, copies);
    CHECK(y_exact.error(forward(unbiased, x)) <= 1);
    CHECK(y_biased.error(forward(weight, x)) <= 1);
    CHECK(dx_exact.error(backward(weight, dy)) <= 1);
    using Block = test::Guarded<Scalar>;
    Block y(Matrix<Scalar>::Zero(out, n)), dx(Matrix<Scalar>::Zero(in, n));
    const Block h_block(h);
    weight.forward(Block(x).view(), y.view(), Block(f).view(), h_block.view());
    weight.backward(Block(dy).view(), dx.view(), Block(at).view(), h_block.view());
    CHECK(y_adapted.error(y.inside()) <= 1);
    CHECK(dx_adapted.error(dx.inside()) <= 1);
    CHECK(y.is_intact());
    CHECK(dx.is_intact());
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a packed weight of any shape computes W x + b + F h and W' dy + F z", "", float,
                   double) {
  const test::Threads one(1);
  std::mt19937_64 generator{1};
  const auto draw = [&](Index most) { return loraplus::uniform_index(generator, most) + 1; };
  const Index ranks[] = {0, 1, 8, 32, 33, 70};
  for (int i = 0; i < test::repetitions(48); ++i) {
    const Index largest = i % 4 == 0 ? 200 : 50;
    const Index rank = i % 2 == 0 ? draw(largest) : ranks[i / 2 % 6];
    require_products<TestType>(draw(largest), draw(largest), draw(largest), rank, i % 3);
  }
  for (const Index rank : ranks) {
    for (const Index n : {1, 17}) {
      require_products<TestType>(1, 1, n, rank);
      require_products<TestType>(1, 40, n, rank);
      require_products<TestType>(40, 1, n, rank);
    }
  }
  require_products<TestType>(5, 1200, 3, 8);
  require_products<TestType>(1200, 5, 3, 33);
  require_products<TestType>(9, 7, 0, 8);
}

TEMPLATE_TEST_CASE("a weight is packed from matrices of both orders, blocks and maps", "", float,
                   double) {
  using Scalar = TestType;
  const auto w = test::random_matrix<Scalar>(23, 37, 1);
  const RowMajorMatrix<Scalar> rows = w;
  const test::Guarded<Scalar> guarded(w);
  const Matrix<Scalar> transposed = w.transpose();
  for (const auto copies : {Copies::one, Copies::two}) {
    const loraplus::PackOptions options{.copies = copies};
    for (const auto& weight :
         {PackedWeight<Scalar>(w, {}, options), PackedWeight<Scalar>(rows, {}, options),
          PackedWeight<Scalar>(guarded.view(), {}, options),
          PackedWeight<Scalar>(transposed.transpose(), {}, options)}) {
      CHECK(weight.out_features() == 23);
      CHECK(weight.in_features() == 37);
      CHECK(weight.copies() == copies);
      CHECK(test::same_bits(loraplus::to_matrix(weight), w));
    }
  }
  // one copy packs W or W', whichever is smaller: here it is the other one
  const PackedWeight<Scalar> wide(transposed, {}, {.copies = Copies::one});
  CHECK(test::same_bits(loraplus::to_matrix(wide), transposed));
}

TEST_CASE("an expression is evaluated once, whatever it is read for") {
  for (const auto copies : {Copies::one, Copies::two}) {
    const loraplus::PackOptions options{copies, true};
    const PackedWeight<float> drawn(Matrix<float>::Random(5, 7), {}, options);
    CHECK(test::same_bits(loraplus::to_matrix(drawn), drawn.original()));
    const Matrix<float> transposed = backward(drawn, Matrix<float>(Matrix<float>::Identity(5, 5)));
    CHECK(test::same_values(Matrix<float>(transposed.transpose()), drawn.original()));
    const auto a = test::random_matrix<float>(20, 3, 1), b = test::random_matrix<float>(3, 30, 2);
    const PackedWeight<float> product(a * b, {}, options);
    CHECK(test::same_bits(loraplus::to_matrix(product), product.original()));
    CHECK(test::relative_distance(product.original(), a * b) < 1e-6);
  }
}

TEST_CASE("a low-rank term of another shape is refused before anything is written") {
  const auto weight = pack(test::random_matrix<float>(9, 300, 1), Vector<float>(), Copies::one);
  const Matrix<float> x = Matrix<float>::Ones(300, 3), h = Matrix<float>::Ones(40, 3);
  Matrix<float> y = Matrix<float>::Constant(9, 3, 7);
  const Matrix<float> before = y, short_f = Matrix<float>::Ones(8, 40);
  const auto message =
      test::message_of<loraplus::ShapeError>([&] { weight.forward(x, y, short_f, h); });
  CHECK(test::contains(message, "f must be 9 x 40, found 8 x 40"));
  CHECK(test::same_bits(y, before));
}

TEMPLATE_TEST_CASE("forward has the bits of the weights that are not packed", "", float, double) {
  using Scalar = TestType;
  for (const auto& [out, in] : {std::pair<Index, Index>{32, 24}, {33, 40}, {20, 1100}}) {
    const auto w = test::random_matrix<Scalar>(out, in, 1);
    const auto b = test::random_vector<Scalar>(out, 2);
    const auto two = pack(w, b, Copies::two), one = pack(w, b, Copies::one);
    for (const Index n : {1, 2, 9, 40, 200}) {
      CAPTURE(out, in, n);
      const auto x = test::random_matrix<Scalar>(in, n, 3);
      const auto y = forward(two, x);
      CHECK(test::same_bits(forward(SharedWeight<Scalar>(w, b), x), y));
      Matrix<Scalar> affine(out, n);
      loraplus::kernels::affine<Scalar>(w, {b.data(), out}, x, affine);
      CHECK(test::same_bits(affine, y));
      // one copy sums in the order of dot products where it holds W'
      const bool holds_w = loraplus::kernels::PackedMatrix<Scalar>::padded(out) * in <=
                           loraplus::kernels::PackedMatrix<Scalar>::padded(in) * out;
      if (holds_w) CHECK(test::same_bits(forward(one, x), y));
    }
  }
}

TEMPLATE_TEST_CASE("a sample does not depend on the others of its batch, bit for bit", "", float,
                   double) {
  using Scalar = TestType;
  const auto w = test::random_matrix<Scalar>(45, 70, 1);
  const auto b = test::random_vector<Scalar>(45, 2);
  const auto x = test::random_matrix<Scalar>(70, 150, 3),
             dy = test::random_matrix<Scalar>(45, 150, 4);
  for (const auto copies : {Copies::one, Copies::two}) {
    for (const Index rank : {1, 33}) {
      const auto f = test::random_matrix<Scalar>(45, rank, 5);
      const auto at = test::random_matrix<Scalar>(70, rank, 6);
      const auto h = test::random_matrix<Scalar>(rank, 150, 7);
      const auto weight = pack(w, b, copies);
      Matrix<Scalar> y(45, 150), dx(70, 150), y_alone(45, 150), dx_alone(70, 150);
      weight.forward(x, y, f, h);
      weight.backward(dy, dx, at, h);
      for (Index j = 0; j < 150; ++j) {
        weight.forward(x.col(j), y_alone.col(j), f, h.col(j));
        weight.backward(dy.col(j), dx_alone.col(j), at, h.col(j));
      }
      CHECK(test::same_bits(y_alone, y));
      CHECK(test::same_bits(dx_alone, dx));
    }
  }
}

TEMPLATE_TEST_CASE("one copy costs about the memory of the matrix, two about twice", "", float,
                   double) {
  using Scalar = TestType;
  for (const Index out : {256, 257, 300, 512}) {
    for (const Index in : {256, 257, 273, 511}) {
      CAPTURE(out, in);
      const Matrix<Scalar> w = Matrix<Scalar>::Ones(out, in);
      const auto raw = static_cast<double>(out * in) * sizeof(Scalar);
      const auto one = pack<Scalar>(w, {}, Copies::one), two = pack<Scalar>(w, {}, Copies::two);
      CHECK(static_cast<double>(one.bytes()) >= raw);
      CHECK(static_cast<double>(one.bytes()) <= 1.06 * raw);
      CHECK(static_cast<double>(two.bytes()) <= 2 * 1.0626 * raw);
      CHECK(one.copies() == Copies::one);
      CHECK(two.copies() == Copies::two);
      CHECK(one.merge_cost() == 1);
      CHECK(two.merge_cost() == 2);
      const PackedWeight<Scalar> kept(w, {}, {.copies = Copies::one, .keep_original = true});
      CHECK(kept.bytes() == one.bytes() + static_cast<std::size_t>(w.size()) * sizeof(Scalar));
    }
  }
}

TEST_CASE("the original is kept where it is asked for, and shared between copies") {
  const auto w = test::random_matrix<float>(5, 4, 1);
  const RowMajorMatrix<float> rows = w;
  const PackedWeight<float> kept(rows, {}, {.keep_original = true});
  const PackedWeight<float> copy = kept;  // NOLINT(performance-unnecessary-copy-initialization)
  CHECK(test::same_bits(kept.original(), w));
  CHECK(copy.original().data() == kept.original().data());
  CHECK(test::message_of<loraplus::StateError>([&] { PackedWeight<float>(w).original(); }) ==
        "PackedWeight: the original was not kept, see PackOptions");
}

TEST_CASE("a packed weight outlives the one it was copied from, and the matrix it was made of") {
  auto w = std::make_unique<Matrix<float>>(Matrix<float>::Ones(2, 3));
  auto first = std::make_unique<PackedWeight<float>>(*w, Vector<float>::Constant(2, 4));
  w.reset();
  const PackedWeight<float> second = *first;
  const float* bias = first->bias().data();
  first.reset();
  CHECK(second.bias().data() == bias);
  CHECK((forward(second, Matrix<float>::Ones(3, 2)).array() == 7).all());
}

TEST_CASE("a bias of another size is refused with both sizes") {
  CHECK(test::message_of<loraplus::ShapeError>([] {
          PackedWeight<float>(Matrix<float>(4, 3), Vector<float>(5));
        }) == "PackedWeight: b must be 4 x 1, found 5 x 1");
  CHECK(PackedWeight<float>(Matrix<float>(4, 3)).bias().size() == 0);
}

TEMPLATE_TEST_CASE("a merged copy computes with W + s B A, whatever was merged before", "", float,
                   double) {
  using Scalar = TestType;
  const auto s = Scalar(1.75);
  for (const auto copies : {Copies::one, Copies::two}) {
    for (const auto& [out, in] : {std::pair<Index, Index>{35, 50}, {50, 35}, {1, 20}, {20, 1}}) {
      CAPTURE(copies, out, in);
      const auto w = test::random_matrix<Scalar>(out, in, 1);
      const auto b = test::random_vector<Scalar>(out, 2);
      const auto x = test::random_matrix<Scalar>(in, 9, 3);
      const auto dy = test::random_matrix<Scalar>(out, 9, 4);
      const auto weight = pack(w, b, copies);
      const auto products = [&](const auto& from) {
        Matrix<Scalar> both(w.rows() + w.cols(), 9);
        from.forward(x, both.topRows(w.rows()));
        from.backward(dy, both.bottomRows(w.cols()));
        return both;
      };
      auto merged = weight.make_merged();
      CHECK(test::same_bits(products(merged), products(weight)));  // W itself at first
      for (unsigned seed = 5; seed < 8; ++seed) {
        const auto up = test::random_matrix<Scalar>(out, 3, seed);
        const auto a = test::random<RowMajorMatrix<Scalar>>(3, in, seed + 10);
        weight.merge(s, up, a.transpose(), merged);
        const Matrix<Scalar> y = products(merged).topRows(out);
        const Matrix<Scalar> dx = products(merged).bottomRows(in);
        const double tolerance = std::is_same_v<Scalar, float> ? 1e-5 : 1e-14;
        const Matrix<Scalar> full = w + s * (up * a);
        CHECK(test::relative_distance(y, (full * x).colwise() + b) < tolerance);
        CHECK(test::relative_distance(dx, full.transpose() * dy) < tolerance);
      }
      weight.merge(s, Matrix<Scalar>::Zero(out, 3).eval(), test::random_matrix<Scalar>(in, 3, 8),
                   merged);
      CHECK(test::same_bits(products(merged), products(weight)));
      CHECK(test::same_bits(loraplus::to_matrix(weight), w));
    }
  }
}

TEST_CASE("a copy that another weight made is not merged into") {
  const Matrix<float> w = Matrix<float>::Zero(20, 15), at(15, 2), b(20, 2);
  const auto weight = pack(w, {}, Copies::two);
  for (const auto& other :
       {pack(w, {}, Copies::two), pack<float>(w, Vector<float>::Ones(20), Copies::two),
        pack(w, {}, Copies::one)}) {
    auto copy = other.make_merged();
    CHECK(test::message_of<loraplus::StateError>([&] { weight.merge(1, b, at, copy); }) ==
          "PackedWeight::merge: the copy was made by another weight");
  }
  const auto shared = weight;  // the same memory
  auto copy = shared.make_merged();
  CHECK_NOTHROW(weight.merge(1, b, at, copy));
}

TEST_CASE("every weight refuses batches of other shapes") {
  const Matrix<float> w = Matrix<float>::Zero(20, 15), x(15, 5), dy(20, 5);
  const auto require_refusals = [&](const auto& weight) {
    Matrix<float> y(20, 5), dx(15, 5), wrong(17, 5), wide(20, 6);
    const auto refuses = [](auto&& product) {
      return !test::message_of<loraplus::ShapeError>(product).empty();
    };
    CHECK(refuses([&] { weight.forward(wrong, y); }));
    CHECK(refuses([&] { weight.forward(x, wrong); }));
    CHECK(refuses([&] { weight.forward(x, wide); }));
    CHECK(refuses([&] { weight.backward(wrong, dx); }));
    CHECK(refuses([&] { weight.backward(dy, wrong); }));
    if constexpr (requires { weight.copy_to(wrong); }) {
      CHECK(refuses([&] { weight.copy_to(wrong); }));
      CHECK(refuses([&] { weight.copy_to(wide); }));
    }
  };
  require_refusals(pack(w, {}, Copies::one));
  require_refusals(pack(w, {}, Copies::two));
  require_refusals(pack(w, {}, Copies::two).make_merged());
  require_refusals(loraplus::SharedWeight<float>(w));
  require_refusals(loraplus::WeightView(w));
}

TEST_CASE("many threads multiply by one packed weight at once, with unchanged results") {
  const auto w = test::random_matrix<float>(130, 90, 1);
  const auto x = test::random_matrix<float>(90, 33, 2), dy = test::random_matrix<float>(130, 33, 3);
  for (const auto copies : {Copies::one, Copies::two}) {
    const auto weight = pack<float>(w, test::random_vector<float>(130, 4), copies);
    const Matrix<float> y = forward(weight, x), dx = backward(weight, dy);
    std::vector<int> wrong(8, 0);  // a flag each
    std::vector<std::thread> threads;
    for (int& mine : wrong) {
      threads.emplace_back([&, weight] {
        for (int i = 0; i < 20; ++i) {
          if (!test::same_bits(forward(weight, x), y)) ++mine;
          if (!test::same_bits(backward(weight, dy), dx)) ++mine;
        }
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    CHECK(wrong == std::vector<int>(8, 0));
  }
}
