// States that are written in the middle of a row.
#pragma once

#include "recurrent.h"

namespace kr {
namespace {

// Calls write(to) for the snapshots behind `after` tokens; `next` is the first that was not written.
template <class Write>
KR_INLINE void write_snapshots(const StateRow& row, int after, int& next, const Write& write) {
  for (; next < row.snapshot_count && row.snapshots[next].after == after; next++) write(row.snapshots[next].to);
}

}  // namespace
}  // namespace kr
