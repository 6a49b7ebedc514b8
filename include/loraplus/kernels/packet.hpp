// SPDX-License-Identifier: MIT
//
// Vector instructions by way of Eigen's packets: the one header of the library that reaches into
// Eigen::internal. All else is written in what stands here, so it runs with whatever Eigen was
// compiled for (SSE2, AVX2, AVX-512, NEON, ...).
#pragma once

#include <algorithm>
#include <loraplus/core/matrix.hpp>
#include <type_traits>
#include <utility>

/// Before a function that is to be part of its caller whatever the level of optimisation.
#if defined(__GNUC__)
#define LORAPLUS_ALWAYS_INLINE inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define LORAPLUS_ALWAYS_INLINE __forceinline
#else
#define LORAPLUS_ALWAYS_INLINE inline
#endif

/// Before a loop over packets whose bounds are constants: written out at every level of
/// optimisation, so that arrays of packets stay in registers.
#if defined(__clang__)
#define LORAPLUS_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define LORAPLUS_UNROLL _Pragma("GCC unroll 16")
#else
#define LORAPLUS_UNROLL
#endif

namespace loraplus::inline v0_1::kernels {

/// The largest vector register that Eigen uses for float or double; of any other scalar type,
/// half precision too, whose packets lack what is needed here, a packet is one scalar.
template <typename Scalar>
using Packet =
    typename std::conditional_t<std::is_same_v<Scalar, float> || std::is_same_v<Scalar, double>,
                                Eigen::internal::packet_traits<Scalar>,
                                std::type_identity<Scalar>>::type;

/// Scalars in a packet.
template <typename Scalar>
inline constexpr Index packet_size = Eigen::internal::unpacket_traits<Packet<Scalar>>::size;

/// Packets that hold so many scalars, the last one perhaps in part.
template <typename Scalar>
constexpr Index packets_for(Index scalars) {
  return (scalars + packet_size<Scalar> - 1) / packet_size<Scalar>;
}

/// Vector registers of the machine.
inline constexpr int vector_registers = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS;

template <typename Scalar>
LORAPLUS_ALWAYS_INLINE Packet<Scalar> broadcast(Scalar value) {
  return Eigen::internal::pset1<Packet<Scalar>>(value);
}

template <typename Scalar>
LORAPLUS_ALWAYS_INLINE Packet<Scalar> load(const Scalar* from) {
  return Eigen::internal::ploadu<Packet<Scalar>>(from);
}

template <typename Scalar>
LORAPLUS_ALWAYS_INLINE void store(Scalar* to, const Packet<Scalar>& packet) {
  Eigen::internal::pstoreu(to, packet);
}

/// The first `count` scalars, the others zero; nothing past them is read.
template <typename Scalar>
LORAPLUS_ALWAYS_INLINE Packet<Scalar> load_part(const Scalar* from, Index count) {
  constexpr Index size = packet_size<Scalar>;
  Scalar whole[size] = {};
  std::copy_n(from, std::min(count, size), whole);  // the limit tells GCC 16 that it fits
  return load(whole);
}

/// a b + c, rounded once where the machine has the instruction.
template <typename P>
LORAPLUS_ALWAYS_INLINE P multiply_add(const P& a, const P& b, const P& c) {
  return Eigen::internal::pmadd(a, b, c);
}

/// Keeps a packet that several instructions read in its register. Left alone, GCC 12 reads it from
/// memory in each of them, and the loads take longer than the arithmetic.
template <typename Scalar>
LORAPLUS_ALWAYS_INLINE void keep_in_register([[maybe_unused]] Packet<Scalar>& packet) {
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__)
  if constexpr (std::is_same_v<Scalar, float> || std::is_same_v<Scalar, double>) {
#if defined(__AVX512F__)
    asm("" : "+v"(packet));
#else
    asm("" : "+x"(packet));
#endif
  }
#endif
}

