// What operator new gives, counted: for one source of a test that is a program of its own.
#pragma once

#include <atomic>
#include <cstdlib>
#include <new>

namespace test {

struct Allocations {
  std::atomic<long> count = 0;
  std::atomic<std::size_t> bytes = 0;    ///< of all together
  std::atomic<std::size_t> largest = 0;  ///< of one
};

inline Allocations allocations;

inline void* allocate(std::size_t size) {
  ++allocations.count;
  allocations.bytes += size;
  if (size > allocations.largest) allocations.largest = size;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}

}  // namespace test

// The address sanitizer brings these operators itself; there nothing is counted. Not inlined: GCC
// would see memory of one operator new freed by another's delete.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LORAPLUS_ADDRESS_SANITIZER
#endif
#endif
#if !defined(LORAPLUS_ADDRESS_SANITIZER) && !defined(__SANITIZE_ADDRESS__)
[[gnu::noinline]] void* operator new(std::size_t size) {
  return test::allocate(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*size*/) noexcept {
  std::free(memory);
}
#endif
