// Whether this is a build with the address sanitizer, where a product takes ten times as long:
// tests of many random cases take fewer of them there. All other builds have them all.
#pragma once

namespace test {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool sanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif
#else
inline constexpr bool sanitized = false;
#endif

constexpr int repetitions(int count) {
  return sanitized ? count / 3 : count;
}

}  // namespace test