namespace detail {

/// For decltype alone: Eigen 5's half, which is its own packet, is no literal on some machines.
template <typename P>
std::integral_constant<int, Eigen::internal::unpacket_traits<P>::size> lanes(const P& packet);

/// The largest packet of at most `Limit` scalars, by way of halves.
template <int Limit, typename P>
auto choose_square(const P& packet) {
  constexpr int size = Eigen::internal::unpacket_traits<P>::size;
  const typename Eigen::internal::unpacket_traits<P>::half half{};
  if constexpr (size <= Limit || size == decltype(detail::lanes(half))::value) {
    return packet;
  } else {
    return detail::choose_square<Limit>(half);
  }
}

template <typename Scalar, int Limit>
using Square = decltype(detail::choose_square<Limit>(Packet<Scalar>{}));

/// Halves a packet, adding the halves, down to at most four scalars.
template <typename P>
LORAPLUS_ALWAYS_INLINE auto fold(const P& packet) {
  if constexpr (Eigen::internal::unpacket_traits<P>::size % 8 == 0) {
    return detail::fold(Eigen::internal::predux_half_dowto4(packet));
  } else {
    return packet;
  }
}

/// s times the sums of the scalars of up to four packets, in one packet of four.
template <int Count, typename Scalar>
LORAPLUS_ALWAYS_INLINE auto four_sums(const Packet<Scalar> (&packets)[Count], Scalar s) {
  namespace internal = Eigen::internal;
  using Four = decltype(detail::fold(packets[0]));
  internal::PacketBlock<Four, 4> block;
  LORAPLUS_UNROLL
  for (int i = 0; i < 4; ++i) {
    block.packet[i] = i < Count ? detail::fold(packets[i]) : internal::pset1<Four>(Scalar(0));
  }
  internal::ptranspose(block);
  const Four sums = internal::padd(internal::padd(block.packet[0], block.packet[1]),
                                   internal::padd(block.packet[2], block.packet[3]));
  return internal::pmul(internal::pset1<Four>(s), sums);
}

}  // namespace detail

/// to[i] = s * (sum of the scalars of packets[i]), or to[i] += that if `keep`. The order of the
/// additions is the same for every Count.
template <int Count, typename Scalar>
LORAPLUS_ALWAYS_INLINE void store_sums(const Packet<Scalar> (&packets)[Count], Scalar s, bool keep,
                                       Scalar* to) {
  namespace internal = Eigen::internal;
  constexpr int folded = decltype(detail::lanes(detail::fold(packets[0])))::value;
  Scalar sums[Count < 4 ? 4 : Count] = {};
  if constexpr (folded == 4 && Count <= 4) {
    auto four = detail::four_sums<Count>(packets, s);
    if (keep) {  // in a packet for every Count: a compiler may fuse s * sum + to
      if constexpr (Count < 4) std::copy_n(to, Count, sums);
      four = internal::padd(internal::ploadu<decltype(four)>(Count < 4 ? sums : to), four);
    }
    if constexpr (Count == 4) return internal::pstoreu(to, four);
    internal::pstoreu(sums, four);
    std::copy_n(sums, Count, to);
  } else {
    for (int i = 0; i < Count; ++i) {
      sums[i] = s * internal::predux(packets[i]);
      to[i] = keep ? to[i] + sums[i] : sums[i];
    }
  }
}

/// The side of the square that transpose() works on, at most `Limit`.
template <typename Scalar, int Limit>
inline constexpr int square_size = decltype(detail::lanes(detail::Square<Scalar, Limit>{}))::value;

/// to(i, j) = from(j, i) for a square of square_size. Columns are contiguous.
template <int Limit, typename Scalar>
LORAPLUS_ALWAYS_INLINE void transpose(const Scalar* from, Index from_stride, Scalar* to,
                                      Index to_stride) {
  using Square = detail::Square<Scalar, Limit>;
  constexpr int size = square_size<Scalar, Limit>;
  if constexpr (size == 1) {
    *to = *from;
  } else {
    Eigen::internal::PacketBlock<Square, size> block;
    for (int i = 0; i < size; ++i) {
      block.packet[i] = Eigen::internal::ploadu<Square>(from + i * from_stride);
    }
    Eigen::internal::ptranspose(block);
    for (int i = 0; i < size; ++i) {
      Eigen::internal::pstoreu(to + i * to_stride, block.packet[i]);
    }
  }
}

}  // namespace loraplus::kernels
