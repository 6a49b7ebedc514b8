// The blocks of docs/python.md.
#include <iostream>
#include <loraplus/io/peft.hpp>
#include <loraplus/io/state_dict.hpp>
#include <loraplus/loraplus.hpp>

#include "support/catch.hpp"
#include "support/docs.hpp"
#include "support/matrices.hpp"

namespace docs_python {

using namespace loraplus;

TEST_CASE("docs/python.md") {
  const test::InFolder folder("docs_python");
  std::mt19937_64 rng{1};
  {
    TensorList saved;
    saved.add("net.0.weight", test::random_matrix<float>(8, 5, 1));
    saved.add("net.0.bias", test::random_vector<float>(8, 2));
    saved.add("net.2.weight", test::random_matrix<float>(3, 8, 3));
    write_safetensors("model.safetensors", saved);
  }

  const Safetensors file("model.safetensors");  // a state_dict, saved from PyTorch
  const auto base = load_mlp<float>(file, {.activation = Activation::relu});
  auto network = adapt(base.network, {.lora = {.rank = 8, .alpha = 16}}, rng);
  // ... train ...
  save_peft("adapter", network, {.base_model = "model"});  // PeftModel.from_pretrained loads it

  const auto loaded = load_peft("adapter", freeze(base.network));  // the same from PEFT
  if (!loaded.report.complete()) std::cerr << loaded.report.problems() << '\n';
  CHECK(loaded.report.complete());
  CHECK(loaded.network.layer_names() == "net.0, net.2");

  const test::Printed printed;
  const Matrix<double> weight = file.at("net.0.weight").to_matrix<double>();  // out x in
  const Vector<double> bias = file.at("net.0.bias").to_vector<double>();
  for (const std::string& name : file.names()) {
    std::cout << name << '\n';
  }
  CHECK(printed.text() == "net.0.bias\nnet.0.weight\nnet.2.weight\n");
  CHECK(weight.rows() == bias.size());
}

}  // namespace docs_python
