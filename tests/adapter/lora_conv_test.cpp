#include <loraplus/adapter/lora_conv.hpp>
#include <loraplus/frozen/grouped_weight.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/frozen/weight_view.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"

using loraplus::ConvGeometry;
using loraplus::GroupedWeight;
using loraplus::Index;
using loraplus::LoraConv;
using loraplus::LoraOptions;
using loraplus::Matrix;
using loraplus::PaddingMode;
using loraplus::SharedWeight;

namespace {

/// Where an axis is read outside of its input, by a rule written down for each mode.
Index outside(Index at, Index size, PaddingMode mode) {
  if (at >= 0 && at < size) return at;
  if (mode == PaddingMode::replicate) return at < 0 ? 0 : size - 1;
  if (mode == PaddingMode::circular) return at < 0 ? at + size : at - size;
  if (mode == PaddingMode::reflect) return at < 0 ? -at : 2 * size - 2 - at;
  return -1;
}

/// A convolution by its definition: w is out x (channels / groups * kernels).
Matrix<double> convolved(const ConvGeometry& g, const Matrix<double>& w,
                         const loraplus::Vector<double>& b, const Matrix<double>& x) {
  const Index rows = g.height.positions(), cols = g.width.positions(), out = w.rows();
  const Index channels = g.channels / g.groups;
  Matrix<double> y(out * rows * cols, x.cols());
  for (Index n = 0; n < x.cols(); ++n) {
    for (Index o = 0; o < out; ++o) {
      for (Index r = 0; r < rows; ++r) {
        for (Index c = 0; c < cols; ++c) {
          double sum = b.size() == 0 ? 0 : b(o);
          for (Index k = 0; k < channels * g.height.kernel * g.width.kernel; ++k) {
            const Index kc = k % g.width.kernel, kr = k / g.width.kernel % g.height.kernel;
            const Index channel =
                k / g.width.kernel / g.height.kernel + o / (out / g.groups) * channels;
            const Index row =
                outside(r * g.height.stride + kr * g.height.dilation - g.height.padding,
                        g.height.size, g.padding_mode);
            const Index col = outside(c * g.width.stride + kc * g.width.dilation - g.width.padding,
                                      g.width.size, g.padding_mode);
            if (row < 0 || col < 0) continue;
            sum += w(o, k) * x((channel * g.height.size + row) * g.width.size + col, n);
          }
          y((o * rows + r) * cols + c, n) = sum;
        }
      }
    }
  }
  return y;
}

/// y += s B (A x), two convolutions by their definitions: A over all channels, B in groups.
Matrix<double> adapted(const ConvGeometry& g, const Matrix<double>& base,
                       const loraplus::Factors<double>& f, const Matrix<double>& x) {
  ConvGeometry whole = g;
  whole.groups = 1;
  const Matrix<double> h = convolved(whole, f.a, {}, x);
  ConvGeometry pointwise;
  pointwise.channels = f.a.rows();
  pointwise.height.size = g.height.positions();
  pointwise.width.size = g.width.positions();
  pointwise.groups = g.groups;
  return base + f.scaling * convolved(pointwise, f.b, {}, h);
}

std::vector<ConvGeometry> geometries() {
  return {
      {.channels = 1, .width = {.size = 5}},
      {.channels = 2, .width = {.size = 7, .kernel = 3, .padding = 1}},
      {.channels = 2, .width = {.size = 9, .kernel = 3, .stride = 2, .dilation = 2}},
      {.channels = 2, .height = {.size = 4, .kernel = 3}, .width = {.size = 5, .kernel = 2}},
      {.channels = 3,
       .height = {.size = 5, .kernel = 3, .stride = 2, .padding = 2, .dilation = 2},
       .width = {.size = 4, .kernel = 2, .padding = 1}},
      {.channels = 4,
       .height = {.size = 3, .kernel = 2, .padding = 1},
       .width = {.size = 4, .kernel = 3, .padding = 1},
       .groups = 2},
  };
}

constexpr Index outputs = 4;

/// The weight of a convolution, groups kept apart, and as PyTorch has it: out x (patch / groups).
struct ConvWeight {
  Matrix<double> w;
  loraplus::Vector<double> b = test::random_vector<double>(outputs, 2);

  explicit ConvWeight(const ConvGeometry& g)
      : w(test::random_matrix<double>(outputs, g.patch() / g.groups, 1)) {}

  GroupedWeight<SharedWeight<double>> grouped(Index groups) const {
    std::vector<SharedWeight<double>> parts;
    const Index size = outputs / groups;
    for (Index group = 0; group < groups; ++group) {
      parts.emplace_back(Matrix<double>(w.middleRows(group * size, size)),
                         loraplus::Vector<double>(b.segment(group * size, size)));
    }
    return GroupedWeight<SharedWeight<double>>(std::move(parts));
  }
};

LoraConv<GroupedWeight<SharedWeight<double>>> trained_conv(const ConvGeometry& g,
                                                           const LoraOptions& options) {
  std::mt19937_64 generator{3};
  LoraConv layer{ConvWeight(g).grouped(g.groups), g, options, generator};
  auto factors = layer.layer().factors().factors();
  factors.a = test::random_matrix<double>(factors.a.rows(), factors.a.cols(), 4);
  factors.b = test::random_matrix<double>(factors.b.rows(), factors.b.cols(), 5);
  layer.layer().set_factors(factors);
  if (options.dora) layer.layer().set_magnitude(test::random_vector<double>(outputs, 6));
  return layer;
}

}  // namespace

