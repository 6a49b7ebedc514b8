// Built with the thread sanitizer, this proves that a network may merge while others compute.
#include <atomic>
#include <limits>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/nn/multi_adapter.hpp>
#include <thread>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Matrix;

TEST_CASE("passes see an adapter merged in all layers of a network, or in none") {
  std::mt19937_64 generator{1};
  const auto base =
      freeze(loraplus::make_mlp<float>({20, 24, 6}, loraplus::Activation::tanh, generator));
  const loraplus::AdaptOptions options{
      .lora = {.rank = 2, .initialization = loraplus::Initialization::both_uniform}};
  auto broken = adapt(base, options, generator);
  broken.visit_parameters([](auto p) {
    if (p.name.str() == "fc2.lora_B") p.value(0) = std::numeric_limits<float>::infinity();
  });
  loraplus::MultiAdapterMlp network(base);
  network.add("a", adapt(base, options, generator));
  network.add("broken", broken);
  const auto x = test::random_matrix<float>(20, 4, 5);
  const auto output = [&] {
    auto cache = network.make_cache(4);
    Matrix<float> y(6, 4);
    network.forward(x, y, cache);
    return y;
  };
  // The bits tell how a pass was computed: of the first layer alone merged there is no such output.
  const Matrix<float> unmerged = output();
  network.merge({"a"});
  const Matrix<float> merged = output();
  REQUIRE_FALSE(test::same_bits(merged, unmerged));

  std::atomic<bool> done{false};
  std::atomic<int> passes{0}, wrong{0};
  const auto read = [&] {
    auto cache = network.make_cache(4);
    Matrix<float> y(6, 4);
    while (!done) {
      network.forward(x, y, cache);
      if (!test::same_bits(y, merged) && !test::same_bits(y, unmerged)) ++wrong;
      ++passes;
    }
  };
  std::thread first(read), second(read);
  // On a busy machine, too, many passes begin while adapters are merged.
  for (int round = 0; round < 200 || passes < 20000; ++round) {
    network.unmerge();
    CHECK_THROWS_AS(network.merge({"broken"}), loraplus::NonFiniteError);
    network.merge({"a"});
    CHECK_THROWS_AS(network.merge({"broken"}), loraplus::NonFiniteError);
  }
  done = true;
  first.join();
  second.join();
  CHECK(wrong == 0);
}
