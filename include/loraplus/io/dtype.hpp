// SPDX-License-Identifier: MIT
//
// The types that the elements of a tensor in a safetensors file can have.
#pragma once

#include <Eigen/Core>
#include <array>
#include <complex>
#include <cstdint>
#include <optional>
#include <string_view>

namespace loraplus::inline v0_1 {

/// In the order that a writer sorts by, the last first.
enum class Dtype {
  boolean,      ///< a byte, 0 or 1
  f4,           ///< 4 bits: e2m1
  f6_e2m3,      ///< 6 bits
  f6_e3m2,      ///< 6 bits
  u8,           ///< std::uint8_t
  i8,           ///< std::int8_t
  f8_e5m2,      ///< 8 bits
  f8_e4m3,      ///< 8 bits
  f8_e8m0,      ///< 8 bits, a power of 2
  f8_e4m3fnuz,  ///< 8 bits, without a negative zero
  f8_e5m2fnuz,  ///< 8 bits, without a negative zero
  i16,          ///< std::int16_t
  u16,          ///< std::uint16_t
  f16,          ///< half precision of IEEE 754
  bf16,         ///< the upper half of a float
  i32,          ///< std::int32_t
  u32,          ///< std::uint32_t
  f32,          ///< float
  c64,          ///< std::complex<float>
  f64,          ///< double
  i64,          ///< std::int64_t
  u64,          ///< std::uint64_t
};

namespace detail {

struct DtypeFacts {
  std::string_view name;
  unsigned bits;
};

inline constexpr std::array<DtypeFacts, 22> dtype_facts = {{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};

}  // namespace detail

/// The name in a file: "F32".
constexpr std::string_view to_string(Dtype dtype) {
  return detail::dtype_facts[static_cast<std::size_t>(dtype)].name;
}

/// Bits of an element.
constexpr unsigned bits(Dtype dtype) {
  return detail::dtype_facts[static_cast<std::size_t>(dtype)].bits;
}

/// The type of this name, as "F32"; nothing if there is none.
constexpr std::optional<Dtype> find_dtype(std::string_view name) {
  for (std::size_t i = 0; i < detail::dtype_facts.size(); ++i) {
    if (detail::dtype_facts[i].name == name) return static_cast<Dtype>(i);
  }
  return std::nullopt;
}

namespace detail {

template <typename Element>
struct DtypeOf;  // no type of a tensor

template <Dtype value_>
struct DtypeIs {
  static constexpr Dtype value = value_;
};

template <>
struct DtypeOf<bool> : DtypeIs<Dtype::boolean> {};
template <>
struct DtypeOf<std::uint8_t> : DtypeIs<Dtype::u8> {};
template <>
struct DtypeOf<std::int8_t> : DtypeIs<Dtype::i8> {};
template <>
struct DtypeOf<std::uint16_t> : DtypeIs<Dtype::u16> {};
template <>
struct DtypeOf<std::int16_t> : DtypeIs<Dtype::i16> {};
template <>
struct DtypeOf<Eigen::half> : DtypeIs<Dtype::f16> {};
template <>
struct DtypeOf<Eigen::bfloat16> : DtypeIs<Dtype::bf16> {};
template <>
struct DtypeOf<std::uint32_t> : DtypeIs<Dtype::u32> {};
template <>
struct DtypeOf<std::int32_t> : DtypeIs<Dtype::i32> {};
template <>
struct DtypeOf<float> : DtypeIs<Dtype::f32> {};
template <>
struct DtypeOf<double> : DtypeIs<Dtype::f64> {};
template <>
struct DtypeOf<std::uint64_t> : DtypeIs<Dtype::u64> {};
template <>
struct DtypeOf<std::int64_t> : DtypeIs<Dtype::i64> {};

}  // namespace detail

/// The type of a tensor whose elements are of this C++ type.
template <typename Element>
inline constexpr Dtype dtype_of = detail::DtypeOf<Element>::value;

/// Calls `use` with a value of the C++ type of the elements. @return whether there is such a type
template <typename Use>
constexpr bool visit_dtype(Dtype dtype, Use&& use) {
  switch (dtype) {
    case Dtype::boolean:
      use(bool{});
      return true;
    case Dtype::u8:
      use(std::uint8_t{});
      return true;
    case Dtype::i8:
      use(std::int8_t{});
      return true;
    case Dtype::i16:
      use(std::int16_t{});
      return true;
    case Dtype::u16:
      use(std::uint16_t{});
      return true;
    case Dtype::f16:
      use(Eigen::half{});
      return true;
    case Dtype::bf16:
      use(Eigen::bfloat16{});
      return true;
    case Dtype::i32:
      use(std::int32_t{});
      return true;
    case Dtype::u32:
      use(std::uint32_t{});
      return true;
    case Dtype::f32:
      use(float{});
      return true;
    case Dtype::f64:
      use(double{});
      return true;
    case Dtype::i64:
      use(std::int64_t{});
      return true;
    case Dtype::u64:
      use(std::uint64_t{});
      return true;
    default:
      return false;
  }
}

}  // namespace loraplus
