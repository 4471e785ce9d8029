// Where no vector is wider than `Vec`. Included instead of attention_vectors.h.
#pragma once

#include "attention_vectors.h"

namespace kr {
namespace {

using Widest = Eight;

// Query rows whose accumulators fit sixteen registers: six for one strip, three for two strips at a time.
constexpr int register_rows = 6;
constexpr int rows_with_two_strips = 3;

}  // namespace
}  // namespace kr
