// How much the kernels have done, for whoever watches that they do not stand still.
#pragma once

#include <cstdint>

namespace kr {

// The calling thread has finished another short piece of work: a tile of a product, or a task of the pool.
void count_progress() noexcept;

// A number that changes with every piece that any thread finishes.
uint64_t progress() noexcept;

}  // namespace kr