TEST_CASE(
    "K11: a convolution with an adapter is two convolutions, alike in every part of the geometry") {
  for (ConvGeometry g : geometries()) {
    for (const auto mode : {PaddingMode::zeros, PaddingMode::reflect, PaddingMode::replicate,
                            PaddingMode::circular}) {
      g.padding_mode = mode;
      if (mode == PaddingMode::reflect && g.height.padding >= g.height.size) continue;
      CAPTURE(g.channels, g.groups, g.height.kernel, g.width.kernel, mode);
      auto layer = trained_conv(g, {.rank = 2, .alpha = 5});
      const auto x = test::random_matrix<double>(layer.in_features(), 3, 7);
      const ConvWeight weight(g);
      const Matrix<double> base = convolved(g, weight.w, weight.b, x);
      CHECK(test::relative_distance(
                predict(layer, x), adapted(g, base, layer.layer().factors().factors(), x)) < 1e-13);
      layer.layer().set_enabled(false);
      CHECK(test::relative_distance(predict(layer, x), base) < 1e-13);
    }
  }
}

TEST_CASE("the gradients of a convolution in every geometry, with dropout and biases") {
  for (const ConvGeometry& g : geometries()) {
    for (const double dropout : {0.0, 0.4}) {
      for (const Index n : {1, 3}) {
        CAPTURE(g.channels, g.groups, g.width.kernel, dropout, n);
        auto layer = trained_conv(g, {.rank = 2,
                                      .alpha = 5,
                                      .dropout = dropout,
                                      .bias = loraplus::BiasMode::lora_only,
                                      .lora_bias = true});
        test::require_gradients(layer, n, 6, std::mt19937_64{7});
        test::require_accumulation(layer, n, 6, std::mt19937_64{7});
      }
    }
  }
}

TEST_CASE(
    "K16: DoRA of a convolution in groups scales each output by the norm of its own weights") {
  for (const ConvGeometry& g : geometries()) {
    auto layer = trained_conv(g, {.rank = 2, .alpha = 5, .dora = true});
    const auto x = test::random_matrix<double>(layer.in_features(), 2, 7);
    const ConvWeight weight(g);
    // The weights of an output: those of the frozen convolution in the channels of its group, and
    // those of the adapter in all channels.
    const auto f = layer.layer().factors().factors();
    const Index share = g.patch() / g.groups, size = outputs / g.groups;
    Matrix<double> direction(outputs, g.patch());
    for (Index o = 0; o < outputs; ++o) {
      const Index group = o / size, r = f.b.cols();
      direction.row(o) = f.scaling * f.b.row(o) * f.a.middleRows(group * r, r);
      direction.row(o).segment(group * share, share) += weight.w.row(o);
    }
    const loraplus::Vector<double> scale =
        layer.layer().magnitude()->values().cwiseQuotient(direction.rowwise().norm());
    const Matrix<double> v = adapted(g, convolved(g, weight.w, {}, x), f, x);
    Matrix<double> expected(v.rows(), v.cols());
    for (Index i = 0; i < v.rows(); ++i) {
      const Index o = i / g.positions();
      expected.row(i) = (scale(o) * v.row(i)).array() + weight.b(o);
    }
    CHECK(test::relative_distance(predict(layer, x), expected) < 1e-13);
    layer.layer().merge();
    CHECK(test::relative_distance(predict(layer, x), expected) < 1e-13);
    layer.layer().unmerge();
  }
}

TEST_CASE("dropout takes an input of the image for all positions that see it") {
  const ConvGeometry g{.channels = 1, .width = {.size = 6, .kernel = 3, .padding = 1}};
  auto layer = trained_conv(g, {.rank = 2, .dropout = 0.5});
  const auto x = test::random_matrix<double>(6, 3, 7);
  auto cache = layer.make_cache(3);
  Matrix<double> y(layer.out_features(), 3), mask(6, 3);
  std::mt19937_64 generator{9};
  layer.forward(x, y, cache, generator);
  generator.seed(9);
  loraplus::detail::draw_dropout_mask(0.5, mask, generator);
  const ConvWeight weight(g);
  const Matrix<double> zero = Matrix<double>::Zero(y.rows(), 3);
  const Matrix<double> expected =
      convolved(g, weight.w, weight.b, x) +
      adapted(g, zero, layer.layer().factors().factors(), mask.cwiseProduct(x));
  CHECK(test::relative_distance(y, expected) < 1e-14);
}

TEST_CASE("the gradients of a convolution with every padding") {
  ConvGeometry g = geometries()[4];
  for (const auto mode : {PaddingMode::reflect, PaddingMode::replicate, PaddingMode::circular}) {
    g.padding_mode = mode;
    auto layer = trained_conv(g, {.rank = 2, .dropout = 0.4});
    test::require_gradients(layer, 2, 6, std::mt19937_64{7});
  }
}

