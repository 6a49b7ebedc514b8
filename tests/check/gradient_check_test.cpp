#include <limits>
#include <loraplus/check/gradient_check.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"
#include "support/user_layer.hpp"

using loraplus::check_gradients;
using loraplus::compare_gradient;
using loraplus::Matrix;

namespace {

/// A layer whose backward pass is wrong in a way of choice.
class Wrong : public test::Scale<double> {
 public:
  enum class Fault { none, scaled_parameter, missing_parameter, wrong_input, no_input, nan };

  Wrong(Fault fault) : test::Scale<double>(3, 2.0), fault_(fault) {}

  void backward(Read x, Read dy, Cache& cache) {
    switch (fault_) {
      case Fault::scaled_parameter:
        return test::Scale<double>::backward(x, Matrix<double>(1.0001 * dy), cache);
      case Fault::missing_parameter:
        return;
      case Fault::nan:
        return test::Scale<double>::backward(
            x, Matrix<double>(dy * std::numeric_limits<double>::quiet_NaN()), cache);
      default:
        return test::Scale<double>::backward(x, dy, cache);
    }
  }
  void backward(Read x, Read dy, Written dx, Cache& cache) {
    backward(x, dy, cache);
    if (fault_ == Fault::no_input) return;
    dx = (fault_ == Fault::wrong_input ? 1.0 : 2.0) * dy;
  }

 private:
  Fault fault_;
};

std::vector<loraplus::GradientError> checked(Wrong::Fault fault) {
  Wrong layer(fault);
  return check_gradients(layer, test::random_matrix<double>(3, 4, 1),
                         test::random_matrix<double>(3, 4, 2));
}

}  // namespace

TEST_CASE("a right layer passes, the tensors are named, the input last") {
  const auto errors = checked(Wrong::Fault::none);
  REQUIRE(errors.size() == 2);
  CHECK(errors[0].tensor == "gain");
  CHECK(errors[1].tensor == "x");
  CHECK(worst(errors).relative < 1e-10);
}

TEST_CASE("each fault is seen, where it is and how large") {
  const auto scaled = checked(Wrong::Fault::scaled_parameter);
  CHECK(worst(scaled).tensor == "gain");
  CHECK(worst(scaled).relative == Approx(1e-4).epsilon(0.01));
  CHECK(worst(scaled).analytic == Approx(1.0001 * worst(scaled).numeric));

  const auto missing = checked(Wrong::Fault::missing_parameter);
  CHECK(worst(missing).tensor == "gain");
  CHECK(worst(missing).relative == Approx(1));
  CHECK(worst(missing).analytic == 0);

  const auto input = checked(Wrong::Fault::wrong_input);
  CHECK(worst(input).tensor == "x");
  CHECK(worst(input).relative == Approx(0.5));

  const auto no_input = checked(Wrong::Fault::no_input);
  CHECK(worst(no_input).tensor == "x");
  CHECK(std::isnan(worst(no_input).relative));

  const auto nan = checked(Wrong::Fault::nan);
  CHECK(worst(nan).tensor == "gain");
  CHECK(std::isnan(worst(nan).relative));
}

namespace {

/// A backward pass without dx that does nothing, in a layer that is right otherwise.
struct LazyBelow : test::Scale<double> {
  using test::Scale<double>::Scale;
  void backward(Read /*x*/, Read /*dy*/, Cache& /*cache*/) {}
  void backward(Read x, Read dy, Written dx, Cache& cache) {
    test::Scale<double>::backward(x, dy, dx, cache);
  }
};

}  // namespace

TEST_CASE("a layer whose two forms of backward differ is found") {
  LazyBelow layer(3, 2.0);
  const auto errors = check_gradients(layer, test::random_matrix<double>(3, 4, 1),
                                      test::random_matrix<double>(3, 4, 2));
  CHECK(worst(errors).tensor == "gain");
  CHECK(worst(errors).relative == Approx(0.5));
}

TEST_CASE("a check leaves the values bit for bit and the gradients at zero") {
  Wrong layer(Wrong::Fault::none);
  std::vector<double> before;
  layer.visit_parameters([&](auto p) {
    p.gradient.setConstant(5);
    before.assign(p.value.begin(), p.value.end());
  });
  const auto x = test::random_matrix<double>(3, 4, 1);
  const Matrix<double> x_before = x;
  check_gradients(layer, x, test::random_matrix<double>(3, 4, 2));
  layer.visit_parameters([&](const auto& p) {
    CHECK((p.gradient == 0).all());
    CHECK(std::equal(before.begin(), before.end(), p.value.begin()));
  });
  CHECK(test::same_bits(x, x_before));
}

TEST_CASE("differences are of fourth order: exact for a polynomial of degree four") {
  Eigen::ArrayXd v(1), analytic(1);
  v << 1.5;
  analytic << 4 * 1.5 * 1.5 * 1.5;
  const auto error = compare_gradient<double>(
      "v", Eigen::Map<Eigen::ArrayXd>(v.data(), 1), analytic,
      [&] { return v(0) * v(0) * v(0) * v(0); }, 0.1);
  CHECK(error.relative < 1e-13);
  CHECK(v(0) == 1.5);
}

TEST_CASE("a gradient of zero that is zero has no error") {
  Eigen::ArrayXd v = Eigen::ArrayXd::Ones(3), analytic = Eigen::ArrayXd::Zero(3);
  CHECK(compare_gradient<double>("v", Eigen::Map<Eigen::ArrayXd>(v.data(), 3), analytic, [] {
          return 1.0;
        }).relative == 0);
}
