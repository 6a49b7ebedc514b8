// A layer as a user would write one: y = g x with one trainable number g.
#pragma once

#include <loraplus/core/parameter.hpp>

namespace test {

template <typename Scalar_>
class Scale {
 public:
  using Scalar = Scalar_;
  using Index = loraplus::Index;
  using Read = loraplus::ConstMatrixView<Scalar>;
  using Written = loraplus::MatrixView<Scalar>;
  struct Cache {};

  Scale(Index features, Scalar g) : features_(features) { g_ << g; }

  Index in_features() const { return features_; }
  Index out_features() const { return features_; }
  Cache make_cache(Index /*largest_batch*/) const { return {}; }
  void forward(Read x, Written y, Cache& /*cache*/) const { y = g_(0) * x; }
  void backward(Read x, Read dy, Cache& /*cache*/) { g_gradient_(0) += dy.cwiseProduct(x).sum(); }
  void backward(Read x, Read dy, Written dx, Cache& cache) {
    backward(x, dy, cache);
    dx = g_(0) * dy;
  }
  template <typename Visitor>
  void visit_parameters(Visitor&& visit) {
    visit(loraplus::Parameter<Scalar>("gain", loraplus::Role::weight, g_, g_gradient_));
  }

 private:
  Index features_;
  loraplus::Vector<Scalar> g_ = loraplus::Vector<Scalar>::Ones(1);
  loraplus::Vector<Scalar> g_gradient_ = loraplus::Vector<Scalar>::Zero(1);
};

}  // namespace test
