#include <loraplus/io/state_dict.hpp>
#include <loraplus/loraplus.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/matrices.hpp"

using loraplus::Activation;
using loraplus::FileError;
using loraplus::Index;
using loraplus::Matrix;
using loraplus::MlpLayout;
using loraplus::Safetensors;
using loraplus::ShapeError;
using loraplus::TensorList;
using loraplus::Vector;

namespace {

namespace fs = std::filesystem;
using Names = std::vector<std::string>;

/// Weights and biases of these modules, 5-7-...-7-3.
TensorList tensors_of(const Names& modules) {
  TensorList tensors;
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const auto seed = static_cast<unsigned>(2 * i);
    const Index in = i == 0 ? 5 : 7, out = i + 1 == modules.size() ? 3 : 7;
    tensors.add(modules[i] + ".weight", test::random_matrix<float>(out, in, seed + 1));
    tensors.add(modules[i] + ".bias", Vector<float>(test::random_matrix<float>(out, 1, seed + 2)));
  }
  return tensors;
}

Safetensors file_of(const fs::path& folder, const TensorList& tensors) {
  loraplus::write_safetensors(folder / "model.safetensors", tensors);
  return Safetensors(folder / "model.safetensors");
}

template <typename Network>
Names names_of(const Network& network) {
  Names names;
  for (const auto& stage : network.stages()) {
    names.push_back(stage.name);
  }
  return names;
}

}  // namespace

TEST_CASE("a network of named modules or of a Sequential is found by its names") {
  const fs::path folder = test::fresh_folder("state_dict");
  for (const Names& modules : {Names{"fc1", "fc2", "fc10"}, Names{"0", "2", "10"},
                               Names{"net.0", "net.2", "net.10"}, Names{"only"}}) {
    const Safetensors file = file_of(folder, tensors_of(modules));
    const auto loaded = loraplus::load_mlp<float>(file, {.activation = Activation::tanh});
    CHECK(names_of(loaded.network) == modules);
    CHECK(loaded.report.complete());
    CHECK(loaded.report.used.size() == 2 * modules.size());
    CHECK(loaded.network.stages().back().activation == Activation::identity);
    for (const std::string& module : modules) {
      CHECK(loaded.network.layer(module).weight() == file.at(module + ".weight").in_place<float>());
      CHECK(loaded.network.layer(module).bias() == file.at(module + ".bias").in_place<float>());
    }
    const auto mapped = loraplus::map_mlp<float>(file, {.activation = Activation::tanh});
    const Matrix<float> x = test::random_matrix<float>(5, 4, 9);
    CHECK(test::relative_distance(loraplus::predict(mapped.network, x),
                                  loraplus::predict(loaded.network, x)) < 1e-6);
  }
}

TEST_CASE("the user may tell the order of the layers, and which there are") {
  const fs::path folder = test::fresh_folder("state_dict_order");
  const Safetensors file = file_of(folder, tensors_of({"stem", "body", "head"}));
  const MlpLayout layout{.layers = {"stem", "body", "head"}};
  CHECK(names_of(loraplus::load_mlp<float>(file, layout).network) == layout.layers);
  // by names it would be body, head, stem: not a chain
  CHECK(test::contains(test::message_of<ShapeError>([&] { loraplus::load_mlp<float>(file); }),
                       "'stem' takes 5 features, but 'head' gives 3"));
  CHECK(test::contains(test::message_of<FileError>([&] {
                         loraplus::load_mlp<float>(file, {.layers = {"stem", "neck"}});
                       }),
                       "has no tensor 'neck.weight'"));
  CHECK(test::contains(test::message_of<FileError>([&] {
                         loraplus::load_mlp<float>(file, {.layers = {"stem", "body"}});
                       }),
                       "unexpected: head.bias, head.weight"));
  const auto part =
      loraplus::load_mlp<float>(file, {.layers = {"stem", "body"}, .allow_unused = true});
  CHECK(part.report.unexpected == Names{"head.bias", "head.weight"});
}

