// a * b + c with one rounding, where the processor may have no instruction for it: what other units compute with one has
// to come out the same, bit for bit.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace kr {
namespace {

typedef float FourFloats __attribute__((vector_size(16)));

#if defined(__FP_FAST_FMAF) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__

static inline FourFloats exact_fma(FourFloats a, FourFloats b, FourFloats c) {
  FourFloats result;
  for (int i = 0; i < 4; i++) result[i] = std::fma(a[i], b[i], c[i]);
  return result;
}

#else

// In float64 the product is exact, and the sum rounds once. Rounding that to float32 is a second rounding, which changes
// the result only where the sum lies halfway between two neighbours, or below the normal numbers: there, and nowhere
// else, the library's slow function is called.
static inline __attribute__((always_inline)) FourFloats exact_fma(FourFloats a, FourFloats b, FourFloats c) {
  typedef double FourDoubles __attribute__((vector_size(32)));
  typedef int32_t Words __attribute__((vector_size(32)));
  typedef int64_t LongWords __attribute__((vector_size(32)));
  const FourDoubles sum = __builtin_convertvector(a, FourDoubles) * __builtin_convertvector(b, FourDoubles) +
                          __builtin_convertvector(c, FourDoubles);
  // Of each sum first the low word, then the high one.
  constexpr int32_t fraction = 0x1fffffff, half = 0x10000000, magnitude = 0x7fffffff;
  constexpr int32_t least_normal = (1023 - 126) << 20;
  const Words parts = (Words)sum & Words{fraction, magnitude, fraction, magnitude, fraction, magnitude, fraction, magnitude};
  const Words halfway = parts == Words{half, -1, half, -1, half, -1, half, -1};
  // 0 < part < least_normal, as one comparison of part - 1 without sign.
  typedef uint32_t UnsignedWords __attribute__((vector_size(32)));
  constexpr int32_t none = INT32_MIN, end = INT32_MIN + (least_normal - 1);
  const auto shifted = (Words)((UnsignedWords)parts + 0x7fffffffu);
  const Words tiny = shifted < Words{none, end, none, end, none, end, none, end};
  FourFloats result = __builtin_convertvector(sum, FourFloats);
  const auto doubtful = (LongWords)(halfway | tiny);
  if (__builtin_expect((doubtful[0] | doubtful[1] | doubtful[2] | doubtful[3]) != 0, 0)) {
    for (int i = 0; i < 4; i++) result[i] = std::fma(a[i], b[i], c[i]);
  }
  return result;
}

#endif

}  // namespace
}  // namespace kr
