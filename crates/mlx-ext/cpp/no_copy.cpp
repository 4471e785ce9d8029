// An MLX array over memory that MLX did not allocate, without a copy (CPU backend).
//
// MLX's C interface can only do this through `make_buffer`, which the CPU allocator does not
// implement: it would copy. The C++ constructor from a Buffer does not ask the allocator.

#include <mlx/allocator.h>
#include <mlx/array.h>

#include "operations.h"

// `buffer` points at the 8-byte size word right before the data, as the CPU allocator lays out
// its own blocks. Returns what mlx-c keeps in `mlx_array::ctx`, or null and, in `message`,
// why. `dropped(payload)` runs once, when the last array that shares the data is gone.
extern "C" void* mlx_ext_bytes_over(
    void* buffer, const int* shape, int dims, void* payload, void (*dropped)(void*), char* message,
    size_t message_size) noexcept {
  namespace mx = mlx::core;
  return kr::array_or_null(message, message_size, [&] {
    return mx::array(
        mx::allocator::Buffer(buffer),
        mx::Shape(shape, shape + dims),
        mx::uint8,
        [payload, dropped](mx::allocator::Buffer) { dropped(payload); });
  });
}
