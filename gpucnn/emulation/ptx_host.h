// PTX instructions as C++ functions, for what ptx.py translates: name and modifiers are the function's, the types its
// template arguments. Instructions whose results differ between devices are left out on purpose.
#pragma once
#include "cuda_host.h"

namespace {

// ---- registers and memory -----------------------------------------------------------------------------------------

inline float single(uint64_t bits) { return cuh::same_bits<float>(uint32_t(bits)); }
inline double twofold(uint64_t bits) { return cuh::same_bits<double>(bits); }

// Bits if both are as long, else the value of an integer.
template <class To, class From> void move(To& to, From from) {
  if constexpr (sizeof(To) == sizeof(From) && !std::is_same_v<To, bool> && !std::is_same_v<From, bool>)
    memcpy(&to, &from, sizeof to);
  else if constexpr (std::is_floating_point_v<To> && std::is_integral_v<From>)
    to = cuh::same_bits<To>(std::conditional_t<sizeof(To) == 4, uint32_t, uint64_t>(from));
  else
    to = To(from);
}
template <class Half, class Whole> void pack(Whole& to, Half low, Half high) {
  static_assert(sizeof(Whole) == 2 * sizeof(Half), "");
  Half halves[2] = {low, high};
  memcpy(&to, halves, sizeof to);
}
template <class Half, class Whole> void unpack(Half& low, Half& high, Whole from) {
  static_assert(sizeof(Whole) == 2 * sizeof(Half), "");
  Half halves[2];
  memcpy(halves, &from, sizeof from);
  low = halves[0], high = halves[1];
}
template <class T, class To> void load(uint64_t address, To& to) { move(to, *reinterpret_cast<const T*>(address)); }
template <class T, class From> void store(uint64_t address, From from) {
  T value;
  move(value, from);
  *reinterpret_cast<T*>(address) = value;
}

// ---- threads ------------------------------------------------------------------------------------------------------

inline void barrier() { cuh_context->block_barrier(0); }
template <class T> T shfl_sync_bfly(T v, uint32_t lanes, uint32_t, uint32_t mask) {
  return __shfl_xor_sync(mask, v, int(lanes));
}
template <class T> T shfl_sync_idx(T v, uint32_t lane, uint32_t, uint32_t mask) {
  return __shfl_sync(mask, v, int(lane));
}
template <class T> T atom_add(uint64_t address, T v) {
  static_assert(std::is_integral_v<T>, "the order of such additions is not fixed");
  T* p = reinterpret_cast<T*>(address);
  const T old = *p;
  *p = old + v;
  return old;
}

// ---- integers -----------------------------------------------------------------------------------------------------

template <class T> using Unsigned = std::make_unsigned_t<T>;
template <class T> T add(T a, T b) {
  static_assert(std::is_integral_v<T>, "");
  return T(Unsigned<T>(a) + Unsigned<T>(b));
}
template <class T> T sub(T a, T b) {
  static_assert(std::is_integral_v<T>, "");
  return T(Unsigned<T>(a) - Unsigned<T>(b));
}
template <class T> T mul_lo(T a, T b) { return T(uint64_t(a) * uint64_t(b)); }
template <class T> T mul_hi(T a, T b) { return T((__int128(a) * __int128(b)) >> (8 * sizeof(T))); }
template <class T> auto mul_wide(T a, T b) {
  using Wide = std::conditional_t<sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, int32_t, uint32_t>,
                                  std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
  return Wide(Wide(a) * Wide(b));
}
template <class T> T mad_lo(T a, T b, T c) { return add<T>(mul_lo<T>(a, b), c); }
template <class T, class W> auto mad_wide(T a, T b, W c) { return decltype(mul_wide<T>(a, b))(mul_wide<T>(a, b) + c); }
template <class T> T rem(T a, T b) { return T(a % b); }
template <class T> T div(T a, T b) {
  static_assert(std::is_integral_v<T>, "not an exact division");
  return T(a / b);
}
template <class T> T and_(T a, T b) { return T(a & b); }
template <class T> T or_(T a, T b) { return T(a | b); }
template <class T> T xor_(T a, T b) { return T(a ^ b); }
template <class T> T not_(T a) {
  if constexpr (std::is_same_v<T, bool>)
    return !a;
  else
    return T(~uint64_t(a));
}
template <class T> T shl(T a, uint32_t n) { return n >= 8 * sizeof(T) ? T(0) : T(a << n); }
template <class T> T shr(T a, uint32_t n) {
  const uint32_t most = 8 * sizeof(T) - 1;
  return n > most && !std::is_signed_v<T> ? T(0) : T(a >> (n > most ? most : n));
}
inline uint32_t funnel(uint32_t low, uint32_t high, uint32_t right) {
  return uint32_t((uint64_t(high) << 32 | low) >> right);
}
template <class T> T shf_l_wrap(T low, T high, uint32_t n) { return funnel(low, high, 32 - (n & 31)); }
template <class T> T shf_r_wrap(T low, T high, uint32_t n) { return funnel(low, high, n & 31); }
template <class T> T bfe(T a, uint32_t from, uint32_t length) {
  static_assert(!std::is_signed_v<T>, "");
  return T(length >= 8 * sizeof(T) ? a >> from : (a >> from) & ((T(1) << length) - 1));
}
template <class T> T bfi(T a, T b, uint32_t from, uint32_t length) {
  const T mask = (length >= 8 * sizeof(T) ? ~T(0) : (T(1) << length) - 1) << from;
  return (b & ~mask) | (a << from & mask);
}
template <class T> T prmt(T a, T b, T selector) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) {
    const uint32_t pick = selector >> (4 * i) & 15, byte = bytes >> (8 * (pick & 7)) & 255;
    result |= (pick & 8 ? (byte & 128 ? 255u : 0u) : byte) << (8 * i);
  }
  return result;
}
template <class T> uint32_t clz(T a) {
  return a ? uint32_t(sizeof(T) == 8 ? __builtin_clzll(a) : __builtin_clz(a)) : 8 * sizeof(T);
}
template <class T> uint32_t popc(T a) { return uint32_t(__builtin_popcountll(a)); }