TEST_CASE("a merged convolution equals the unmerged, groups included; a packed weight serves too") {
  for (const ConvGeometry& g : geometries()) {
    auto layer = trained_conv(g, {.rank = 2, .alpha = 5});
    const auto x = test::random_matrix<double>(layer.in_features(), 3, 7);
    const Matrix<double> unmerged = predict(layer, x);
    layer.layer().merge();
    CHECK(test::relative_distance(predict(layer, x), unmerged) < 1e-13);
    layer.layer().unmerge();
    CHECK(test::same_bits(predict(layer, x), unmerged));
    if (g.groups > 1) continue;
    const ConvWeight weight(g);
    const LoraConv packed{loraplus::PackedWeight<double>(weight.w, weight.b), g,
                          layer.layer().factors().factors()};
    CHECK(test::relative_distance(predict(packed, x), unmerged) < 1e-13);
  }
}

TEST_CASE("O11: LoRA+ trains the magnitude of a convolution with A") {
  auto layer = trained_conv(geometries()[3], {.rank = 2, .dora = true});
  const loraplus::LoraPlus optimizer{loraplus::AdamW{.learning_rate = 1e-3}, {.ratio = 16}, layer};
  CHECK(optimizer.group_of("lora_magnitude_vector").name == "A");
}

TEST_CASE("a convolution with factors from elsewhere computes as the one they are of") {
  ConvGeometry g{.channels = 4,
                 .height = {.size = 4, .kernel = 2},
                 .width = {.size = 5, .kernel = 3, .padding = 1}};
  const SharedWeight<double> weight(test::random_matrix<double>(6, g.patch(), 1));
  std::mt19937_64 generator{1};
  for (const Index groups : {1, 2}) {
    g.groups = groups;
    const LoraConv layer{weight,
                         g,
                         {.rank = 4,
                          .alpha = 3,
                          .initialization = loraplus::Initialization::both_uniform,
                          .dora = true},
                         generator};
    const LoraConv copy{weight, g, layer.layer().factors().factors(), {.dora = true}};
    const auto x = test::random_matrix<double>(g.inputs(), 3, 4);
    CHECK(copy.rank() == 4);
    CHECK(test::same_bits(predict(copy, x), predict(layer, x)));
  }
}

TEST_CASE("the cache of another convolution is refused, with dropout and without") {
  const ConvGeometry g{
      .channels = 2, .height = {.size = 4, .kernel = 2}, .width = {.size = 5, .kernel = 3}};
  ConvGeometry larger = g;
  larger.channels = 3;
  const SharedWeight<double> weight(test::random_matrix<double>(3, g.patch(), 1));
  const SharedWeight<double> other(test::random_matrix<double>(3, larger.patch(), 1));
  std::mt19937_64 generator{1};
  const LoraConv plain{weight, g, {.rank = 2}, generator};
  const LoraConv dropping{weight, g, {.rank = 2, .dropout = 0.5}, generator};
  auto foreign = LoraConv{other, larger, {.rank = 2}, generator}.make_cache(2);
  const auto x = test::random_matrix<double>(g.inputs(), 2, 4);
  Matrix<double> y(plain.out_features(), 2);
  CHECK_THROWS_AS(plain.forward(x, y, foreign), loraplus::StateError);
  auto cache = plain.make_cache(2);
  CHECK_THROWS_AS(dropping.forward(x, y, cache, generator), loraplus::StateError);
}

TEST_CASE("T25: groups must divide the rank, and a geometry that cannot be is refused") {
  std::mt19937_64 generator{1};
  const ConvGeometry g = geometries()[5];
  const auto weight = ConvWeight(g).grouped(2);
  CHECK_NOTHROW(LoraConv{weight, g, {.rank = 8}, generator});
  CHECK(test::contains(test::message_of<loraplus::ArgumentError>([&] {
                         LoraConv{weight, g, {.rank = 1}, generator};
                       }),
                       "2 groups cannot share the rank 1"));
  const auto message = [&](const ConvGeometry& wrong) {
    return test::message_of<loraplus::ArgumentError>([&] {
      LoraConv{weight, wrong, {.rank = 2}, generator};
    });
  };
  ConvGeometry wrong = g;
  wrong.width.kernel = 9;
  CHECK(test::contains(message(wrong), "width: the kernel must fit"));
  wrong = g;
  wrong.height.stride = 0;
  CHECK(test::contains(message(wrong), "height: stride"));
  wrong = g;
  wrong.channels = 3;
  CHECK(test::contains(message(wrong), "groups must divide the channels"));
  wrong = g;
  wrong.padding_mode = PaddingMode::reflect;
  wrong.width.padding = 4;
  CHECK(test::contains(message(wrong), "padding is more"));
  CHECK_THROWS_AS((LoraConv{weight, g, {.rank = 2, .enabled_groups = {true, false}}, generator}),
                  loraplus::ArgumentError);
  wrong = g;
  wrong.width.kernel = 2;
  CHECK(test::contains(message(wrong), "must take 16 inputs"));
}
