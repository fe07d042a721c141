// Labels of any integer type as int64. Only equality matters: a large uint64 may wrap.
#pragma once
#include <cstring>

#include "../views.h"

namespace cbkernels {

template <class Label>
inline int64_t label_at(const LabelsView& labels, int64_t i) {
  Label value;
  std::memcpy(&value, labels.data + i * labels.stride_bytes, sizeof value);
  return static_cast<int64_t>(value);
}

using LabelAt = int64_t (*)(const LabelsView&, int64_t);

inline LabelAt label_reader(DType dtype) {
  switch (dtype) {
    case DType::int64: return label_at<int64_t>;
    case DType::int32: return label_at<int32_t>;
    case DType::int16: return label_at<int16_t>;
    case DType::int8: return label_at<int8_t>;
    case DType::uint64: return label_at<uint64_t>;
    case DType::uint32: return label_at<uint32_t>;
    case DType::uint16: return label_at<uint16_t>;
    default: return label_at<uint8_t>;
  }
}

}  // namespace cbkernels
