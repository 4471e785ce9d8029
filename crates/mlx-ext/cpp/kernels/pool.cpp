#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "cpu.h"
#include "progress.h"

namespace kr {

namespace {

// A model's step is some hundred jobs in a row with microseconds between them. Waking a sleeping thread costs more than
// many of them, so a thread looks for its next job for a while before it sleeps; but never long, since the core may be
// wanted by somebody else.
constexpr std::chrono::microseconds spin_time{50};
constexpr int max_threads = 256;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits for a condition over atomics: spinning first, then asleep.
class Waiter {
 public:
  // Returns once ready() holds. Whoever makes it hold must write sequentially consistently, and then call wake.
  template <class Ready>
  void wait(const Ready& ready) {
    const auto start = std::chrono::steady_clock::now();
    do {
      for (int i = 0; i < 32; i++) {
        if (ready()) return;
        pause();
      }
    } while (std::chrono::steady_clock::now() - start < spin_time);
    std::unique_lock lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    changed_.wait(lock, ready);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }

  void wake() {
    // A sleeper counts itself before it looks at the condition for the last time, so that either it sees the change or
    // it is seen here. The empty lock waits until it has really gone to sleep.
    if (sleepers_.load(std::memory_order_seq_cst) == 0) return;
    { std::lock_guard lock(mutex_); }
    changed_.notify_all();
  }

 private:
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
};

int wanted_threads() {
  if (const char* text = std::getenv("KR_THREADS")) {
    const int count = std::atoi(text);
    if (count > 0) return std::min(count, max_threads);
    std::fprintf(stderr, "KR_THREADS=%s is no number of threads; taking one a core\n", text);
  }
  return std::min(available_cores(), max_threads);
}

}  // namespace

struct Pool::State {
  // Odd while a job is open. The job's fields below change only while it is even and `busy` is zero.
  alignas(64) std::atomic<uint32_t> generation{0};
  // Workers that are looking at the job or running its tasks. A sleeping or late worker is not among them, so that the
  // caller never waits for a thread which has nothing of its job in hand.
  alignas(64) std::atomic<int> busy{0};

  // A thread's own tasks, neighbours, so that what it reads and asks for in advance goes on from task to task. Whoever
  // has none left takes over those of others.
  struct alignas(64) Share {
    std::atomic<int> next{0};
    int end = 0;
  };
  std::vector<Share> shares;

  void (*task)(void*, int) = nullptr;
  void* argument = nullptr;

  Waiter job_opened;
  Waiter all_idle;
  std::mutex caller;
  std::vector<std::thread> workers;

  explicit State(int threads) : shares(threads) {}

  void run_tasks(size_t thread) {
    for (size_t k = 0; k < shares.size(); k++) {
      Share& share = shares[(thread + k) % shares.size()];
      for (int i; (i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
        task(argument, i);
        count_progress();
      }
    }
  }

  void work(size_t thread) {
    uint32_t seen = 0;
    for (;;) {
      job_opened.wait([&] { return generation.load(std::memory_order_seq_cst) != seen; });
      // Either the caller sees this worker in `busy` when it closes the job, or this worker sees the job closed:
      // both sides write first and read the other's word second, in one total order.
      busy.fetch_add(1, std::memory_order_seq_cst);
      seen = generation.load(std::memory_order_seq_cst);
      if (seen & 1) run_tasks(thread);
      if (busy.fetch_sub(1, std::memory_order_seq_cst) == 1) all_idle.wake();
    }
  }

  void run(int job_count, void (*job_task)(void*, int), void* job_argument) {
    std::lock_guard lock(caller);
    task = job_task;
    argument = job_argument;
    const auto threads = static_cast<int64_t>(shares.size());
    for (int64_t i = 0; i < threads; i++) {
      shares[i].next.store(static_cast<int>(job_count * i / threads), std::memory_order_relaxed);
      shares[i].end = static_cast<int>(job_count * (i + 1) / threads);
    }
    generation.fetch_add(1, std::memory_order_seq_cst);
    job_opened.wake();
    run_tasks(0);
    generation.fetch_add(1, std::memory_order_seq_cst);
    all_idle.wait([&] { return busy.load(std::memory_order_seq_cst) == 0; });
  }
};

Pool::Pool() : state_(new State(wanted_threads())) {
  for (size_t i = 1; i < state_->shares.size(); i++) {
    state_->workers.emplace_back([state = state_, i] { state->work(i); });
  }
}

Pool& Pool::shared() {
  // Never destroyed: a thread that still computes while the process exits must not lose it.
  static Pool* const pool = new Pool;
  return *pool;
}

int Pool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void Pool::run_erased(int count, void (*task)(void*, int), void* state) {
  if (count <= 0) return;
  if (count == 1 || state_->workers.empty()) {
    for (int i = 0; i < count; i++) {
      task(state, i);
      count_progress();
    }
    return;
  }
  state_->run(count, task, state);
}

}  // namespace kr

extern "C" int mlx_ext_threads() { return kr::Pool::shared().threads(); }
