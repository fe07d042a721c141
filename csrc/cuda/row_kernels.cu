// Which kernels read which kind of element.
#include "row_kernels.h"

namespace cbkernels::cuda {

const RowKernels& row_kernels(const Elements& e) {
  static constexpr const KernelsOfKind* of_element[] = {
      // in the order of Element
      &bits_kernels,   &float32_kernels,        &float64_kernels, &packed16_kernels,      &packed8_kernels,
      &grid32_kernels, &grid32_rounded_kernels, &grid16_kernels,  &grid16_rounded_kernels};
  static_assert(sizeof of_element / sizeof of_element[0] == static_cast<int>(Element::any));
  if (e.element == Element::any) return any_kernels;
  const KernelsOfKind& kernels = *of_element[static_cast<int>(e.element)];
  return e.rows.is_in_chunks ? kernels.in_chunks : kernels.in_words;
}

}  // namespace cbkernels::cuda
