// The authors' later variant: a row joins the first leader it is close to. Not transitive, so the order of the rows
// decides, by definition. Cost: rows x leaders x columns at worst; most pairs end in their first values.
#pragma once
#include "group_rows.h"

namespace cbkernels {

// `rows` as float64. Rows that hold a NaN are bundles of their own.
Grouping group_near_rows(const RowBlocks& rows, const Tolerance& tolerance, int num_threads, int64_t* ids);

}  // namespace cbkernels
