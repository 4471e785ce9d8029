// exp and what is made of it, for any vector type: one implementation for every kernel.
#pragma once

namespace kr {
namespace {

// e^x to about one unit in the last place; 0x1p-126 and 2^127 are about its ends. Of a NaN it is one.
template <class Vec>
KR_INLINE typename Vec::Floats exponential(typename Vec::Floats x) {
  // Of a pair with a NaN, x86 returns the second operand: x has to be that one.
  x = Vec::min(Vec::splat(88.02f), Vec::max(Vec::splat(-87.33f), x));
  // x = n ln 2 + rest, |rest| <= ln 2 / 2. ln 2 in two parts: the first ends in zeros, so that n times it is exact.
  const auto n = Vec::round(Vec::multiply(x, Vec::splat(1.44269504f)));
  const auto steps = Vec::to_floats(n);
  auto rest = Vec::fma(steps, Vec::splat(-0.693145752f), x);
  rest = Vec::fma(steps, Vec::splat(-1.42860677e-6f), rest);
  // The power series to the seventh power: the next term is below 6e-9.
  auto sum = Vec::splat(1.0f / 5040);
  sum = Vec::fma(sum, rest, Vec::splat(1.0f / 720));
  sum = Vec::fma(sum, rest, Vec::splat(1.0f / 120));
  sum = Vec::fma(sum, rest, Vec::splat(1.0f / 24));
  sum = Vec::fma(sum, rest, Vec::splat(1.0f / 6));
  sum = Vec::fma(sum, rest, Vec::splat(0.5f));
  sum = Vec::fma(sum, rest, Vec::splat(1.0f));
  sum = Vec::fma(sum, rest, Vec::splat(1.0f));
  return Vec::multiply(sum, Vec::power_of_two(n));
}

template <class Vec>
KR_INLINE typename Vec::Floats silu(typename Vec::Floats x) {
  const auto negative = Vec::multiply(x, Vec::splat(-1.0f));
  return Vec::divide(x, Vec::add(Vec::splat(1.0f), exponential<Vec>(negative)));
}

// x / (1 + e^(-2u)) is x (1 + tanh(u)) / 2.
template <class Vec>
KR_INLINE typename Vec::Floats gelu_tanh(typename Vec::Floats x) {
  const auto cube = Vec::multiply(Vec::multiply(x, x), x);
  const auto inner = Vec::fma(cube, Vec::splat(0.044715f), x);
  // -2 sqrt(2/pi)
  const auto power = Vec::multiply(inner, Vec::splat(-1.59576912f));
  return Vec::divide(x, Vec::add(Vec::splat(1.0f), exponential<Vec>(power)));
}

// The gated product of gpt-oss. A NaN stays one: the second operand of a comparison with it is taken.
template <class Vec>
KR_INLINE typename Vec::Floats swiglu_oai(typename Vec::Floats gate, typename Vec::Floats up) {
  const auto limit = Vec::splat(7.0f), one = Vec::splat(1.0f);
  gate = Vec::min(limit, gate);
  up = Vec::max(Vec::splat(-7.0f), Vec::min(limit, up));
  const auto power = exponential<Vec>(Vec::multiply(gate, Vec::splat(-1.702f)));
  return Vec::divide(Vec::multiply(gate, Vec::add(one, up)), Vec::add(one, power));
}

// x Phi(x), with the error function to 1.5e-7: Abramowitz and Stegun, 7.1.26. That gives q = 1 - erf(|x| / sqrt(2)), and
// x Phi(x) is max(x, 0) - |x| q / 2.
template <class Vec>
KR_INLINE typename Vec::Floats gelu(typename Vec::Floats x) {
  const auto one = Vec::splat(1.0f), size = Vec::magnitude(x);
  const auto scaled = Vec::multiply(size, Vec::splat(0.707106781f));
  const auto t = Vec::divide(one, Vec::fma(scaled, Vec::splat(0.3275911f), one));
  auto sum = Vec::splat(1.061405429f);
  sum = Vec::fma(sum, t, Vec::splat(-1.453152027f));
  sum = Vec::fma(sum, t, Vec::splat(1.421413741f));
  sum = Vec::fma(sum, t, Vec::splat(-0.284496736f));
  sum = Vec::fma(sum, t, Vec::splat(0.254829592f));
  const auto power = exponential<Vec>(Vec::multiply(Vec::multiply(scaled, scaled), Vec::splat(-1.0f)));
  const auto rest = Vec::multiply(Vec::multiply(sum, t), power);
  return Vec::fma(Vec::multiply(size, rest), Vec::splat(-0.5f), Vec::max(x, Vec::zero()));
}

// tanh(x) to some 1e-7.
template <class Vec>
KR_INLINE typename Vec::Floats hyperbolic_tangent(typename Vec::Floats x) {
  const auto power = exponential<Vec>(Vec::multiply(x, Vec::splat(-2.0f)));
  const auto one = Vec::splat(1.0f);
  const auto less = Vec::fma(power, Vec::splat(-1.0f), one);
  return Vec::divide(less, Vec::add(one, power));
}

}  // namespace
}  // namespace kr
