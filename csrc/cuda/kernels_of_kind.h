// What every row_kernels_*.cu compiles: the kernels of one kind of element.
#pragma once
#include "group_rows.h"
#include "sum_rows.h"

namespace cbkernels::cuda {

template <class Kind>
constexpr RowKernels kernels_of() {
  return {group_rows_kernel<Kind>, threads_of_grouping<Kind>, sum_rows_kernel<Kind>};
}

}  // namespace cbkernels::cuda
