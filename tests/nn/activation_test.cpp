#include <limits>
#include <loraplus/nn/activation.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::Activation;
using loraplus::Index;
using loraplus::Matrix;

namespace {

constexpr Activation all[] = {Activation::identity,  Activation::relu, Activation::gelu,
                              Activation::gelu_tanh, Activation::silu, Activation::tanh};

template <typename Scalar>
Scalar value(Activation activation, Scalar x) {
  Matrix<Scalar> in(1, 1), out(1, 1);
  in << x;
  loraplus::activate<Scalar>(activation, in, out);
  return out(0, 0);
}

template <typename Scalar>
Scalar derivative(Activation activation, Scalar x) {
  Matrix<Scalar> in(1, 1), out(1, 1), one(1, 1), dx(1, 1);
  in << x;
  one << Scalar(1);
  loraplus::activate<Scalar>(activation, in, out);
  loraplus::activate_backward<Scalar>(activation, in, out, one, dx);
  return dx(0, 0);
}

struct Case {
  Activation activation;
  double x, value, derivative;
};

// From 30-digit arithmetic.
const Case cases[] = {
    {Activation::relu, -3.0, 0.0, 0.0},
    {Activation::relu, -0.5, 0.0, 0.0},
    {Activation::relu, 0.25, 0.25, 1.0},
    {Activation::relu, 2.0, 2.0, 1.0},
    {Activation::relu, 6.0, 6.0, 1.0},
    {Activation::gelu, -3.0, -0.00404969409489028358, -0.011945647204183927},
    {Activation::gelu, -0.5, -0.154268769362993448, 0.132504875343837157},
    {Activation::gelu, 0.0, 0.0, 0.5},
    {Activation::gelu, 0.25, 0.149676581420730931, 0.695373354883636026},
    {Activation::gelu, 2.0, 1.95449973610364159, 1.0852318010781969},
    {Activation::gelu, 6.0, 5.99999999408047413, 1.00000003546870945},
    {Activation::gelu_tanh, -3.0, -0.00363739208177301884, -0.0115841666309697262},
    {Activation::gelu_tanh, -0.5, -0.154285990174856078, 0.132630096465357688},
    {Activation::gelu_tanh, 0.0, 0.0, 0.5},
    {Activation::gelu_tanh, 0.25, 0.149675350701685, 0.695354095151060429},
    {Activation::gelu_tanh, 2.0, 1.95459769408777502, 1.08609925662361838},
    {Activation::gelu_tanh, 6.0, 5.99999999991560353, 1.00000000077099739},
    {Activation::silu, -3.0, -0.142277619532700343, -0.0881041060151696171},
    {Activation::silu, -0.5, -0.188770334399072718, 0.260038812697348191},
    {Activation::silu, 0.0, 0.0, 0.5},
    {Activation::silu, 0.25, 0.140544125221449526, 0.623710021570197691},
    {Activation::silu, 2.0, 1.76159415595576489, 1.09078424878489548},
    {Activation::silu, 6.0, 5.98516426106019135, 1.01232643259152551},
    {Activation::tanh, -3.0, -0.995054753686730451, 0.00986603716544019127},
    {Activation::tanh, -0.5, -0.462117157260009759, 0.78644773296592741},
    {Activation::tanh, 0.0, 0.0, 1.0},
    {Activation::tanh, 0.25, 0.244918662403709129, 0.940014848806377956},
    {Activation::tanh, 2.0, 0.964027580075816884, 0.0706508248531644657},
    {Activation::tanh, 6.0, 0.999987711650795571, 0.0000245765474053327013},
};

}  // namespace

TEMPLATE_TEST_CASE("values and derivatives agree with 30-digit arithmetic", "", float, double) {
  const double tolerance = std::is_same_v<TestType, float> ? 2e-6 : 1e-14;
  for (const Case& c : cases) {
    CAPTURE(static_cast<int>(c.activation), c.x);
    const auto x = static_cast<TestType>(c.x);
    CHECK(std::abs(value(c.activation, x) - c.value) <= tolerance * std::max(1.0, std::abs(c.x)));
    CHECK(std::abs(derivative(c.activation, x) - c.derivative) <= tolerance * 10);
  }
}

TEST_CASE("every derivative equals the difference of values") {
  for (const Activation activation : all) {
    for (double x = -7; x <= 7; x += 0.37) {
      CAPTURE(static_cast<int>(activation), x);
      const double h = 1e-4;
      const double numeric = (8 * (value(activation, x + h) - value(activation, x - h)) -
                              (value(activation, x + 2 * h) - value(activation, x - 2 * h))) /
                             (12 * h);
      CHECK(std::abs(derivative(activation, x) - numeric) <=
            1e-7 * std::max(1.0, std::abs(numeric)));
    }
  }
}

TEST_CASE("large inputs saturate without overflow, NaN passes through") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Activation activation : all) {
    CAPTURE(static_cast<int>(activation));
    CHECK(std::isfinite(value(activation, 1e4)));
    CHECK(std::isfinite(value(activation, -1e4)));
    CHECK(std::isfinite(derivative(activation, 1e4)));
    CHECK(std::isfinite(derivative(activation, -1e4)));
    CHECK(std::isnan(value(activation, nan)));
    CHECK(std::isnan(value(activation, std::numeric_limits<float>::quiet_NaN())));
    if (activation != Activation::identity) {
      CHECK(std::isnan(derivative(activation, nan)));
    }
  }
}

TEMPLATE_TEST_CASE("a batch of any size is done as its coefficients are, in and out of place", "",
                   float, double) {
  using Scalar = TestType;
  for (const Activation activation : all) {
    for (const Index rows : {1, 3, 16, 33}) {
      for (const Index n : {0, 1, 5}) {
        CAPTURE(static_cast<int>(activation), rows, n);
        const auto x = test::random_matrix<Scalar>(rows, n, 1);
        const auto dy = test::random_matrix<Scalar>(rows, n, 2);
        Matrix<Scalar> y(rows, n), dx(rows, n);
        loraplus::activate<Scalar>(activation, x, y);
        loraplus::activate_backward<Scalar>(activation, x, y, dy, dx);
        for (Index i = 0; i < x.size(); ++i) {
          CHECK(std::abs(y(i) - value(activation, x(i))) < 1e-6);
          CHECK(std::abs(dx(i) - dy(i) * derivative(activation, x(i))) < 1e-5);
        }
        Matrix<Scalar> in_place = x, gradient = dy;
        loraplus::activate<Scalar>(activation, in_place, in_place);
        CHECK(test::same_bits(in_place, y));
        loraplus::activate_backward<Scalar>(
            activation, loraplus::derivative_needs_input(activation) ? x : in_place, in_place,
            gradient, gradient);
        CHECK(test::same_bits(gradient, dx));
      }
    }
  }
}

TEST_CASE("an activation refuses matrices of different shapes") {
  const Matrix<float> x(3, 2);
  Matrix<float> y(3, 1);
  CHECK_THROWS_AS(loraplus::activate<float>(Activation::relu, x, y), loraplus::ShapeError);
  CHECK_THROWS_AS(loraplus::activate_backward<float>(Activation::relu, x, x, y, y),
                  loraplus::ShapeError);
}
