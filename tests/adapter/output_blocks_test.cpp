#include <algorithm>
#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/adapter/output_blocks.hpp>
#include <loraplus/frozen/weight_view.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/optim/riemannian.hpp>
#include <loraplus/optim/sgd.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::LoraLinear;
using loraplus::LoraOptions;
using loraplus::LowRank;
using loraplus::Matrix;
using loraplus::OutputBlocks;
using loraplus::RowMajorMatrix;
using loraplus::Vector;
using loraplus::WeightView;

namespace {

using Groups = std::vector<bool>;

LoraLinear<loraplus::SharedWeight<double>> with_groups(const Groups& groups, bool bias = false) {
  std::mt19937_64 generator{1};
  const LoraOptions options{.rank = 2,
                            .alpha = 3,
                            .initialization = loraplus::Initialization::both_uniform,
                            .lora_bias = bias,
                            .enabled_groups = groups};
  return {loraplus::SharedWeight<double>(test::random_matrix<double>(6, 5, 1),
                                         test::random_vector<double>(6, 2)),
          options, generator};
}

}  // namespace

// r = 1, groups 1 and 3 of three, as loralib's MergedLinear computes it; worked out by hand.
TEST_CASE("the hand-worked example of MergedLinear") {
  const Matrix<double> w = Matrix<double>::Zero(6, 2);
  std::mt19937_64 generator{1};
  LoraLinear layer{
      WeightView{w}, {.rank = 1, .alpha = 1, .enabled_groups = {true, false, true}}, generator};
  CHECK(layer.rank() == 2);
  loraplus::Factors<double> factors{(RowMajorMatrix<double>(2, 2) << 1, 2, 3, 4).finished(),
                                    (Matrix<double>(4, 1) << 1, 2, 3, 4).finished()};
  layer.set_factors(factors);
  const Matrix<double> delta =
      (Matrix<double>(6, 2) << 1, 2, 2, 4, 0, 0, 0, 0, 9, 12, 12, 16).finished();
  CHECK(test::relative_distance(layer.merged_weight(), delta) < 1e-15);
  const Matrix<double> identity = Matrix<double>::Identity(2, 2);
  CHECK(test::relative_distance(predict(layer, identity), delta) < 1e-15);
  CHECK(layer.factors().factors().b == factors.b);
}

TEST_CASE("the gradients of an adapter in blocks of outputs, and of a bias of B") {
  for (const Groups& groups :
       {Groups{true}, Groups{true, true}, Groups{false, true, true}, Groups{true, false, true}}) {
    for (const bool bias : {false, true}) {
      if (bias && std::ranges::count(groups, false) > 0) continue;  // refused, see below
      for (const Index n : {1, 4}) {
        CAPTURE(groups.size(), bias, n);
        auto layer = with_groups(groups, bias);
        test::require_gradients(layer, n, 3);
        test::require_accumulation(layer, n, 3);
      }
    }
  }
}

TEST_CASE("one group of all outputs is the usual adapter, bit for bit") {
  const auto grouped = with_groups({true}), usual = with_groups({});
  const auto x = test::random_matrix<double>(5, 4, 3);
  CHECK(test::same_bits(predict(grouped, x), predict(usual, x)));
}

TEST_CASE("merged equals unmerged in blocks, and the outputs in no block are those of the weight") {
  const auto x = test::random_matrix<double>(5, 4, 3);
  for (auto layer : {with_groups({true, false, true}), with_groups({true, true, true}, true)}) {
    const Matrix<double> y = predict(layer, x);
    layer.merge();
    CHECK(test::relative_distance(predict(layer, x), y) < 1e-14);
  }
  const auto partly = with_groups({true, false, true});
  Matrix<double> base(6, 4);
  partly.weight().forward(x, base);
  CHECK((predict(partly, x).middleRows(2, 2) - base.middleRows(2, 2)).norm() == 0);
}

TEST_CASE("T23, K8: a bias of B is scaled, and merges even where the weight has none") {
  std::mt19937_64 generator{1};
  const auto w = test::random_matrix<double>(3, 4, 1);
  LoraLinear layer{WeightView{w}, {.rank = 2, .alpha = 6, .lora_bias = true}, generator};
  CHECK(layer.factors().bias().size() == 3);
  CHECK(layer.factors().bias().isZero(0));
  auto factors = layer.factors().factors();
  factors.bias << 1, 2, 3;
  layer.set_factors(factors);
  const Matrix<double> zero = Matrix<double>::Zero(4, 1);
  CHECK(test::relative_distance(predict(layer, zero), 3 * factors.bias) < 1e-15);
  CHECK(test::relative_distance(layer.merged_bias(), 3 * factors.bias) < 1e-15);
  layer.merge();  // where PEFT adds to the weight, and then finds no bias to add to
  CHECK(test::relative_distance(predict(layer, zero), 3 * factors.bias) < 1e-15);
  std::vector<std::string> names;
  layer.unmerge();
  layer.visit_parameters([&](const auto& p) { names.push_back(p.name.str()); });
  CHECK(names == std::vector<std::string>{"lora_A", "lora_B", "lora_B.bias"});
}

