#include "prepared_rows.h"

#include <algorithm>

#include "pool.h"

namespace kr {

namespace {

// Below this many values the calling thread is done before another has begun.
constexpr int64_t worth_sharing = 1 << 14;

// Byte products add up 16 bits wide, which holds 32 inputs; so do their groups, whatever the weights' are.
constexpr int byte_group = 32;

Form form_of(const LinearJob& job, const QuantizedMatrix& matrix, const TileKernels& kernels) {
  if (job.rounding == Rounding::int8 && bytes_meet(matrix)) return Form::bytes;
  return job.rows == 1 && kernels.one_row ? kernels.one_row->form(matrix) : Form::pairs;
}

}  // namespace

size_t PreparedRows::index_of(const QuantizedMatrix& matrix) const {
  size_t i = 0;
  while (i < kinds_.size() && !kinds_[i].is_of(matrix)) i++;
  return i;
}

void PreparedRows::list_kinds(const LinearJob& job, const TileKernels& kernels) {
  kinds_.clear();
  for (int i = 0; i < job.matrix_count; i++) {
    if (job.matrices[i].kind != Matrix::Kind::quantized) continue;
    const QuantizedMatrix& matrix = job.matrices[i].quantized;
    if (index_of(matrix) < kinds_.size()) continue;
    const Form form = form_of(job, matrix, kernels);
    const int group = form == Form::bytes ? byte_group : matrix.group;
    const RoundedRows rows{nullptr, nullptr, nullptr, matrix.inputs, group, form};
    kinds_.push_back({matrix.group, matrix.bits, matrix.packing, rows});
  }
}

void PreparedRows::prepare(const LinearJob& job, const TileKernels& kernels) {
  const size_t rows = job.rows, inputs = job.matrices[0].inputs();
  list_kinds(job, kernels);

  const auto lay_out = [&](Carver carver) {
    normalized_ = job.norm_weight ? carver.take<float>(rows * inputs) : nullptr;
    for (Kind& kind : kinds_) {
      kind.rows.values = carver.take<char>(rows * inputs * kind.rows.value_bytes());
      kind.rows.scales = carver.take<float>(rows * kind.rows.groups());
      kind.rows.sums = carver.take<float>(rows * kind.rows.groups());
    }
    return carver.used();
  };
  const size_t bytes = lay_out(Carver(nullptr));
  lay_out(Carver(buffer_.reserve(bytes)));
  floats_ = job.norm_weight ? normalized_ : job.x;
  if (!job.norm_weight && kinds_.empty()) return;

  if (job.alone || static_cast<int64_t>(rows * inputs) < worth_sharing) {
    for (int row = 0; row < job.rows; row++) prepare_row(job, kernels, row);
    return;
  }
  const int together = std::max<int>(1, worth_sharing / 4 / inputs);
  Pool::shared().run((job.rows + together - 1) / together, [&](int task) {
    const int end = std::min(job.rows, (task + 1) * together);
    for (int row = task * together; row < end; row++) prepare_row(job, kernels, row);
  });
}

void PreparedRows::prepare_row(const LinearJob& job, const TileKernels& kernels, int row) {
  const int inputs = job.matrices[0].inputs();
  const size_t at = static_cast<size_t>(row) * inputs;
  if (job.norm_weight) kernels.normalize(job.x + at, job.norm_weight, job.norm_eps, inputs, normalized_ + at);
  for (const Kind& kind : kinds_) {
    const RoundedRows& rounded = kind.rows;
    const size_t group_at = static_cast<size_t>(row) * rounded.groups();
    // The buffer is this object's own; the kernels see it read-only.
    char* values = static_cast<char*>(const_cast<void*>(rounded.values)) + at * rounded.value_bytes();
    kernels.round(floats_ + at, inputs, rounded.group, kind.bits, rounded.form, values,
                  const_cast<float*>(rounded.scales) + group_at, const_cast<float*>(rounded.sums) + group_at);
  }
}

}  // namespace kr
