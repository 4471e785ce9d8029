#include "linear.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "aligned_buffer.h"
#include "floats.h"
#include "pool.h"
#include "prepared_rows.h"
#include "progress.h"
#include "row_tasks.h"
#include "tile_kernels.h"

namespace kr {

namespace {

// Rows whose activations stay in a core's L2 cache while the weights pass by.
constexpr size_t row_block_bytes = 256 * 1024;
// Tasks for each thread: enough that the last ones to finish are not far apart.
constexpr int tasks_per_thread = 16;
// Below this many multiply-adds the calling thread is done before another has begun.
constexpr int64_t worth_sharing_products = 1 << 17;

// One thread's part of a tile.
struct TileMemory {
  TileScratch scratch;
  float* products;  // [rows, tile_outputs]
  float* second;    // like products: the up half of a gated product
  char* padded;     // a matrix's last rows, filled up to a tile
};

size_t row_bytes(const QuantizedMatrix& matrix) { return static_cast<size_t>(matrix.inputs) * matrix.bits / 8; }
size_t row_bytes(const DenseMatrix& matrix) { return static_cast<size_t>(matrix.inputs) * float_bytes(matrix.type); }
size_t scale_row_bytes(const QuantizedMatrix& matrix) {
  const size_t bytes = matrix.packing == Packing::affine ? float_bytes(matrix.type) : 1;
  return matrix.inputs / matrix.group * bytes;
}

// Bytes that a padded tile's rows take.
size_t padded_bytes(const Matrix& matrix, int tile_outputs) {
  const size_t row = matrix.kind == Matrix::Kind::dense
                         ? row_bytes(matrix.dense)
                         : row_bytes(matrix.quantized) + 2 * scale_row_bytes(matrix.quantized);
  return row * tile_outputs + 3 * AlignedBuffer::alignment;
}

// Copies the rows from `first` on into a tile's worth of memory; the rows that are missing become zeros.
const void* pad(const void* rows, size_t row_bytes, int first, int present, int wanted, Carver& carver) {
  char* copy = carver.take<char>(row_bytes * wanted);
  std::memcpy(copy, static_cast<const char*>(rows) + row_bytes * first, row_bytes * present);
  std::memset(copy + row_bytes * present, 0, row_bytes * (wanted - present));
  return copy;
}

class Products {
 public:
  Products(const LinearJob& job, const TileKernels& kernels, const PreparedRows& x)
      : job_(job), kernels_(kernels), x_(x) {
    const int products = job.gate != Gate::none ? 1 : job.matrix_count;
    for (int i = 0; i < products; i++) {
      tiles_ += tiles_of(job.matrices[i]);
      width_ += job.matrices[i].outputs();
    }
    const size_t inputs = job.matrices[0].inputs();
    const int most_rows = std::max<int>(8 * kernels.rows_together, row_block_bytes / (inputs * 2));
    row_blocks_ = (job.rows + most_rows - 1) / most_rows;
    rows_a_block_ = (job.rows + row_blocks_ - 1) / row_blocks_;
  }

  int64_t work() const { return static_cast<int64_t>(job_.rows) * width_ * job_.matrices[0].inputs(); }

  // Cuts the work into about `wanted_tasks` tasks, and returns the exact number.
  int cut(int64_t wanted_tasks) {
    tiles_a_task_ = static_cast<int>(std::max<int64_t>(1, int64_t{tiles_} * row_blocks_ / wanted_tasks));
    tasks_a_block_ = (tiles_ + tiles_a_task_ - 1) / tiles_a_task_;
    return row_blocks_ * tasks_a_block_;
  }

  void run_task(int task) const {
    const int first = task % tasks_a_block_ * tiles_a_task_;
    compute(task / tasks_a_block_, first, std::min(tiles_, first + tiles_a_task_));
  }

  void run_alone() const {
    for (int block = 0; block < row_blocks_; block++) compute(block, 0, tiles_);
  }

 private:
  int tiles_of(const Matrix& matrix) const {
    return (matrix.outputs() + kernels_.tile_outputs - 1) / kernels_.tile_outputs;
  }

