// Threads change who computes, not what: every product has the same bits for any number of them.
// Where the tests are built without OpenMP there is one thread, and little to see.
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <set>

#include "support/catch.hpp"
#include "support/matrices.hpp"
#include "support/sanitized.hpp"
#include "support/threads.hpp"

using loraplus::Copies;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::Plan;
namespace kernels = loraplus::kernels;

namespace {

/// All that a training step writes.
struct Results {
  Matrix<float> y, dx, a, b;
};

/// Two steps of a layer.
Results train(Copies copies, Plan plan, Index out, Index in, Index n) {
  std::mt19937_64 generator{1};
  loraplus::LoraLinear layer{
      loraplus::PackedWeight<float>(test::random_matrix<float>(out, in, 1),
                                    test::random_vector<float>(out, 2), {copies}),
      {.rank = 9},
      generator};
  layer.set_plan(plan);
  loraplus::Optimizer optimizer{loraplus::AdamW{}, layer};
  auto cache = layer.make_cache(n);
  const auto x = test::random_matrix<float>(in, n, 3), dy = test::random_matrix<float>(out, n, 4);
  Results results{Matrix<float>(out, n), Matrix<float>(in, n), {}, {}};
  for (int step = 0; step < 2; ++step) {
    layer.forward(x, results.y, cache);
    layer.backward(x, dy, results.dx, cache);
    optimizer.step(layer);
  }
  results.a = layer.factors().a();
  results.b = layer.factors().b();
  return results;
}

}  // namespace

TEST_CASE("a product takes as many threads as its work is worth and Eigen allows") {
  const test::Threads four(4);
  CHECK(kernels::choose_threads(0) == 1);
  CHECK(kernels::choose_threads(2 * kernels::smallest_share - 1) == 1);
#ifdef _OPENMP
  CHECK(kernels::choose_threads(2 * kernels::smallest_share) == 2);
  CHECK(kernels::choose_threads(100 * kernels::smallest_share) == 4);
  int inside = 0;
#pragma omp parallel num_threads(2) reduction(max : inside)
  inside = kernels::choose_threads(100 * kernels::smallest_share);
  CHECK(inside == 1);
#endif
  const test::Threads one(1);
  CHECK(kernels::choose_threads(100 * kernels::smallest_share) == 1);
}

TEST_CASE("a team runs each task once, and deals them out to all of its threads") {
  for (const int threads : {1, 2, 3}) {
    for (const Index count : {0, 1, 2, 7, 100}) {
      CAPTURE(threads, count);
      std::vector<int> runs(static_cast<std::size_t>(count), 0);
      std::vector<int> workers(static_cast<std::size_t>(count), 0);
      const kernels::Team team(threads);
      team.start([&] {
        team.share(count, [&](Index i) {
          ++runs[static_cast<std::size_t>(i)];
#ifdef _OPENMP
          workers[static_cast<std::size_t>(i)] = omp_get_thread_num();
#endif
        });
      });
      CHECK(std::all_of(runs.begin(), runs.end(), [](int each) { return each == 1; }));
#ifdef _OPENMP
      const std::set<int> distinct(workers.begin(), workers.end());
      CHECK(static_cast<Index>(distinct.size()) == std::min<Index>(count, threads));
#endif
    }
  }
}

TEST_CASE("a training step has the same bits for any number of threads") {
  struct Shape {
    Index out, in, n;
  };
  for (const Shape& shape : {Shape{301, 515, 70}, {1100, 300, 5}, {20, 700, 400}}) {
    for (const auto copies : {Copies::one, Copies::two}) {
      for (const auto plan : {Plan::unmerged, Plan::merged}) {
        CAPTURE(shape.out, shape.in, shape.n, copies, plan);
        const Results expected = [&] {
          const test::Threads one(1);
          return train(copies, plan, shape.out, shape.in, shape.n);
        }();
        for (const int count : test::sanitized ? std::vector{3} : std::vector{2, 3, 5}) {
          const test::Threads threads(count);
          const Results found = train(copies, plan, shape.out, shape.in, shape.n);
          CHECK(test::same_bits(found.y, expected.y));
          CHECK(test::same_bits(found.dx, expected.dx));
          CHECK(test::same_bits(found.a, expected.a));
          CHECK(test::same_bits(found.b, expected.b));
        }
      }
    }
  }
}

TEST_CASE("the thin products and the dense ones have the same bits for any number of threads") {
  const Index rows = 1201, r = 37, n = 90;
  const auto f = test::random_matrix<double>(rows, r, 1),
             x = test::random_matrix<double>(rows, n, 2);
  const auto run = [&](int count) {
    const test::Threads threads(count);
    std::vector<Matrix<double>> all{Matrix<double>(r, n), x, f, Matrix<double>(rows, n)};
    kernels::project<double>(0.5, f, x, all[0]);
    kernels::expand<double>(f, all[0], all[1]);
    kernels::accumulate<double>(x, all[0], all[2]);
    const kernels::ColumnMajorFactor<double> factor(f, true);
    kernels::multiply<double>(factor, all[0], all[3]);
    return all;
  };
  const auto expected = run(1);
  for (const int count : {2, 3, 5}) {
    const auto found = run(count);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CAPTURE(count, i);
      CHECK(test::same_bits(found[i], expected[i]));
    }
  }
}
