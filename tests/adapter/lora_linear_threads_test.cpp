// Built with the thread sanitizer, this proves that a const forward pass shares nothing it writes.
#include <loraplus/nn/adapt.hpp>
#include <thread>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::LoraLinear;
using loraplus::Matrix;
using loraplus::PackedWeight;
using loraplus::SharedWeight;

TEMPLATE_TEST_CASE("two threads run forward on one layer, each with a cache of its own", "",
                   SharedWeight<float>, PackedWeight<float>) {
  std::mt19937_64 generator{1};
  LoraLinear layer{
      TestType(test::random_matrix<float>(40, 30, 1), test::random_vector<float>(40, 2)),
      {.rank = 4, .dropout = 0.2},
      generator};
  layer.set_factors(test::random_matrix<float>(4, 30, 3), test::random_matrix<float>(40, 4, 4));
  const auto x = test::random_matrix<float>(30, 16, 5);
  const Matrix<float> expected = predict(layer, x);

  Matrix<float> results[2] = {Matrix<float>(40, 16), Matrix<float>(40, 16)};
  const auto run = [&](Matrix<float>& y, unsigned seed) {
    auto cache = layer.make_cache(16);
    std::mt19937_64 own{seed};
    for (int i = 0; i < 200; ++i) {
      layer.forward(x, y, cache, own);
      layer.forward(x, y, cache);
    }
  };
  std::thread first(run, std::ref(results[0]), 1U);
  std::thread second(run, std::ref(results[1]), 2U);
  first.join();
  second.join();
  CHECK(test::same_bits(results[0], expected));
  CHECK(test::same_bits(results[1], expected));
}

TEST_CASE("two threads train two adapters over one shared weight") {
  std::mt19937_64 generator{1};
  auto network = loraplus::make_mlp<float>({20, 24, 6}, loraplus::Activation::relu, generator);
  const auto frozen = freeze(network);
  const auto x = test::random_matrix<float>(20, 8, 5);
  const auto train = [&](loraplus::Index rank) {
    std::mt19937_64 own{7};
    auto adapted = adapt(frozen, {.lora = {.rank = rank}}, own);
    auto cache = adapted.make_cache(8);
    Matrix<float> y(6, 8);
    for (int i = 0; i < 100; ++i) {
      adapted.forward(x, y, cache);
      adapted.backward(x, y, cache);
    }
  };
  std::thread first(train, 2);
  std::thread second(train, 3);
  first.join();
  second.join();
  CHECK(test::same_bits(predict(frozen, x), predict(network, x)));
}
