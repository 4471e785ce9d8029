#include "prepared_rows.h"

#include <algorithm>

#include "pool.h"

namespace kr {

namespace {

// Below this many values the calling thread is done before another has begun.
constexpr int64_t worth_sharing = 1 << 14;

// Byte products add up 16 bits wide, which holds 32 inputs; so do their groups, whatever the weights' are.
constexpr int byte_group = 32;

}  // namespace

size_t PreparedRows::index_of(const QuantizedMatrix& matrix) const {
  size_t i = 0;
  while (i < forms_.size() && (forms_[i].group != matrix.group || forms_[i].bits != matrix.bits)) i++;
  return i;
}

void PreparedRows::list_forms(const LinearJob& job, const TileKernels& kernels) {
  forms_.clear();
  for (int i = 0; i < job.matrix_count; i++) {
    if (job.matrices[i].kind != Matrix::Kind::quantized) continue;
    const QuantizedMatrix& matrix = job.matrices[i].quantized;
    if (index_of(matrix) < forms_.size()) continue;
    const bool bytes = job.rounding == Rounding::int8 && kernels.bytes_pay(matrix.bits);
    const int group = bytes ? byte_group : matrix.group;
    forms_.push_back({matrix.group, matrix.bits, RoundedRows{nullptr, nullptr, nullptr, matrix.inputs, group, bytes}});
  }
}

void PreparedRows::prepare(const LinearJob& job, const TileKernels& kernels) {
  const size_t rows = job.rows, inputs = job.matrices[0].inputs();
  list_forms(job, kernels);

  const auto lay_out = [&](Carver carver) {
    normalized_ = job.norm_weight ? carver.take<float>(rows * inputs) : nullptr;
    for (Form& form : forms_) {
      form.rows.values = carver.take<char>(rows * inputs * (form.rows.bytes ? 1 : 2));
      form.rows.scales = carver.take<float>(rows * form.rows.groups());
      form.rows.sums = carver.take<float>(rows * form.rows.groups());
    }
    return carver.used();
  };
  const size_t bytes = lay_out(Carver(nullptr));
  lay_out(Carver(buffer_.reserve(bytes)));
  floats_ = job.norm_weight ? normalized_ : job.x;
  if (!job.norm_weight && forms_.empty()) return;

  if (static_cast<int64_t>(rows * inputs) < worth_sharing) {
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
  for (const Form& form : forms_) {
    const RoundedRows& rounded = form.rows;
    const size_t group_at = static_cast<size_t>(row) * rounded.groups();
    // The buffer is this object's own; the kernels see it read-only.
    char* values = static_cast<char*>(const_cast<void*>(rounded.values)) + at * (rounded.bytes ? 1 : 2);
    kernels.round(floats_ + at, inputs, rounded.group, form.bits, rounded.bytes, values,
                  const_cast<float*>(rounded.scales) + group_at, const_cast<float*>(rounded.sums) + group_at);
  }
}

}  // namespace kr
