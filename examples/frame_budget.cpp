// An application with a loop of frames, as a game or a controller, goes on learning while it runs:
// between two frames it trains one step, if that fits into the time that is left. A step allocates
// nothing, which is proved by counting.
#include <cstdlib>
#include <new>

static long allocations = 0;  // NOLINT: by operator new, and by Eigen, which asks malloc instead
static void count_allocation() {
  ++allocations;
}
#define EIGEN_RUNTIME_NO_MALLOC  // Eigen asserts that it may allocate: here, that it does not
#define eigen_assert(condition) ((condition) ? static_cast<void>(0) : count_allocation())

[[gnu::noinline]] void* operator new(std::size_t size) {
  count_allocation();
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*size*/) noexcept {
  std::free(memory);
}

#include <chrono>
#include <iostream>
#include <loraplus/nn/adapt.hpp>
#include <loraplus/optim/adam.hpp>
#include <loraplus/optim/lora_plus.hpp>
#include <loraplus/train/training_step.hpp>
#include <thread>

using namespace loraplus;
using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

int main() {
  constexpr Index features = 24, outputs = 4, batch = 32, frames = 150;
  constexpr Milliseconds budget(4);  // of a frame

  std::mt19937_64 rng(1);
  const auto trained = make_mlp<float>({features, 64, 64, outputs}, Activation::silu, rng);
  const auto wanted = make_mlp<float>({features, outputs}, Activation::identity, rng);
  auto network = adapt(trained, {.lora = {.rank = 4, .alpha = 8}}, rng);
  LoraPlus optimizer(Adam{.learning_rate = 5e-3}, {.ratio = 2}, network);
  TrainingStep<decltype(network), MeanSquaredError> train(network, batch);

  // All memory is made here: what was seen last, and what a pass needs.
  Matrix<float> x(features, batch), target(outputs, batch), y(outputs, 1);
  auto cache = network.make_cache(1);
  typename decltype(wanted)::Cache wanted_cache = wanted.make_cache(1);
  const long allocated_before = allocations;
  Eigen::internal::set_is_malloc_allowed(false);

  Index steps = 0;
  double first_loss = 0, last_loss = 0;
  Milliseconds longest(0), expected(0);
  for (Index frame = 0; frame < frames; ++frame) {
    const auto deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(budget);

    // The application's own work: a new observation, and what the network makes of it.
    const Index newest = frame % batch;
    for (Index i = 0; i < features; ++i) {
      x(i, newest) = static_cast<float>(normal(rng));
    }
    wanted.forward(x.col(newest), target.col(newest), wanted_cache);
    network.forward(x.col(newest), y, cache);

    const auto begin = Clock::now();
    if (frame + 1 >= batch && begin + expected < deadline) {
      last_loss = train(network, optimizer, x, target, rng);
      const Milliseconds taken = Clock::now() - begin;
      if (steps++ == 0) first_loss = last_loss;
      longest = std::max(longest, taken);
      expected = std::max(expected, taken);
    }
    expected *= 0.9;  // lest one slow step, as of a busy machine, ends the training
    std::this_thread::sleep_until(deadline);
  }

  Eigen::internal::set_is_malloc_allowed(true);
  std::cout << allocated_before << " allocations before the first frame, "
            << allocations - allocated_before << " since\n"
            << frames << " frames of " << budget.count() << " ms, " << steps
            << " steps, the longest " << longest.count() << " ms\nloss from " << first_loss
            << " to " << last_loss << '\n';
}
