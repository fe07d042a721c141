// Labels of any integer type as 64 bits. Only equality matters: a large uint64 may wrap.
#pragma once
#include "../views.h"
#include "device.h"

namespace cbkernels::cuda {

struct Labels {
  const unsigned char* data = nullptr;  // null: nobody asks for counts
  int64_t stride = 0;
  DType dtype = DType::int64;
};

inline Labels labels_of(const LabelsView& labels) {
  return {reinterpret_cast<const unsigned char*>(labels.data), labels.stride_bytes, labels.dtype};
}

CBKERNELS_DEVICE int64_t label_at(const Labels& labels, int64_t row) {
  const unsigned char* at = labels.data + row * labels.stride;
  switch (labels.dtype) {
    case DType::int64:
    case DType::uint64: return *reinterpret_cast<const int64_t*>(at);
    case DType::int32: return *reinterpret_cast<const int32_t*>(at);
    case DType::uint32: return *reinterpret_cast<const uint32_t*>(at);
    case DType::int16: return *reinterpret_cast<const int16_t*>(at);
    case DType::uint16: return *reinterpret_cast<const uint16_t*>(at);
    case DType::int8: return *reinterpret_cast<const int8_t*>(at);
    default: return *at;
  }
}

}  // namespace cbkernels::cuda
