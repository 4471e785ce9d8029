// Loops over rows whose bodies are compiled for a constant number of them.
#pragma once

#include <type_traits>

// Before a loop whose constant number of turns is at most 16: unrolls it completely. Otherwise gcc does that only while
// the result is small, and an array that a loop indexes lies in memory, not in registers.
#if defined(__clang__)
#define KR_UNROLL _Pragma("unroll")
#else
#define KR_UNROLL _Pragma("GCC unroll 16")
#endif

namespace kr {
namespace {

// Calls take(std::integral_constant<int, n>) for a number n of 1 to `most` that is known at run time.
template <int most, class Take>
KR_INLINE void with_constant(int n, const Take& take) {
  if constexpr (most > 0) {
    if (n == most) return take(std::integral_constant<int, most>{});
    with_constant<most - 1>(n, take);
  }
}

// Cuts `rows` into nearly equal parts of at most `most` and calls take(first row, constant of rows).
template <int most, class Take>
KR_INLINE void in_even_parts(int rows, const Take& take) {
  int first = 0;
  for (int parts = (rows + most - 1) / most; parts > 0; parts--) {
    const int now = (rows - first + parts - 1) / parts;
    with_constant<most>(now, [&](auto constant) { take(first, constant); });
    first += now;
  }
}

}  // namespace
}  // namespace kr