  // The tiles from `first` to `end` in the sequence of all matrices' tiles, for a block of rows.
  void compute(int block, int first, int end) const {
    const int first_row = block * rows_a_block_;
    const int rows = std::min(rows_a_block_, job_.rows - first_row);
    if (rows <= 0) return;
    const TileMemory memory = memory_of_thread(rows);
    int matrix = 0, column = 0, matrix_begin = 0;
    for (int tile = first; tile < end; tile++) {
      while (tile - matrix_begin >= tiles_of(job_.matrices[matrix])) {
        matrix_begin += tiles_of(job_.matrices[matrix]);
        column += job_.matrices[matrix].outputs();
        matrix++;
      }
      const int output = (tile - matrix_begin) * kernels_.tile_outputs;
      const int outputs = std::min(kernels_.tile_outputs, job_.matrices[matrix].outputs() - output);
      multiply(job_.matrices[matrix], output, first_row, rows, memory.products, memory);
      if (job_.gate != Gate::none) {
        multiply(job_.matrices[1], output, first_row, rows, memory.second, memory);
        kernels_.gate(job_.gate, memory.products, memory.second, rows * kernels_.tile_outputs);
      }
      store(memory.products, first_row, rows, column + output, outputs);
      count_progress();  // a task may have many tiles
    }
  }

  // A tile's product with its bias.
  void multiply(const Matrix& matrix, int first, int first_row, int rows, float* tile, const TileMemory& memory) const {
    const int present = std::min(kernels_.tile_outputs, matrix.outputs() - first);
    if (matrix.kind == Matrix::Kind::quantized) {
      multiply(matrix.quantized, first, present, first_row, rows, tile, memory);
    } else {
      multiply(matrix.dense, first, present, first_row, rows, tile, memory);
    }
    if (!matrix.bias) return;
    for (int r = 0; r < rows; r++) {
      for (int o = 0; o < present; o++) tile[r * kernels_.tile_outputs + o] += matrix.bias[first + o];
    }
  }

  void multiply(QuantizedMatrix matrix, int first, int present, int first_row, int rows, float* tile,
                const TileMemory& memory) const {
    const RoundedRows& x = x_.rounded(matrix);
    const bool last = first + kernels_.tile_outputs >= matrix.outputs;
    if (present < kernels_.tile_outputs) {
      Carver carver(memory.padded);
      const int wanted = kernels_.tile_outputs;
      matrix.packed =
          static_cast<const uint8_t*>(pad(matrix.packed, row_bytes(matrix), first, present, wanted, carver));
      matrix.scales = pad(matrix.scales, scale_row_bytes(matrix), first, present, wanted, carver);
      if (matrix.biases) matrix.biases = pad(matrix.biases, scale_row_bytes(matrix), first, present, wanted, carver);
      first = 0;
    }
    if (is_one_row(x.form)) return kernels_.one_row->tile(matrix, first, x, first_row, tile, memory.scratch, last);
    kernels_.quantized(matrix, first, x, first_row, rows, tile, memory.scratch, last);
  }

  void multiply(DenseMatrix matrix, int first, int present, int first_row, int rows, float* tile,
                const TileMemory& memory) const {
    const bool last = first + kernels_.tile_outputs >= matrix.outputs;
    if (present < kernels_.tile_outputs) {
      Carver carver(memory.padded);
      matrix.values = pad(matrix.values, row_bytes(matrix), first, present, kernels_.tile_outputs, carver);
      first = 0;
    }
    kernels_.dense(matrix, first, x_.floats(), first_row, rows, tile, memory.scratch, last);
  }

  void store(const float* tile, int first_row, int rows, int column, int outputs) const {
    for (int r = 0; r < rows; r++) {
      const size_t at = static_cast<size_t>(first_row + r) * width_ + column;
      const float* from = tile + static_cast<size_t>(r) * kernels_.tile_outputs;
      if (job_.residual) {
        for (int o = 0; o < outputs; o++) job_.y[at + o] = from[o] + job_.residual[at + o];
      } else {
        std::memcpy(job_.y + at, from, outputs * sizeof(float));
      }
    }
  }

