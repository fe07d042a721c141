// The cuda half of the promise in a build without CUDA: a clear refusal, chosen by the linker.
#include <stdexcept>

#include "../contract.h"

namespace cbkernels::cuda {

std::string missing_reason() {
  return "this build of cbkernels has no CUDA (" CBKERNELS_NO_CUDA_BECAUSE
         "); move the input to the CPU, for example with .cpu()";
}
void require() { throw std::invalid_argument(missing_reason()); }

int64_t bundle_ids(const RowsView&, const UpdateGrid&, const Tolerance*, int64_t*, int) {
  require();
  return 0;
}
BundleCounts count_bundles(const RowsView&, const LabelsView&, const UpdateGrid&, const Tolerance*, bool, int) {
  require();
  return {};
}
void row_fingerprints(const RowsView&, const UpdateGrid&, uint64_t*, uint8_t*, int) { require(); }
double conflict_margin(const RowsView&, const LabelsView&, int) {
  require();
  return 0;
}

}  // namespace cbkernels::cuda
