// Which kernels read which kind of element.
#include "row_kernels.h"

namespace cbkernels::cuda {

const RowKernels& row_kernels(Element element) {
  static constexpr const RowKernels* of_element[] = {
      // in the order of Element
      &bits_kernels,   &float32_kernels,        &float64_kernels, &packed16_kernels,       &packed8_kernels,
      &grid32_kernels, &grid32_rounded_kernels, &grid16_kernels,  &grid16_rounded_kernels, &any_kernels};
  static_assert(sizeof of_element / sizeof of_element[0] == num_elements);
  return *of_element[static_cast<int>(element)];
}

}  // namespace cbkernels::cuda
