#include "prepared_rows.h"

namespace kr {

namespace {

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

bool PreparedRows::lay_out(const LinearJob& job, const TileKernels& kernels) {
  const size_t rows = job.rows, inputs = job.matrices[0].inputs();
  list_kinds(job, kernels);

  const auto carve = [&](Carver carver) {
    normalized_ = job.norm_weight ? carver.take<float>(rows * inputs) : nullptr;
    for (Kind& kind : kinds_) {
      kind.rows.values = carver.take<char>(rows * inputs * kind.rows.value_bytes());
      kind.rows.scales = carver.take<float>(rows * kind.rows.groups());
      kind.rows.sums = carver.take<float>(rows * kind.rows.groups());
    }
    return carver.used();
  };
  const size_t bytes = carve(Carver(nullptr));
  carve(Carver(buffer_.reserve(bytes)));
  floats_ = job.norm_weight ? normalized_ : job.x;
  return job.norm_weight || !kinds_.empty();
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
