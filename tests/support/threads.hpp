// How many threads a product may use, for the length of a test.
#pragma once

#include <Eigen/Core>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace test {

/// Sets the number of threads, and at its end back to what it was. A test of many small products
/// takes one: on a busy machine its threads would mostly wait for each other.
class Threads {
 public:
  explicit Threads(int count) : before_(Eigen::nbThreads()) { set(count); }
  ~Threads() { set(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  static void set(int count) {
#ifdef _OPENMP
    omp_set_num_threads(count);  // Eigen 5 takes no more than OpenMP would
#endif
    Eigen::setNbThreads(count);
  }

  int before_;
};

}  // namespace test
