#include <loraplus/nn/linear.hpp>
#include <loraplus/train/evaluate.hpp>

#include "support/catch.hpp"
#include "support/errors.hpp"
#include "support/matrices.hpp"

using loraplus::LabelledData;
using loraplus::Linear;
using loraplus::Matrix;

TEST_CASE("accuracy counts the largest outputs, whatever the batch") {
  const Linear<float> identity{Matrix<float>(Matrix<float>::Identity(3, 3))};
  Matrix<float> inputs(3, 5);
  inputs << 1, 0, 0, 5, 2,  //
      0, 1, 0, 4, 1,        //
      0, 0, 1, 6, 0;
  const LabelledData<float> data{inputs, {0, 1, 0, 2, 1}};
  for (const loraplus::Index batch : {1, 2, 5, 256}) {
    CHECK(loraplus::accuracy(identity, data, batch) == 3.0 / 5);
  }
}

TEST_CASE("an output of NaN is never right, and a batch of nothing is refused") {
  const Linear<float> identity{Matrix<float>(Matrix<float>::Identity(3, 3))};
  const Matrix<float> nan = Matrix<float>::Constant(3, 2, std::numeric_limits<float>::quiet_NaN());
  CHECK(loraplus::accuracy(identity, LabelledData<float>{nan, {0, 1}}) == 0);
  const LabelledData<float> data{Matrix<float>::Ones(3, 2), {0, 1}};
  CHECK_THROWS_AS(loraplus::accuracy(identity, data, 0), loraplus::ArgumentError);
}

TEST_CASE("there is no accuracy of nothing, and none of unlabelled data") {
  const Linear<float> identity{Matrix<float>(Matrix<float>::Identity(3, 3))};
  CHECK(std::isnan(loraplus::accuracy(identity, LabelledData<float>{Matrix<float>(3, 0), {}})));
  CHECK_THROWS_AS(loraplus::accuracy(identity, LabelledData<float>{Matrix<float>(3, 2), {0}}),
                  loraplus::ShapeError);
}
