// What the operations share: guards of the C interface, and checks of their inputs.
#pragma once

#include <mlx/array.h>

#include <cstdio>
#include <exception>
#include <stdexcept>

#include "chain.h"
#include "kernels/matrix.h"

namespace kr {

// The float type of an array; an error for others.
inline Float float_type(const mx::array& array) {
  if (array.dtype() == mx::float32) return Float::f32;
  if (array.dtype() == mx::float16) return Float::f16;
  if (array.dtype() == mx::bfloat16) return Float::bf16;
  throw std::invalid_argument("an array is not of a float type");
}

inline void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

// Runs `body`, which returns an array, for a caller in another language: null and a message instead of an exception.
template <class Body>
void* array_or_null(char* message, size_t message_size, Body&& body) noexcept {
  try {
    return new mx::array(body());
  } catch (const std::exception& error) {
    std::snprintf(message, message_size, "%s", error.what());
  } catch (...) {
    std::snprintf(message, message_size, "unknown error");
  }
  return nullptr;
}

// The same for a `body` that returns nothing: 1, or 0 and a message.
template <class Body>
int done_or_message(char* message, size_t message_size, Body&& body) noexcept {
  try {
    body();
    return 1;
  } catch (const std::exception& error) {
    std::snprintf(message, message_size, "%s", error.what());
  } catch (...) {
    std::snprintf(message, message_size, "unknown error");
  }
  return 0;
}

inline const mx::array& array_at(void* context) { return *static_cast<mx::array*>(context); }

}  // namespace kr
