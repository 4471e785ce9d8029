// What the processor can do, asked once.
#pragma once

namespace kr {

enum class Isa {
  portable,
  avx2,
  avx512,      // with VNNI
  avx512vbmi,  // the same with VBMI
  neon,
};

// The best instruction set that this build and this processor share, or a lesser one that KR_ISA names
// (isa_name() has the names). The same for the whole life of the process.
Isa isa();

// Its name, for logs.
const char* isa_name(Isa isa);

// Cores that this process may run on, at least 1.
int available_cores();

}  // namespace kr