// ---- floats: each rounds once, to nearest -------------------------------------------------------------------------

template <class T> T add_rn(T a, T b) { return a + b; }
template <class T> T sub_rn(T a, T b) { return a - b; }
template <class T> T mul_rn(T a, T b) { return a * b; }
template <class T> T div_rn(T a, T b) { return a / b; }
template <class T> T rcp_rn(T a) { return T(1) / a; }
template <class T> T sqrt_rn(T a) { return sizeof(T) == 4 ? T(__builtin_sqrtf(a)) : T(__builtin_sqrt(a)); }
template <class T> T fma_rn(T a, T b, T c) {
  return sizeof(T) == 4 ? T(__builtin_fmaf(a, b, c)) : T(__builtin_fma(a, b, c));
}
template <class T> T neg(T a) {
  if constexpr (std::is_integral_v<T>)
    return T(0 - Unsigned<T>(a));
  else
    return -a;
}
template <class T> T abs(T a) {
  if constexpr (std::is_integral_v<T>)
    return a < 0 ? neg<T>(a) : a;
  else
    return sizeof(T) == 4 ? T(__builtin_fabsf(a)) : T(__builtin_fabs(a));
}
// Of a number and none, the number; of -0 and +0, the larger one.
template <class T> T max(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a) return b;
    if (b != b) return a;
    if (a == 0 && b == 0) return __builtin_signbit(a) ? b : a;
  }
  return a > b ? a : b;
}
template <class T> T min(T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (a != a) return b;
    if (b != b) return a;
    if (a == 0 && b == 0) return __builtin_signbit(a) ? a : b;
  }
  return a < b ? a : b;
}

// ---- comparison, selection, conversion ----------------------------------------------------------------------------

#define ORDERED(name, operator)                                          \
  template <class T> bool setp_##name(T a, T b) { return a operator b; } \
  template <class T> bool setp_##name##u(T a, T b) { return a != a || b != b || a operator b; }
ORDERED(lt, <)
ORDERED(le, <=)
ORDERED(gt, >)
ORDERED(ge, >=)
ORDERED(eq, ==)
#undef ORDERED
template <class T> bool setp_ne(T a, T b) { return a == a && b == b && a != b; }
template <class T> bool setp_neu(T a, T b) { return a != b; }
template <class T> bool setp_lo(T a, T b) { return a < b; }
template <class T> bool setp_ls(T a, T b) { return a <= b; }
template <class T> bool setp_hi(T a, T b) { return a > b; }
template <class T> bool setp_hs(T a, T b) { return a >= b; }
template <class T> bool setp_num(T a, T b) { return a == a && b == b; }
template <class T> bool setp_nan(T a, T b) { return a != a || b != b; }
template <class T> T selp(T a, T b, bool p) { return p ? a : b; }
template <class To, class From> To cvt(From a) {
  static_assert(
      std::is_integral_v<From> == std::is_integral_v<To> && (std::is_integral_v<To> || sizeof(To) >= sizeof(From)), "");
  return To(a);
}
template <class To, class From> To cvt_rn(From a) { return To(a); }
template <class To, class From> To cvt_rzi(From a) { return To(a); }
template <class To, class From> To cvt_rni(From a) { return To(__builtin_rint(a)); }
template <class T> T cvta_to(T a) { return a; }

}  // namespace