  TileMemory memory_of_thread(int rows) const {
    static thread_local AlignedBuffer buffer;
    size_t scale_groups = 0, padded = 0;
    for (int i = 0; i < job_.matrix_count; i++) {
      const Matrix& matrix = job_.matrices[i];
      padded = std::max(padded, padded_bytes(matrix, kernels_.tile_outputs));
      if (matrix.kind == Matrix::Kind::dense) continue;
      scale_groups = std::max<size_t>(scale_groups, matrix.quantized.inputs / matrix.quantized.group);
    }
    const size_t outputs = kernels_.tile_outputs;
    TileMemory memory;
    const auto lay_out = [&](Carver carver) {
      memory.scratch.unpacked = carver.take<char>(unpacked_bytes(kernels_.tile_outputs));
      memory.scratch.scales = carver.take<float>(scale_groups * outputs);
      memory.scratch.biases = carver.take<float>(scale_groups * outputs);
      memory.products = carver.take<float>(rows * outputs);
      memory.second = carver.take<float>(rows * outputs);
      memory.padded = carver.take<char>(padded);
      return carver.used();
    };
    const size_t bytes = lay_out(Carver(nullptr));
    lay_out(Carver(buffer.reserve(bytes)));
    return memory;
  }

  const LinearJob& job_;
  const TileKernels& kernels_;
  const PreparedRows& x_;
  int tiles_ = 0;
  int width_ = 0;  // of y
  int row_blocks_;
  int rows_a_block_;
  int tiles_a_task_ = 0;
  int tasks_a_block_ = 0;
};

// The part in which a number lies, of parts that end at `ends`.
int part_of(const std::vector<int>& ends, int number) {
  return static_cast<int>(std::upper_bound(ends.begin(), ends.end(), number) - ends.begin());
}

// Of several jobs whose matrices have equal inputs.
void prepare_all(const LinearJob* jobs, int count, const TileKernels& kernels, std::vector<PreparedRows>& rows) {
  if (rows.size() < static_cast<size_t>(count)) rows.resize(count);
  std::vector<int> ends(count);
  bool has_work = false;
  for (int i = 0; i < count; i++) {
    has_work |= rows[i].lay_out(jobs[i], kernels);
    ends[i] = (i > 0 ? ends[i - 1] : 0) + jobs[i].rows;
  }
  if (!has_work) return;
  for_each_row(ends[count - 1], jobs[0].matrices[0].inputs(), [&](int row) {
    const int i = part_of(ends, row);
    rows[i].prepare_row(jobs[i], kernels, row - (i > 0 ? ends[i - 1] : 0));
  });
}

}  // namespace

void linear(const LinearJob& job) {
  if (job.rows <= 0 || job.matrix_count <= 0) return;
  static thread_local PreparedRows of_thread;
  PreparedRows& x = of_thread;  // which other threads prepare too
  const TileKernels& kernels = tile_kernels();
  const bool has_work = x.lay_out(job, kernels);
  const auto prepare = [&](int row) { x.prepare_row(job, kernels, row); };
  if (has_work && job.alone) {
    for (int row = 0; row < job.rows; row++) prepare(row);
  } else if (has_work) {
    for_each_row(job.rows, job.matrices[0].inputs(), prepare);
  }
  Products products(job, kernels, x);
  Pool& pool = Pool::shared();
  if (job.alone || products.work() < worth_sharing_products || pool.threads() == 1) return products.run_alone();
  pool.run(products.cut(int64_t{pool.threads()} * tasks_per_thread), [&](int task) { products.run_task(task); });
}

void linear_each(const LinearJob* jobs, int count) {
  if (count <= 0) return;
  static thread_local std::vector<PreparedRows> rows;
  const TileKernels& kernels = tile_kernels();
  prepare_all(jobs, count, kernels, rows);
  Pool& pool = Pool::shared();
  const int wanted_tasks = std::max(1, pool.threads() * tasks_per_thread / count);
  std::vector<Products> products;
  products.reserve(count);
  std::vector<int> ends;
  int64_t work = 0;
  for (int i = 0; i < count; i++) {
    products.emplace_back(jobs[i], kernels, rows[i]);
    work += products[i].work();
    ends.push_back((i > 0 ? ends[i - 1] : 0) + products[i].cut(wanted_tasks));
  }
  if (work < worth_sharing_products || pool.threads() == 1) {
    for (const Products& part : products) part.run_alone();
    return;
  }
  pool.run(ends.back(), [&](int task) {
    const int i = part_of(ends, task);
    products[i].run_task(task - (i > 0 ? ends[i - 1] : 0));
  });
}

}  // namespace kr
