// Speed of attention: decode beside a plain read of as many bytes, prefill beside the peak of fused multiply-adds.
//
// Compiled like attention_test.cpp, without sanitizers and with -mavx2 -mfma, or -mavx512f, for this file on x86-64: that
// decides what its peak is.
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <chrono>
#include <cstdio>
#include <functional>

#include "attention_fixture.h"
#include "pool.h"

using namespace kr;

namespace {

#if defined(__AVX512F__)
using Wide = __m512;
Wide multiply_add(Wide a, Wide b, Wide c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__)
using Wide = __m256;
Wide multiply_add(Wide a, Wide b, Wide c) { return _mm256_fmadd_ps(a, b, c); }
#else
using Wide = float __attribute__((vector_size(16)));
Wide multiply_add(Wide a, Wide b, Wide c) { return a * b + c; }
#endif

double seconds(const std::function<void()>& work) {
  auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The best of many runs: other processes share the machine.
double best_seconds(const std::function<void()>& work) {
  double best = 1e9, spent = 0;
  for (int run = 0; run < 5 || (spent < 0.4 && run < 20000); ++run) {
    double time = seconds(work);
    best = std::min(best, time);
    spent += time;
  }
  return best;
}

float sink;

// Sums a part of the memory, as fast as it comes.
void read_part(const char* from, size_t bytes) {
  Wide sums[8] = {};
  auto* at = reinterpret_cast<const Wide*>(from);
  for (size_t i = 0; i + 8 <= bytes / sizeof(Wide); i += 8)
    for (size_t j = 0; j < 8; ++j) sums[j] += at[i + j];
  Wide sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  volatile float kept = sum[0];
  sink = kept;
}

// Multiply-adds a second of all threads, in operations (two each). Twelve chains: ten would hide the latency.
double peak_flops() {
  constexpr int rounds = 200000, chains = 12;
  double time = best_seconds([&] {
    Pool::shared().run(Pool::shared().threads(), [&](int task) {
      Wide sums[chains];
      for (int c = 0; c < chains; ++c) sums[c] = Wide{} + float(c + task);
      Wide factor = Wide{} + 0.5f, added = Wide{} + 1.0f;
      for (int i = 0; i < rounds; ++i)
        for (Wide& sum : sums) sum = multiply_add(sum, factor, added);
      Wide all = {};
      for (Wide& sum : sums) all += sum;
      volatile float kept = all[0];
      sink = kept;
    });
  });
  return 2.0 * (sizeof(Wide) / sizeof(float)) * chains * rounds * Pool::shared().threads() / time;
}

// `tokens` new ones of each row: one is decode, a few are a chunk beside decodes.
void bench_few(const Model& model, int rows, int tokens, int context) {
  std::mt19937 random(1);
  Server server(model, rows, context);
  AttentionJob job = server.job();
  // The keys' and values' contents don't matter to the speed as long as they are ordinary numbers: zeros.
  size_t bytes_of_pool = size_t(Server::layers) * size_t(job.blocks_in_pool) * kv_block_bytes(job.shape);
  std::memset(job.pool, 0, bytes_of_pool);
  std::vector<float> qkv = server.model().random_tokens(rows * tokens, 1);
  std::vector<float> out(size_t(rows) * size_t(tokens) * size_t(model.heads * model.head_dim));
  std::vector<AttentionRow> table;
  for (int r = 0; r < rows; ++r) table.push_back({r * tokens, tokens, context - tokens, server.table(r).data()});
  job.qkv = qkv.data(), job.out = out.data(), job.rows = table.data(), job.row_count = rows;

  size_t bytes = bytes_of_pool / Server::layers;
  double attend = best_seconds([&] { attention(job); });
  int parts = rows * model.kv_heads;
  double read = best_seconds([&] {
    Pool::shared().run(parts, [&](int i) {
      size_t part = bytes / size_t(parts) / 64 * 64;
      read_part(job.pool + bytes + part * size_t(i), part);
    });
  });
  std::printf("%d each  %-34s rows %2d context %4d: %9.1f us  %6.1f GB/s  plain read %6.1f GB/s\n", tokens,
              model.name().c_str(), rows, context, attend * 1e6, double(bytes) / attend * 1e-9,
              double(bytes) / read * 1e-9);
}

void bench_prefill(const Model& model, int tokens, int position, double peak) {
  Server server(model, 1, position + tokens);
  AttentionJob job = server.job();
  std::memset(job.pool, 0, size_t(Server::layers) * size_t(job.blocks_in_pool) * kv_block_bytes(job.shape));
  std::vector<float> qkv = server.model().random_tokens(tokens, 1);
  std::vector<float> out(size_t(tokens) * size_t(model.heads * model.head_dim));
  AttentionRow row = {0, tokens, position, server.table(0).data()};
  job.qkv = qkv.data(), job.out = out.data(), job.rows = &row, job.row_count = 1;
  double pairs = double(tokens) * position + double(tokens) * (tokens + 1) / 2;
  double flops = 4 * pairs * model.heads * model.head_dim;
  double time = best_seconds([&] { attention(job); });
  std::printf("prefill %-34s %4d tokens at %4d:     %9.1f us  %6.1f GFLOP/s of %.1f, %2.0f %%\n", model.name().c_str(),
              tokens, position, time * 1e6, flops / time * 1e-9, peak * 1e-9, 100 * flops / time / peak);
}

}  // namespace

int main() {
  double peak = peak_flops();
  for (Float type : {Float::f32, Float::f16}) {
    Model small = {.heads = 9, .kv_heads = 3, .head_dim = 64, .type = type};
    Model large = {.heads = 32, .kv_heads = 8, .head_dim = 128, .type = type};
    for (const Model& model : {small, large}) {
      bench_prefill(model, 512, 0, peak);
      bench_prefill(model, 512, 2048, peak);
      for (int context : {16, 128, 1024, 8192})
        for (int rows : {1, 8, 32})
          if (double(rows) * context * model.kv_heads * model.head_dim < 8.5e7) bench_few(model, rows, 1, context);
      for (int tokens : {2, 4, 8, 16}) bench_few(model, 32, tokens, 2048);
    }
  }
}
