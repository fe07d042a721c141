// The cuda half of the promise in a build without CUDA: a clear refusal, chosen by the linker.
#include <stdexcept>

#include "../contract.h"

namespace cbkernels::cuda {

bool is_built() { return false; }
std::string build_reason() {
  return "this build of cbkernels has no CUDA (" CBKERNELS_NO_CUDA_BECAUSE
         "); move the input to the CPU, for example with .cpu()";
}
std::string architectures() { return ""; }
std::string missing_reason() { return build_reason(); }
void require() { throw std::invalid_argument(build_reason()); }

void bundle_ids(const RowsView&, const UpdateGrid&, const Tolerance*, int64_t*, const Stream&) { require(); }
std::vector<BundleCounts> count_bundles(const std::vector<RowsView>&, const LabelsView&, const UpdateGrid&,
                                        const Tolerance*, bool, const Stream&) {
  require();
  return {};
}
Reader<std::vector<BundleCounts>> queue_bundles(const std::vector<RowsView>&, const LabelsView&, const UpdateGrid&,
                                                bool, const Stream&) {
  require();
  return {};
}
void row_fingerprints(const RowsView&, const UpdateGrid&, const fingerprint::Key&, uint64_t*, const Stream&) {
  require();
}
BundleCounts count_fingerprints(const FingerprintBlock&, bool, const Stream&) {
  require();
  return {};
}
double conflict_margin(const RowsView&, const LabelsView&, const Stream&) {
  require();
  return 0;
}
Reader<double> queue_margin(const RowsView&, const LabelsView&, const Stream&) {
  require();
  return {};
}
void wait_for(const Stream&, void*) { require(); }
int device_of(const void*) {
  require();
  return 0;
}
void use_launch_shape(int, int, int64_t) { require(); }

}  // namespace cbkernels::cuda
