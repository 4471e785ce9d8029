// Times linear() over shapes of small language models. Build it like linear_test.cpp, with -O3 and no sanitizer:
// `linear_bench [outputs inputs [rows]]`. Prints for each number of rows the best time, billions of multiply-adds a second,
// and the weights' bytes a second as a share of what a plain read of as many bytes reaches on the same threads.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../kernels/cpu.h"
#include "../kernels/linear.h"
#include "../kernels/pool.h"

namespace {

using kr::Float;
using kr::LinearJob;
using kr::Matrix;
using kr::Rounding;

// Best time of one call in milliseconds. Every call works on another of `copies` copies of the data, so that caches are
// as they are in a model, where a layer's weights come round once a token.
template <class Call>
double best_ms(int copies, double budget_ms, const Call& call) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9, total = 0;
  for (int i = 0; i < 4 || (total < budget_ms && i < 1000); i++) {
    const auto start = Clock::now();
    call(i % copies);
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    if (i > 0) best = std::min(best, ms);
    total += ms;
  }
  return best;
}

// Four independent sums, so that nothing but the loads takes time.
uint64_t sum_of_words(const char* bytes, size_t count) {
  typedef uint64_t Words __attribute__((vector_size(16)));
  Words sums[4] = {};
  for (size_t i = 0; i + 64 <= count; i += 64) {
    __builtin_prefetch(bytes + i + 1024);
    for (int j = 0; j < 4; j++) {
      Words words;
      std::memcpy(&words, bytes + i + 16 * j, 16);
      sums[j] += words;
    }
  }
  const Words sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return sum[0] + sum[1];
}

// Bytes a millisecond.
double plain_read(const std::vector<std::vector<char>>& copies) {
  const size_t bytes = copies[0].size();
  constexpr size_t part = 32 * 1024;
  const int parts = static_cast<int>((bytes + part - 1) / part);
  static std::atomic<uint64_t> sink;
  const double ms = best_ms(static_cast<int>(copies.size()), 150, [&](int copy) {
    kr::Pool::shared().run(parts, [&](int i) {
      const size_t from = i * part;
      sink += sum_of_words(copies[copy].data() + from, std::min(part, bytes - from));
    });
  });
  return static_cast<double>(bytes) / ms;
}

struct Kind {
  const char* name;
  int bits;   // 0: dense
  int group;  // of quantized matrices
  Float type;
  Rounding rounding;
  kr::Packing packing = kr::Packing::affine;
};

// Any bits for packed integers, and small positive floats: in all three types those whose highest byte is 0x3c, and as
// mxfp4's exponents about 2^-7. Denormal numbers would be slow.
void fill(const Kind& kind, size_t packed, std::vector<char>& bytes) {
  const size_t float_bytes = kind.type == Float::f32 ? 4 : 2;
  uint32_t state = 1;
  for (size_t i = 0; i < bytes.size(); i++) {
    state = state * 1664525 + 1013904223;
    const bool in_floats = kind.bits == 0 || i >= packed;
    if (in_floats && kind.packing == kr::Packing::mxfp4) {
      bytes[i] = static_cast<char>(120 + state % 2);
      continue;
    }
    const bool highest = in_floats && i % float_bytes == float_bytes - 1;
    bytes[i] = static_cast<char>(highest ? 0x3c : state >> 24);
  }
}

void bench(const Kind& kind, int outputs, int inputs, const std::vector<int>& all_rows) {
  const size_t values = static_cast<size_t>(outputs) * inputs;
  const size_t float_bytes = kind.type == Float::f32 ? 4 : 2;
  const size_t packed = kind.bits ? values * kind.bits / 8 : values * float_bytes;
  const bool affine = kind.packing == kr::Packing::affine;
  const size_t scales = kind.bits ? values / kind.group * (affine ? float_bytes : 1) : 0;
  const size_t bytes = packed + (affine ? 2 : 1) * scales;
  const int copy_count = static_cast<int>(std::clamp<size_t>((96u << 20) / bytes, 1, 24));
  std::vector<std::vector<char>> copies(copy_count, std::vector<char>(bytes));
  std::vector<Matrix> matrices(copy_count);
  for (int c = 0; c < copy_count; c++) {
    fill(kind, packed, copies[c]);
    Matrix& matrix = matrices[c];
    const char* p = copies[c].data();
    if (kind.bits) {
      matrix.kind = Matrix::Kind::quantized;
      const char* biases = affine ? p + packed + scales : nullptr;
      matrix.quantized = {reinterpret_cast<const uint8_t*>(p), p + packed, biases, kind.type,
                          outputs, inputs, kind.group, kind.bits, kind.packing};
    } else {
      matrix.kind = Matrix::Kind::dense;
      matrix.dense = {p, kind.type, outputs, inputs};
    }
    matrix.bias = nullptr;
  }
  const double read = plain_read(copies);
  std::printf("%s, %d x %d, %.1f MB; plain read %.1f GB/s\n", kind.name, outputs, inputs, bytes / 1e6, read / 1e6);
  for (int rows : all_rows) {
    std::vector<float> x(static_cast<size_t>(rows) * inputs), y(static_cast<size_t>(rows) * outputs);
    for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(static_cast<int>(i * 7919 % 2001) - 1000) / 500;
    const double ms = best_ms(copy_count, 250, [&](int copy) {
      kr::linear({x.data(), rows, nullptr, 0, &matrices[copy], 1, kr::Gate::none, nullptr, y.data(), kind.rounding});
    });
    std::printf("  M %3d  %8.3f ms  %6.1f GMAC/s  %5.1f %% of plain read\n", rows, ms, rows * values / ms / 1e6,
                bytes / ms / read * 100);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Kind kinds[] = {
      {"q4 group 32 f16", 4, 32, Float::f16, Rounding::int16},
      {"q4 group 32 f16 int8", 4, 32, Float::f16, Rounding::int8},
      {"q4 group 64 bf16", 4, 64, Float::bf16, Rounding::int16},
      {"q8 group 32 f16", 8, 32, Float::f16, Rounding::int16},
      {"q8 group 64 bf16", 8, 64, Float::bf16, Rounding::int16},
      {"q2 group 64 bf16", 2, 64, Float::bf16, Rounding::int16},
      {"q3 group 64 bf16", 3, 64, Float::bf16, Rounding::int16},
      {"q5 group 64 bf16", 5, 64, Float::bf16, Rounding::int16},
      {"q6 group 64 bf16", 6, 64, Float::bf16, Rounding::int16},
      {"mxfp4", 4, 32, Float::f32, Rounding::int16, kr::Packing::mxfp4},
      {"dense f32", 0, 0, Float::f32, Rounding::int16},
      {"dense f16", 0, 0, Float::f16, Rounding::int16},
      {"dense bf16", 0, 0, Float::bf16, Rounding::int16},
  };
  std::printf("%s, %d threads\n", kr::isa_name(kr::isa()), kr::Pool::shared().threads());
  std::vector<int> rows{1, 2, 4, 8, 16, 32, 64, 512};
  if (argc >= 3) {
    if (argc == 4) rows = {std::atoi(argv[3])};
    for (const Kind& kind : kinds) bench(kind, std::atoi(argv[1]), std::atoi(argv[2]), rows);
    return 0;
  }
  for (const Kind& kind : kinds) bench(kind, 6144, 1152, rows);
  bench(kinds[0], 960, 576, rows);
  bench(kinds[0], 576, 1536, rows);
  bench(kinds[0], 3072, 576, rows);
  bench(kinds[3], 49152, 576, rows);
  return 0;
}
