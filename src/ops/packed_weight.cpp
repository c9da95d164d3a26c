// Rows into their lanes, and the two operators that read them.
#include "ops/packed_weight.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/library.h>

#include <bit>
#include <cstring>

#include "nvfp4/nvfp4.h"
#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/pack.h"
#include "ops/product.h"

namespace qad::ops {
namespace {

using at::Tensor;

constexpr const char* kName = "packed weight";

// Where a row's first word is; the next one is kSideBySide further.
std::int64_t lane(std::int64_t row, std::int64_t words_per_row) {
  return row / kSideBySide * words_per_row * kSideBySide + row % kSideBySide;
}

std::uint32_t bits(float x) {
  return std::bit_cast<std::uint32_t>(x);
}

// Lanes behind the last row are zero, the others to be filled.
Tensor with_zeros_behind(std::int64_t rows, at::IntArrayRef shape, at::ScalarType type) {
  const Tensor t = at::empty(shape, type);
  if (rows % kSideBySide != 0) t.select(0, shape[0] - 1).zero_();
  return t;
}

void check_rows(const PackedWeight& w, std::int64_t first, std::int64_t rows) {
  check(first >= 0 && rows >= 0 && first + rows <= w.matrix.rows, kName,
        "expected rows within {}, found {} to {}", w.matrix.rows, first, first + rows);
}

std::vector<double> globals_of(const PackedWeight& w) {
  return {w.matrix.globals.begin(), w.matrix.globals.end()};
}

// Codes and scales as checkpoints lay them out, of parts with a global scale each.
Tensor unpacked_rows(const Packed& all, std::int64_t cols, at::IntArrayRef ends,
                     at::ArrayRef<double> globals, at::ScalarType type) {
  Tensors parts;
  std::int64_t first = 0;
  for (std::size_t i = 0; i < ends.size(); first = ends[i++]) {
    const auto rows = [&](const Tensor& t) { return t.narrow(0, first, ends[i] - first); };
    parts.push_back(unpack({rows(all.codes), rows(all.scales)}, cols, globals[i], type));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts);
}

// What a GPU's kernels are held to.
Tensor linear_packed_cpu(const Tensor& x, const Tensor& codes, const Tensor& scales,
                         at::IntArrayRef ends, at::ArrayRef<double> globals,
                         const std::optional<Tensor>& bias) {
  check_floats(x, 2, "linear", "x");
  check_tensor(codes, at::kByte, 2, "linear", "codes");
  check_tensor(scales, at::kByte, 2, "linear", "scales");
  return product(x, unpacked_rows({codes, scales}, x.size(1), ends, globals, at::kFloat).t(),
                 bias.value_or(Tensor()));
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "linear_packed(Tensor x, Tensor codes, Tensor scales, int[] ends, float[] globals, "
      "Tensor? bias) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("linear_packed", linear_packed_cpu);
}

Tensor linear_packed(const Tensor& x, const PackedWeight& w, const Tensor& bias) {
  static const auto op = find_op<decltype(linear_packed_cpu)>("qad::linear_packed");
  return call_kernel(op, x, w.words, w.scales, w.matrix.ends, globals_of(w),
                     bias.defined() ? std::optional(bias) : std::nullopt);
}

}  // namespace

std::int64_t PackedWeight::nbytes() const {
  return static_cast<std::int64_t>(words.nbytes() + (scales.defined() ? scales.nbytes() : 0));
}

PackedWeight make_packed(Stored stored, std::int64_t rows, std::int64_t cols,
                         const std::vector<GlobalScale>& globals, const at::Device& device) {
  PackedWeight w;
  PackedMatrix& m = w.matrix;
  m.stored = stored;
  m.rows = rows;
  m.cols = cols;
  check(device.is_cpu() || stored == Stored::nvfp4, kName, "on a GPU: expected NVFP4");
  if (stored == Stored::nvfp4) {
    check(cols % nvfp4::kBlock == 0, kName, "NVFP4: expected columns in blocks of 16, found {}",
          cols);
    std::int64_t end = 0;
    for (const GlobalScale& g : globals) {
      m.ends.push_back(end += g.rows);
      m.globals.push_back(g.value);
    }
    check(end == rows, kName, "NVFP4: expected global scales of {} rows, found {}", rows, end);
  }
  if (!device.is_cpu()) {
    const auto bytes = at::TensorOptions().dtype(at::kByte).device(device);
    w.words = at::empty({rows, cols / 2}, bytes);
    w.scales = at::empty({rows, cols / nvfp4::kBlock}, bytes);
    return w;
  }
  w.words = with_zeros_behind(rows, {m.groups(), m.words_per_row(), kSideBySide}, at::kInt);
  m.words = reinterpret_cast<const std::uint32_t*>(w.words.const_data_ptr<std::int32_t>());
  if (stored != Stored::nvfp4) return w;
  w.scales = with_zeros_behind(rows, {m.groups(), cols / nvfp4::kBlock, kSideBySide}, at::kByte);
  m.scales = w.scales.const_data_ptr<std::uint8_t>();
  return w;
}

void put_rows(const PackedWeight& w, std::int64_t first, std::int64_t rows, const float* values) {
  const PackedMatrix& m = w.matrix;
  check(m.stored != Stored::nvfp4, kName, "expected codes and scales for NVFP4, found values");
  check_rows(w, first, rows);
  const std::int64_t per_row = m.words_per_row();
  auto* const words = reinterpret_cast<std::uint32_t*>(w.words.data_ptr<std::int32_t>());
  for (std::int64_t r = 0; r < rows; ++r) {
    std::uint32_t* to = words + lane(first + r, per_row);
    const float* from = values + r * m.cols;
    if (m.stored == Stored::fp32) {
      for (std::int64_t k = 0; k < m.cols; ++k) to[k * kSideBySide] = bits(from[k]);
      continue;
    }
    std::uint32_t lost = 0;
    for (std::int64_t k = 0; k + 1 < m.cols; k += 2) {
      to[k / 2 * kSideBySide] = bits(from[k]) >> 16 | (bits(from[k + 1]) & 0xFFFF0000u);
      lost |= bits(from[k]) | bits(from[k + 1]);
    }
    if (m.cols % 2 != 0) {
      to[m.cols / 2 * kSideBySide] = bits(from[m.cols - 1]) >> 16;
      lost |= bits(from[m.cols - 1]);
    }
    check((lost & 0xFFFFu) == 0, kName, "expected values of BF16, found more bits in row {}",
          first + r);
  }
}

void put_rows(const PackedWeight& w, std::int64_t first, std::int64_t rows,
              const std::uint8_t* codes, const std::uint8_t* scales) {
  const PackedMatrix& m = w.matrix;
  check(m.stored == Stored::nvfp4, kName, "expected values, found codes and scales of NVFP4");
  check_rows(w, first, rows);
  if (!w.words.is_cpu()) {
    const auto put = [&](const Tensor& all, const std::uint8_t* bytes) {
      const Tensor to = all.narrow(0, first, rows);
      to.copy_(at::from_blob(const_cast<std::uint8_t*>(bytes), to.sizes(), at::kByte));
    };
    put(w.words, codes);
    put(w.scales, scales);
    return;
  }
  const std::int64_t per_row = m.words_per_row(), blocks = m.cols / nvfp4::kBlock;
  auto* const words = reinterpret_cast<std::uint32_t*>(w.words.data_ptr<std::int32_t>());
  std::uint8_t* const places = w.scales.data_ptr<std::uint8_t>();
  for (std::int64_t r = 0; r < rows; ++r) {
    std::uint32_t* to = words + lane(first + r, per_row);
    for (std::int64_t i = 0; i < per_row; ++i)
      std::memcpy(to + i * kSideBySide, codes + (r * per_row + i) * 4, 4);  // first code lowest
    std::uint8_t* scale = places + lane(first + r, blocks);
    for (std::int64_t b = 0; b < blocks; ++b) scale[b * kSideBySide] = scales[r * blocks + b];
  }
}

Tensor unpacked(const PackedWeight& w, at::ScalarType type) {
  check(!w.words.is_cpu(), kName, "expected a weight on a GPU");
  return unpacked_rows({w.words, w.scales}, w.matrix.cols, w.matrix.ends, globals_of(w), type);
}

Tensor linear(const Tensor& x, const PackedWeight& w, const Tensor& bias) {
  const PackedMatrix& m = w.matrix;
  check(!recording({&x, &bias}), "linear",
        "a packed weight has no gradient, and one is asked for: call it under at::NoGradGuard");
  if (!w.words.is_cpu()) return linear_packed(x, w, bias);
  check_floats(x, 2, "linear", "x");
  check_size(x.size(1), m.cols, "linear", "columns of x");
  if (bias.defined()) {
    check_floats(bias, 1, "linear", "bias");
    check_size(bias.size(0), m.rows, "linear", "size of bias");
  }
  const Tensor in = x.contiguous(), row = bias.defined() ? bias.contiguous() : Tensor();
  const Tensor out = at::empty({in.size(0), m.rows}, in.options());
  matmul_packed({in.const_data_ptr<float>(), m.cols}, m, out.data_ptr<float>(), m.rows, in.size(0),
                row.defined() ? row.const_data_ptr<float>() : nullptr);
  return out;
}

Tensor embedding(const PackedWeight& w, const Tensor& ids) {
  const PackedMatrix& m = w.matrix;
  check(m.stored != Stored::nvfp4, "embedding", "expected a table of FP32 or BF16, found NVFP4");
  check_ints(ids, at::kLong, "embedding", "ids");
  const Tensor i = ids.contiguous();
  const Tensor out = at::empty({i.numel(), m.cols}, at::kFloat);
  const std::int64_t per_row = m.words_per_row();
  for (std::int64_t t = 0; t < i.numel(); ++t) {
    const std::int64_t id = i.const_data_ptr<std::int64_t>()[t];
    check(id >= 0 && id < m.rows, "embedding",
          "token {} has id {}: expected 0 to {}; is the tokenizer from this checkpoint?", t, id,
          m.rows - 1);
    const std::uint32_t* from = m.words + lane(id, per_row);
    float* to = out.data_ptr<float>() + t * m.cols;
    for (std::int64_t k = 0; k < m.cols; ++k)
      to[k] = std::bit_cast<float>(m.stored == Stored::fp32 ? from[k * kSideBySide]
                                   : k % 2 == 0             ? from[k / 2 * kSideBySide] << 16
                                                : from[k / 2 * kSideBySide] & 0xFFFF0000u);
  }
  return out;
}

}  // namespace qad::ops
