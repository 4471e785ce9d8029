// A job's rows of activations in the forms in which its matrices want them.
#pragma once

#include <vector>

#include "aligned_buffer.h"
#include "linear.h"
#include "tile_kernels.h"

namespace kr {

// Made once for a job, before the products; one object serves one thread's jobs, one after the other.
class PreparedRows {
 public:
  // Memory for the rows of a job; false: they are taken as they are.
  bool lay_out(const LinearJob& job, const TileKernels& kernels);

  // Normalizes and rounds one of them. Several threads may prepare several rows.
  void prepare_row(const LinearJob& job, const TileKernels& kernels, int row);

  // float32 rows, for dense matrices.
  const float* floats() const { return floats_; }

  // Rounded rows for this matrix, one of the job's.
  const RoundedRows& rounded(const QuantizedMatrix& matrix) const { return kinds_[index_of(matrix)].rows; }

 private:
  struct Kind {
    int group;
    int bits;
    Packing packing;
    RoundedRows rows;

    bool is_of(const QuantizedMatrix& matrix) const {
      return group == matrix.group && bits == matrix.bits && packing == matrix.packing;
    }
  };

  size_t index_of(const QuantizedMatrix& matrix) const;
  void list_kinds(const LinearJob& job, const TileKernels& kernels);

  std::vector<Kind> kinds_;
  const float* floats_ = nullptr;
  float* normalized_ = nullptr;
  AlignedBuffer buffer_;
};

}  // namespace kr
