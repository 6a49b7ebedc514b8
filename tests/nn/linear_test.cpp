#include <loraplus/nn/linear.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/gradients.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Linear;
using loraplus::Matrix;
using loraplus::Vector;

TEST_CASE("the gradients of a dense layer, with and without a bias") {
  for (const auto& [in, out] : {std::pair<Index, Index>{7, 5}, {1, 1}, {5, 1}, {1, 5}, {20, 17}}) {
    for (const Index n : {1, 2, 9}) {
      for (const bool bias : {true, false}) {
        CAPTURE(in, out, bias);
        Linear<double> layer(test::random_matrix<double>(out, in, 1),
                             bias ? test::random_vector<double>(out, 2) : Vector<double>());
        test::require_gradients(layer, n, 3);
        test::require_accumulation(layer, n, 3);
      }
    }
  }
}

TEST_CASE("a dense layer starts as PyTorch's does: uniform within 1/sqrt(in)") {
  std::mt19937_64 generator{1};
  const Linear<double> layer(300, 400, generator);
  const double bound = 1 / 20.0;
  CHECK(layer.weight().cwiseAbs().maxCoeff() <= bound);
  CHECK(layer.weight().cwiseAbs().maxCoeff() > 0.999 * bound);
  CHECK(layer.bias().cwiseAbs().maxCoeff() <= bound);
  CHECK(layer.bias().cwiseAbs().maxCoeff() > 0.9 * bound);
  CHECK(std::abs(layer.weight().mean()) < 5 * bound / std::sqrt(3.0 * 120000));
}

TEST_CASE("a dense layer refuses a bias of another size and wrong batches") {
  CHECK(test::message_of<loraplus::ShapeError>([] {
          Linear<float>(Matrix<float>(4, 3), Vector<float>(5));
        }) == "Linear: b must be 4 x 1, found 5 x 1");
  Linear<float> layer(Matrix<float>::Ones(4, 3));
  auto cache = layer.make_cache(2);
  Matrix<float> x = Matrix<float>::Ones(3, 2), y(4, 2), dx(3, 2);
  CHECK_THROWS_AS(layer.forward(y, x, cache), loraplus::ShapeError);
  CHECK_THROWS_AS(layer.forward(x, dx, cache), loraplus::ShapeError);
  CHECK_THROWS_AS(layer.backward(x, dx, cache), loraplus::ShapeError);
  CHECK_THROWS_AS(layer.backward(x, y, y, cache), loraplus::ShapeError);
}

TEST_CASE("an empty batch leaves the gradients of a dense layer") {
  Linear<float> layer(Matrix<float>::Ones(4, 3), Vector<float>::Ones(4));
  auto cache = layer.make_cache(2);
  Matrix<float> x(3, 0), y(4, 0), dx(3, 0);
  layer.forward(x, y, cache);
  layer.backward(x, y, dx, cache);
  layer.visit_parameters([](const auto& p) { CHECK((p.gradient == 0).all()); });
}

TEST_CASE("the parameters of a dense layer are weight and bias") {
  std::mt19937_64 generator{1};
  Linear<float> layer(4, 3, generator);
  std::vector<loraplus::Role> roles;
  layer.visit_parameters([&](const auto& p) { roles.push_back(p.role); });
  CHECK(roles == std::vector<loraplus::Role>{loraplus::Role::weight, loraplus::Role::bias});
  CHECK(loraplus::parameter_count(layer) == 16);
}
