// How many threads a product may use, for the length of a test.
#pragma once

#include <Eigen/Core>

namespace test {

/// Sets the number of threads, and at its end back to what it was. A test of many small products
/// takes one: on a busy machine its threads would mostly wait for each other.
class Threads {
 public:
  explicit Threads(int count) : before_(Eigen::nbThreads()) { Eigen::setNbThreads(count); }
  ~Threads() { Eigen::setNbThreads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace test
