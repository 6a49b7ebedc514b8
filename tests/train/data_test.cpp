#include <loraplus/train/data.hpp>
#include <set>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::BatchSampler;
using loraplus::Index;
using loraplus::LabelledData;
using loraplus::Matrix;
using loraplus::PairedData;

TEST_CASE("a sampler deals out every sample once an epoch, in a new order each time") {
  std::mt19937_64 generator{1};
  BatchSampler sampler(10, 4);
  std::vector<std::vector<Index>> epochs(3);
  for (auto& epoch : epochs) {
    for (const std::size_t expected : {4U, 4U, 2U}) {
      const auto batch = sampler.next(generator);
      CHECK(batch.size() == expected);
      epoch.insert(epoch.end(), batch.begin(), batch.end());
    }
    CHECK(std::set<Index>(epoch.begin(), epoch.end()).size() == 10);
  }
  CHECK(epochs[0] != epochs[1]);
  CHECK(epochs[1] != epochs[2]);
}

TEST_CASE("a batch larger than the data is the data") {
  std::mt19937_64 generator{1};
  BatchSampler sampler(3, 8);
  CHECK(sampler.next(generator).size() == 3);
  CHECK(sampler.next(generator).size() == 3);
}

TEST_CASE("a sampler goes on within an epoch, and with the epochs after it") {
  std::mt19937_64 generator{1};
  BatchSampler sampler(10, 4), resumed(10, 4);
  sampler.next(generator);
  resumed.set_progress(sampler.order(), sampler.dealt());
  std::mt19937_64 again = generator;
  for (int batch = 0; batch < 7; ++batch) {
    const auto expected = sampler.next(generator), found = resumed.next(again);
    CHECK(std::equal(found.begin(), found.end(), expected.begin(), expected.end()));
  }
}

TEST_CASE("what is no order of the samples is refused and leaves what was") {
  BatchSampler sampler(3, 2);
  const std::vector<Index> order{2, 0, 1}, twice{0, 0, 1}, less{0, 1};
  sampler.set_progress(order, 2);
  CHECK_THROWS_AS(sampler.set_progress(twice, 1), loraplus::ArgumentError);
  CHECK_THROWS_AS(sampler.set_progress(less, 1), loraplus::ArgumentError);
  CHECK_THROWS_AS(sampler.set_progress(order, 4), loraplus::ArgumentError);
  CHECK_THROWS_AS(sampler.set_progress(order, -1), loraplus::ArgumentError);
  CHECK(sampler.order()[0] == 2);
  CHECK(sampler.dealt() == 2);
}

TEST_CASE("a sampler of nothing is refused") {
  CHECK_THROWS_AS(BatchSampler(0, 4), loraplus::ArgumentError);
  CHECK_THROWS_AS(BatchSampler(4, 0), loraplus::ArgumentError);
  CHECK_THROWS_AS(BatchSampler(-1, 4), loraplus::ArgumentError);
}

TEST_CASE("samples are gathered with their targets") {
  const std::vector<Index> indices{3, 0, 3};
  LabelledData<float> labelled{test::random_matrix<float>(2, 5, 1), {0, 1, 2, 3, 4}};
  auto batch = labelled.make_batch(4);
  labelled.gather(indices, batch);
  CHECK(batch.inputs.col(0) == labelled.inputs.col(3));
  CHECK(batch.inputs.col(1) == labelled.inputs.col(0));
  CHECK(batch.inputs.col(2) == labelled.inputs.col(3));
  CHECK(batch.targets(3)[0] == 3);
  CHECK(batch.targets(3)[1] == 0);
  CHECK(batch.targets(3).size() == 3);

  auto small = labelled.make_batch(2);
  CHECK_THROWS_AS(labelled.gather(indices, small), loraplus::ShapeError);

  PairedData<float> paired{test::random_matrix<float>(2, 5, 1),
                           test::random_matrix<float>(3, 5, 2)};
  auto pairs = paired.make_batch(4);
  paired.gather(indices, pairs);
  CHECK(pairs.inputs.col(1) == paired.inputs.col(0));
  CHECK(pairs.targets(3).col(2) == paired.outputs.col(3));
  CHECK(pairs.targets(3).cols() == 3);
}

TEST_CASE("data whose halves differ in size are refused with both sizes") {
  CHECK(test::message_of<loraplus::ShapeError>([] {
          LabelledData<float>{Matrix<float>(2, 5), {1, 2}}.validate();
        }) == "LabelledData: 5 samples, but 2 labels");
  CHECK(test::message_of<loraplus::ShapeError>([] {
          PairedData<float>{Matrix<float>(2, 5), Matrix<float>(3, 4)}.validate();
        }) == "PairedData: outputs must be 3 x 5, found 3 x 4");
}
