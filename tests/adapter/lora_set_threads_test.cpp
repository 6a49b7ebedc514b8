// Built with the thread sanitizer, this proves that adapters may come and go while others compute.
#include <atomic>
#include <loraplus/adapter/lora_conv_set.hpp>
#include <loraplus/adapter/lora_embedding_set.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/nn/multi_adapter.hpp>
#include <thread>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Matrix;

namespace {

using Weight = loraplus::PackedWeight<float>;
using Names = std::vector<std::string>;

/// An adapted network whose every layer computes k times what that of k = 1 does.
loraplus::AdaptedMlp<Weight> network_of(const loraplus::FrozenMlp<Weight>& base, float k) {
  std::mt19937_64 generator{3};
  auto adapted =
      adapt(base, {.lora = {.rank = 2, .initialization = loraplus::Initialization::both_uniform}},
            generator);
  adapted.visit_parameters([&](auto p) {
    if (p.role == loraplus::Role::lora_b) p.value *= k;
  });
  return adapted;
}

}  // namespace

TEST_CASE("networks compute while adapters are added, replaced, erased and activated") {
  std::mt19937_64 generator{1};
  const auto base =
      freeze(loraplus::make_mlp<float>({20, 24, 6}, loraplus::Activation::tanh, generator));
  const auto x = test::random_matrix<float>(20, 4, 5);
  const auto one = network_of(base, 1), two = network_of(base, 2);
  loraplus::MultiAdapterMlp network(base);
  network.add("stays", one);
  network.add("changes", one);
  // What any pass may give: never one layer of the one adapter and one of the other.
  const auto output = [&](const Names& names) {
    auto cache = network.make_cache(4);
    network.assign(cache, names);
    Matrix<float> y(6, 4);
    network.forward(x, y, cache);
    return y;
  };
  network.set_active({"changes"});
  std::vector<Matrix<float>> possible{output({}), predict(base, x)};
  network.replace("changes", two);
  possible.push_back(output({}));
  const Matrix<float> staying = output(Names(4, "stays"));

  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  const auto read = [&] {
    auto active = network.make_cache(4), assigned = network.make_cache(4);
    Matrix<float> y(6, 4);
    while (!done) {
      network.forward(x, y, active);
      const auto same = [&](const Matrix<float>& each) { return test::same_bits(each, y); };
      if (std::none_of(possible.begin(), possible.end(), same)) ++wrong;
      network.assign(assigned, Names(4, "stays"));
      network.forward(x, y, assigned);
      if (!test::same_bits(y, staying)) ++wrong;
    }
  };
  std::thread first(read), second(read);
  for (int round = 0; round < 200; ++round) {
    network.replace("changes", round % 2 == 0 ? one : two);
    network.add("more", one);
    network.set_active(round % 3 == 0 ? Names{} : Names{"changes"});
    network.erase("more");
  }
  done = true;
  first.join();
  second.join();
  CHECK(wrong == 0);
}

TEST_CASE("a set merges and unmerges while others compute with it") {
  std::mt19937_64 generator{1};
  loraplus::LoraSet set(loraplus::SharedWeight<float>(test::random_matrix<float>(12, 10, 1)));
  set.add("a", {.rank = 2, .initialization = loraplus::Initialization::both_uniform}, generator);
  const auto x = test::random_matrix<float>(10, 4, 5);
  const Matrix<float> unmerged = predict(set, x);
  set.merge({"a"});
  const Matrix<float> merged = predict(set, x);
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0};
  std::thread reader([&] {
    auto cache = set.make_cache(4);
    Matrix<float> y(12, 4);
    while (!done) {
      set.forward(x, y, cache);
      if (!test::same_bits(y, merged) && !test::same_bits(y, unmerged)) ++wrong;
    }
  });
  for (int round = 0; round < 200; ++round) {
    set.unmerge();
    set.merge({"a"});
  }
  done = true;
  reader.join();
  CHECK(wrong == 0);
}

TEST_CASE("embeddings and convolutions compute while their adapters change") {
  std::mt19937_64 generator{1};
  const loraplus::SharedWeight<float> weight(test::random_matrix<float>(6, 12, 1));
  loraplus::LoraEmbeddingSet embeddings(weight);
  loraplus::LoraConvSet convs(
      weight,
      {.channels = 3, .height = {.size = 4, .kernel = 2}, .width = {.size = 3, .kernel = 2}});
  const std::vector<Index> tokens{3, 0, 11};
  const auto images = test::random_matrix<float>(convs.in_features(), 3, 5);
  const auto change = [&](auto& layer, auto& set, const auto& input) {
    const loraplus::LoraOptions options{.rank = 2,
                                        .initialization = loraplus::Initialization::both_uniform};
    layer.add("a", options, generator);
    layer.add("b", options, generator);
    const auto output = [&](auto& cache) {
      Matrix<float> y(layer.out_features(), 3);
      layer.forward(input, y, cache);
      return y;
    };
    auto cache = layer.make_cache(3);
    const Names names{"b", "__base__", "a"};
    const Matrix<float> one = output(cache);
    set.set_active({"b"});
    const Matrix<float> other = output(cache);
    layer.assign(cache, names);
    const Matrix<float> mixed = output(cache);
    std::atomic<bool> done{false};
    std::atomic<int> wrong{0};
    std::thread reader([&] {
      auto active = layer.make_cache(3), assigned = layer.make_cache(3);
      while (!done) {
        const Matrix<float> y = output(active);
        if (!test::same_bits(y, one) && !test::same_bits(y, other)) ++wrong;
        layer.assign(assigned, names);
        if (!test::same_bits(output(assigned), mixed)) ++wrong;
      }
    });
    for (int round = 0; round < 200; ++round) {
      set.set_active({round % 2 == 0 ? "a" : "b"});
      layer.add("more", options, generator);
      set.erase("more");
    }
    done = true;
    reader.join();
    CHECK(wrong == 0);
  };
  change(embeddings, embeddings, tokens);
  change(convs, convs.set(), images);
}
