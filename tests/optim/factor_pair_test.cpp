#include <loraplus/adapter/lora_linear.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/factor_pair.hpp>
#include <loraplus/optim/lora_fa.hpp>
#include <loraplus/optim/optimizer.hpp>
#include <loraplus/optim/riemannian.hpp>
#include <loraplus/optim/sgd.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::ArgumentError;
using loraplus::FactorPair;
using loraplus::GramSolver;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::NonFiniteError;
using loraplus::Optimizer;
using loraplus::Parameter;
using loraplus::Riemannian;
using loraplus::Role;
using loraplus::RowMajorMatrix;
using loraplus::Sgd;

namespace {

/// Factors in whatever order and storage a user might show them.
struct Factors {
  using Scalar = double;

  RowMajorMatrix<double> a = test::random_matrix<double>(2, 5, 1), a_gradient = 0 * a;
  Matrix<double> b = test::random_matrix<double>(4, 2, 2), b_gradient = 0 * b;
  Matrix<double> other = test::random_matrix<double>(3, 2, 3), other_gradient = 0 * other;
  std::string order = "ab";

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    for (const char which : order) {
      if (which == 'a') visit(Parameter<double>("x.lora_A", Role::lora_a, a, a_gradient));
      if (which == 'b') visit(Parameter<double>("x.lora_B", Role::lora_b, b, b_gradient));
      if (which == 'w') visit(Parameter<double>("w", Role::weight, other, other_gradient));
      if (which == 'A') visit(Parameter<double>("y.lora_A", Role::lora_a, other, other_gradient));
      if (which == 'B') visit(Parameter<double>("y.lora_B", Role::lora_b, a, a_gradient));
      if (which == 'e') visit(Parameter<double>("e.lora_A", Role::embedding, a, a_gradient));
      if (which == 'f') visit(Parameter<double>("e.lora_B", Role::embedding, b, b_gradient));
    }
  }
};

template <typename Rule = Riemannian<Sgd>>
std::string refusal(const std::string& order, const Rule& rule = {}) {
  Factors model;
  model.order = order;
  return test::message_of<ArgumentError>([&] { Optimizer(rule, model); });
}

}  // namespace

TEMPLATE_TEST_CASE("a Gram solver solves with F F' + d I, whatever the sizes", "", float, double) {
  using Scalar = TestType;
  GramSolver solver(70);
  for (const Index rank : {1, 2, 8, 40, 70}) {  // 40 columns are fewer than 70 rows
    for (const Index n : {1, 63, 64, 65, 200}) {
      const RowMajorMatrix<Scalar> f = test::random_matrix<Scalar>(rank, 40, 1);
      const auto before = test::random_matrix<Scalar>(rank, n, 2);
      RowMajorMatrix<Scalar> x = before;
      REQUIRE(solver.factorize(f, 0.1));
      solver.solve(3, x);
      const Matrix<double> wide = f.template cast<double>();
      const Matrix<double> gram =
          wide * wide.transpose() + 0.1 * Matrix<double>::Identity(rank, rank);
      const Matrix<double> back = gram * x.template cast<double>() / 3;
      CAPTURE(rank, n);
      const double bound = sizeof(Scalar) == 4 ? 2e-4 : 1e-12;
      CHECK(test::relative_distance(back, before.template cast<double>()) < bound);
    }
  }
}

TEST_CASE("a Gram solver says when there is nothing to solve with") {
  GramSolver solver(2);
  RowMajorMatrix<double> f = test::random_matrix<double>(2, 3, 1);
  CHECK(solver.factorize(f, 1e-8));
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), 1e200}) {
    f(1, 2) = bad;
    CHECK_FALSE(solver.factorize(f, 1e-8));
  }
  CHECK_FALSE(solver.factorize(RowMajorMatrix<double>(RowMajorMatrix<double>::Zero(2, 3)), 0));
}

TEST_CASE("a rule for pairs takes any model that shows each A before its B") {
  for (const char* order : {"ab", "abw", "wab"}) {
    CAPTURE(order);
    Factors model;
    model.order = order;
    Optimizer optimizer(Riemannian{Sgd{}}, model);
    model.b_gradient.setOnes();
    CHECK(optimizer.step(model));
  }
}

TEST_CASE("a rule for pairs refuses a model that shows none, or others than it reads") {
  CHECK(refusal("").find("the model has none") != std::string::npos);
  CHECK(refusal("w").find("the model has none") != std::string::npos);
  CHECK(refusal("ba").find("'x.lora_B' must follow an A of its rank") != std::string::npos);
  CHECK(refusal("aab").find("'x.lora_A' follows another A") != std::string::npos);
  CHECK(refusal("a").find("no B") != std::string::npos);
  CHECK(refusal("awb").find("'w' stands between") != std::string::npos);
  CHECK(refusal("A").find("'y.lora_A' must be row-major") != std::string::npos);
  CHECK(refusal("aB").find("'y.lora_B' must follow an A of its rank") != std::string::npos);
}

TEST_CASE("the factors of an embedding are a pair by their order, for a rule that sees them") {
  using loraplus::LoraFa;
  const LoraFa<Sgd> rule{Sgd{.learning_rate = 0.1}};
  for (const char* order : {"ef", "abef", "efab", "wefw"}) {
    CAPTURE(order);
    Factors model;
    model.order = order;
    Optimizer optimizer(rule, model);
    CHECK(optimizer.step(model));
  }
  CHECK(refusal("e", rule).find("no B") != std::string::npos);
  CHECK(refusal("fe", rule).find("'e.lora_B' must be row-major") != std::string::npos);
  CHECK(refusal("ewf", rule).find("'w' stands between") != std::string::npos);
  CHECK(refusal("eaf", rule).find("'x.lora_A' follows another A") != std::string::npos);
  CHECK(refusal("ef").find("the model has none") != std::string::npos);  // Riemannian does not
}

TEST_CASE("a factor that is not finite is named and changes nothing") {
  Factors model;
  Optimizer optimizer(Riemannian{Sgd{}}, model);
  model.b_gradient.setOnes();
  model.a(0, 0) = std::numeric_limits<double>::quiet_NaN();
  const Matrix<double> b = model.b;
  const auto message = test::message_of<NonFiniteError>([&] { optimizer.step(model); });
  CHECK(message.find("'x.lora_B'") != std::string::npos);
  CHECK(test::same_bits(model.b, b));
  CHECK(optimizer.steps() == 0);
}

TEST_CASE("the rules for pairs say so, and what they leave as it is") {
  using loraplus::LoraFa;
  STATIC_REQUIRE(loraplus::PairRule<Riemannian<Sgd>>);
  STATIC_REQUIRE(loraplus::PairRule<LoraFa<loraplus::AdamW>>);
  STATIC_REQUIRE_FALSE(loraplus::PairRule<Sgd>);
  using loraplus::FactorKind;
  STATIC_REQUIRE(loraplus::detail::freezes<LoraFa<Sgd>>(FactorKind::a));
  STATIC_REQUIRE_FALSE(loraplus::detail::freezes<LoraFa<Sgd>>(FactorKind::b));
  STATIC_REQUIRE_FALSE(loraplus::detail::freezes<LoraFa<Sgd>>(FactorKind::none));
  STATIC_REQUIRE_FALSE(loraplus::detail::freezes<Riemannian<Sgd>>(FactorKind::a));
  STATIC_REQUIRE(loraplus::detail::pairs_embeddings<LoraFa<Sgd>>());
  STATIC_REQUIRE_FALSE(loraplus::detail::pairs_embeddings<Riemannian<Sgd>>());
}
