// The vectors of attention. Included by one translation unit per instruction set, after it has defined `Vec`, eight floats,
// in the same unnamed namespace; it then says which vectors are its `Widest`, and how many rows share its registers.
//
// A sum of products forms in one lane, in order, so the width of a vector changes no result. Sums over lanes are taken of
// eight everywhere.
#pragma once

namespace kr {
namespace {

constexpr int lanes = 8;

struct Eight {
  using Vector = Vec;
  static constexpr int lanes = kr::lanes;

  static Vector broadcast(float value) { return kr::broadcast(value); }
  template <class Stored>
  static Vector load(const Stored* from) {
    return kr::load(from);
  }
  static void store(float* to, Vector value) { kr::store(to, value); }
};

}  // namespace
}  // namespace kr
