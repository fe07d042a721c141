// Rows near each other, where "near" is a tolerance: a row joins the first leader that it is near to.
#pragma once
#include "../contract.h"

namespace cbkernels::cuda {

// Writes ids, or counts (which waits for the stream); what is not asked for is null.
void group_near_rows(const RowsView& rows, const Tolerance& tolerance, const LabelsView* labels, int64_t* ids,
                     const Stream& stream, BundleCounts* counts);

}  // namespace cbkernels::cuda
