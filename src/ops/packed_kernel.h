// Inner loops over packed weights: one row times a weight, and a weight's values in the order in
// which matmul's tiles read them.
#pragma once

#include "ops/packed_matrix.h"

namespace qad::ops {

// c[row] = bias[row] + sum over k of a[k] w[row][k] for the rows of groups [begin, end). Sums are
// cut every `depth` terms, a multiple of 16, as matmul's are. bias may be null.
void multiply_row(const PackedMatrix& w, const float* a, const float* bias, std::int64_t depth,
                  std::int64_t begin, std::int64_t end, float* c);

// What pack_panels makes of the transposed weight: terms [k, k + depth), k a multiple of 16, of
// rows [first, first + rows), where first is a multiple of a vector's lanes.
void unpack_panels(const PackedMatrix& w, std::int64_t k, std::int64_t depth, std::int64_t first,
                   std::int64_t rows, float* to);

}  // namespace qad::ops
