// What all kernels of one search for the conflict margin are given.
#pragma once
#include "distances.h"
#include "margin_cut.h"
#include "row_layout.h"

namespace cbkernels::cuda::margin {

struct Problem : Cut {
  RowLayout rows;
  LabelsView labels;
  Best* best;
  Bits* worst_of_row;  // to its neighbour
  int32_t* neighbours;  // the next row with another label, -1: none near
  uint8_t* is_left_out;  // rows that hold a NaN
  uint32_t* rounded;  // [num_tiles][pairs_of_a_tile] where tiles are cut: maxima of Floats
  Bits* distances;  // the same: maxima of the other kinds
  bool takes_chunks;  // tiles are read 16 bytes at a time
  bool is_exact;  // differences of these values are exact in float32
};

}  // namespace cbkernels::cuda::margin
