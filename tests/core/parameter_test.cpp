#include <loraplus/core/parameter.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::Index;
using loraplus::Matrix;
using loraplus::Parameter;
using loraplus::Role;

namespace {

struct Leaf {
  using Scalar = double;
  loraplus::RowMajorMatrix<double> weight = test::random<loraplus::RowMajorMatrix<double>>(2, 3, 1);
  loraplus::RowMajorMatrix<double> weight_gradient = loraplus::RowMajorMatrix<double>::Ones(2, 3);
  loraplus::Vector<double> bias = loraplus::Vector<double>::Zero(2);
  loraplus::Vector<double> bias_gradient = loraplus::Vector<double>::Ones(2);

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(Parameter<double>("weight", Role::weight, weight, weight_gradient));
    visit(Parameter<double>("bias", Role::bias, bias, bias_gradient));
  }
};

struct Tree {
  using Scalar = double;
  Leaf first, second;

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    loraplus::visit_part("first", first, visit);
    loraplus::visit_part("second", second, visit);
  }
};

struct Forest {
  using Scalar = double;
  Tree tree;

  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    loraplus::visit_part("tree", tree, visit);
  }
};

struct Stone {};

static_assert(loraplus::HasParameters<Leaf>);
static_assert(loraplus::HasParameters<Forest>);
static_assert(!loraplus::HasParameters<Stone>);

}  // namespace

TEST_CASE("parameters are visited in order, with the names of all parts before theirs") {
  Forest forest;
  std::vector<std::string> names;
  forest.visit_parameters([&](const Parameter<double>& p) { names.push_back(p.name.str()); });
  CHECK(names == std::vector<std::string>{"tree.first.weight", "tree.first.bias",
                                          "tree.second.weight", "tree.second.bias"});
}

TEST_CASE("a parameter tells shape, order, role and sees the matrix in place") {
  Leaf leaf;
  std::vector<Parameter<double>> parameters;
  leaf.visit_parameters([&](const Parameter<double>& p) { parameters.push_back(p); });
  REQUIRE(parameters.size() == 2);
  CHECK(parameters[0].role == Role::weight);
  CHECK(parameters[0].rows == 2);
  CHECK(parameters[0].cols == 3);
  CHECK(parameters[0].is_row_major);
  CHECK_FALSE(parameters[0].is_vector);
  CHECK(parameters[0].value.data() == leaf.weight.data());
  CHECK(parameters[0].gradient.data() == leaf.weight_gradient.data());
  CHECK(parameters[1].is_vector);
  CHECK(parameters[1].size() == 2);
}

TEST_CASE("counting and zeroing reach every parameter") {
  Forest forest;
  CHECK(loraplus::parameter_count(forest) == 16);
  loraplus::zero_gradients(forest);
  CHECK(forest.tree.first.weight_gradient.isZero(0));
  CHECK(forest.tree.second.bias_gradient.isZero(0));
}

TEST_CASE("every role has a name of its own") {
  const Role roles[] = {Role::weight, Role::bias,      Role::norm,     Role::lora_a,
                        Role::lora_b, Role::magnitude, Role::embedding};
  std::vector<std::string> names;
  for (const Role role : roles) {
    names.emplace_back(loraplus::to_string(role));
  }
  std::sort(names.begin(), names.end());
  CHECK(std::unique(names.begin(), names.end()) == names.end());
  CHECK(std::find(names.begin(), names.end(), "unknown") == names.end());
}
