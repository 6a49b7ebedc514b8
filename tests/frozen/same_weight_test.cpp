#include <loraplus/frozen/grouped_weight.hpp>
#include <loraplus/frozen/packed_weight.hpp>
#include <loraplus/frozen/same_weight.hpp>
#include <loraplus/frozen/shared_weight.hpp>
#include <loraplus/frozen/weight_view.hpp>

#include "support/catch.hpp"
#include "support/matrices.hpp"

using loraplus::detail::is_same_object;
using loraplus::detail::is_same_weight;

namespace {

template <typename Scalar>
struct TwoWeights {
  loraplus::Matrix<Scalar> w = test::random_matrix<Scalar>(5, 7, 1), other = w;
  loraplus::Vector<Scalar> b = test::random_vector<Scalar>(5, 2);

  TwoWeights() { other(3, 4) += Scalar(0.1); }
};

}  // namespace

TEMPLATE_TEST_CASE("weights of every kind are the same if W and b are, whoever owns them", "",
                   loraplus::SharedWeight<float>, loraplus::SharedWeight<double>,
                   loraplus::PackedWeight<float>, loraplus::PackedWeight<double>,
                   loraplus::WeightView<float>) {
  const TwoWeights<typename TestType::Scalar> with, again;
  const TestType weight(with.w, with.b), copy = weight;
  CHECK(is_same_object(weight, copy));
  CHECK(is_same_weight(weight, copy));
  const TestType equal(again.w, again.b);
  CHECK_FALSE(is_same_object(weight, equal));
  CHECK(is_same_weight(weight, equal));
  CHECK_FALSE(is_same_weight(weight, TestType(with.other, with.b)));
  CHECK_FALSE(is_same_weight(weight, TestType(with.w)));
}

TEST_CASE("a weight that does not tell what it shares is known by its product, copies too") {
  const TwoWeights<double> with;
  using Packed = loraplus::PackedWeight<double>;
  const Packed two(with.w, with.b), one(with.w, with.b, {.copies = loraplus::Copies::one});
  CHECK(is_same_weight(two, one));
  using Grouped = loraplus::GroupedWeight<Packed>;
  CHECK(is_same_weight(Grouped({one, one}), Grouped({one, two})));
  CHECK_FALSE(is_same_weight(Grouped({one, one}), Grouped({one, Packed(with.other, with.b)})));
}