TEMPLATE_TEST_CASE("halves and doubles are converted", "", double, Eigen::half, Eigen::bfloat16) {
  const fs::path folder =
      test::fresh_folder("state_dict_" + std::string(to_string(loraplus::dtype_of<TestType>)));
  const Matrix<float> w = test::random_matrix<float>(3, 5, 1);
  TensorList tensors;
  tensors.add("fc.weight", w.template cast<TestType>());
  const Safetensors file = file_of(folder, tensors);
  const auto loaded = loraplus::load_mlp<float>(file);
  CHECK(loaded.network.layer("fc").weight() == w.template cast<TestType>().template cast<float>());
  CHECK(loaded.network.layer("fc").bias().size() == 0);
  CHECK_THROWS_AS(loraplus::map_mlp<float>(file), FileError);
}

TEST_CASE("what is no network of linear layers is refused by name") {
  const fs::path folder = test::fresh_folder("state_dict_refused");
  const auto message = [&](const TensorList& tensors) {
    const Safetensors file = file_of(folder, tensors);
    return test::message_of<FileError>([&] { loraplus::load_mlp<float>(file); });
  };
  TensorList none, norm = tensors_of({"fc1", "fc2"}), bias, no_outputs, no_inputs;
  none.add("x", Vector<float>(Vector<float>::Ones(3)));
  norm.add("norm.weight", Vector<float>(Vector<float>::Ones(7)));
  bias.add("fc.weight", Matrix<float>(Matrix<float>::Ones(3, 2)));
  bias.add("fc.bias", Vector<float>(Vector<float>::Ones(2)));
  no_outputs.add({"fc.weight", loraplus::Dtype::f32, {0, 1'000'000'000'000}, {}, {}});
  no_inputs.add({"fc.weight", loraplus::Dtype::f32, {1'000'000'000'000, 0}, {}, {}});
  CHECK(test::contains(message(no_outputs), "'fc.weight' (F32, 0 x 1000000000000) must have"));
  CHECK(test::contains(message(no_inputs), "'fc.weight' (F32, 1000000000000 x 0) must have"));
  CHECK(test::contains(message(none), "has no linear layer"));
  CHECK(test::contains(message(norm), "unexpected: norm.weight"));
  CHECK(test::contains(message(bias), "'fc.bias' (F32, 2) must have the 3 outputs of 'fc.weight'"));
}

TEST_CASE("a network in its file is adapted and trained like any other") {
  const fs::path folder = test::fresh_folder("state_dict_adapted");
  const Safetensors file = file_of(folder, tensors_of({"fc1", "fc2"}));
  const std::string before = test::read(folder / "model.safetensors");
  std::mt19937_64 generator{1};
  auto mapped = loraplus::map_mlp<float>(file);
  auto network = loraplus::adapt(mapped.network, {.lora = {.rank = 2}}, generator);
  loraplus::PairedData<float> data{test::random_matrix<float>(5, 32, 3),
                                   test::random_matrix<float>(3, 32, 4)};
  loraplus::Optimizer optimizer(loraplus::Adam{.learning_rate = 1e-2}, network);
  double first = 0, last = 0;
  loraplus::fit<loraplus::MeanSquaredError>(network, optimizer, data, {.steps = 60, .batch = 32},
                                            generator, [&](loraplus::StepReport report) {
                                              (report.step == 1 ? first : last) = report.loss;
                                              return true;
                                            });
  CHECK(last < 0.9 * first);
  CHECK(test::read(folder / "model.safetensors") == before);
}

TEST_CASE("weights stored in x out are turned, or refused where they are used in place") {
  const fs::path folder = test::fresh_folder("state_dict_fan_in_fan_out");
  TensorList tensors;
  const Matrix<float> w = test::random_matrix<float>(4, 3, 1);
  tensors.add("c_fc.weight", w);
  tensors.add("c_fc.bias", Vector<float>(Vector<float>::Ones(3)));
  const Safetensors file = file_of(folder, tensors);
  const auto loaded = loraplus::load_mlp<float>(file, {.fan_in_fan_out = true});
  CHECK(loaded.network.layer("c_fc").weight() == w.transpose());
  CHECK(loaded.network.layer("c_fc").bias().size() == 3);
  CHECK_THROWS_AS(loraplus::load_mlp<float>(file), FileError);  // 4 outputs, 3 biases
  CHECK(test::contains(test::message_of<loraplus::ArgumentError>(
                           [&] { loraplus::map_mlp<float>(file, {.fan_in_fan_out = true}); }),
                       "use load_mlp"));
}