TEST_CASE("K7: a merge whose bias would not be finite is refused and changes nothing") {
  auto layer = with_groups({}, true);
  auto factors = layer.factors().factors();
  factors.bias(1) = std::numeric_limits<double>::infinity();
  layer.set_factors(factors);
  CHECK_THROWS_AS(layer.merge(), loraplus::NonFiniteError);
  CHECK_FALSE(layer.merged());
}

TEST_CASE("blocks are shown as pairs, so that rules for pairs see each by itself") {
  auto layer = with_groups({true, false, true});
  std::vector<std::string> names;
  layer.visit_parameters([&](const auto& p) { names.push_back(p.name.str()); });
  CHECK(names == std::vector<std::string>{"lora_A.0", "lora_B.0", "lora_A.1", "lora_B.1"});
  loraplus::Optimizer optimizer{loraplus::Riemannian<loraplus::Sgd>{{.learning_rate = 0.1}}, layer};
  const auto x = test::random_matrix<double>(5, 4, 3), dy = test::random_matrix<double>(6, 4, 4);
  auto cache = layer.make_cache(4);
  Matrix<double> y(6, 4);
  const Matrix<double> b = layer.factors().factors().b;
  layer.forward(x, y, cache);
  layer.backward(x, dy, cache);
  optimizer.step(layer);
  CHECK_FALSE(test::same_bits(layer.factors().factors().b, b));
}

TEST_CASE("T25: the groups of a convolution share the rank, which they must divide") {
  const auto blocks = OutputBlocks::grouped(6, 2, 8);
  CHECK(blocks.rank() == 8);
  CHECK(blocks.block_rank() == 4);
  CHECK(blocks.adapted_outputs() == 6);
  CHECK(OutputBlocks::grouped(6, 2, 2).block_rank() == 1);
  const auto message = [](Index out, Index groups, Index rank) {
    return test::message_of<loraplus::ArgumentError>(
        [&] { OutputBlocks::grouped(out, groups, rank); });
  };
  CHECK(message(6, 2, 1) == "OutputBlocks: 2 groups cannot share the rank 1");
  CHECK(test::contains(message(5, 2, 2), "outputs, of which there are 5"));
}

TEST_CASE("groups that are none, or do not divide the outputs, are refused") {
  CHECK_THROWS_AS(with_groups({false, false}), loraplus::ArgumentError);
  CHECK_THROWS_AS(with_groups({true, true, true, true}), loraplus::ArgumentError);
  CHECK_THROWS_AS(OutputBlocks::enabled(6, {}, 1), loraplus::ArgumentError);
}

TEST_CASE("what reaches all outputs is refused where not all groups are enabled") {
  const auto refusal = [](const Groups& groups) {
    return test::message_of<loraplus::ArgumentError>([&] { with_groups(groups, true); });
  };
  CHECK(test::contains(refusal({true, false, true}), "lora_bias reaches all outputs"));
  std::mt19937_64 generator{1};
  const loraplus::SharedWeight<double> weight(test::random_matrix<double>(6, 5, 1));
  const auto dora = [&](const Groups& groups) {
    LoraLinear{weight, {.rank = 2, .dora = true, .enabled_groups = groups}, generator};
  };
  CHECK(test::contains(test::message_of<loraplus::ArgumentError>([&] {
                         dora({true, false, true});
                       }),
                       "dora scales all outputs"));
  CHECK_NOTHROW(with_groups({true, true, true}, true));
  CHECK_NOTHROW(dora({true, true, true}));
}

TEST_CASE("factors of blocks of the wrong shape are refused and nothing is changed") {
  auto layer = with_groups({true, false, true});
  auto factors = layer.factors().factors();
  const Matrix<double> b = factors.b;
  factors.b.conservativeResize(6, 2);
  CHECK(test::contains(test::message_of<loraplus::ShapeError>([&] { layer.set_factors(factors); }),
                       "B must be 4 x 2"));
  CHECK(layer.factors().factors().b == b);
}
