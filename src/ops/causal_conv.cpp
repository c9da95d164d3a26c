// The short causal convolution before Mamba's scan, with its SiLU. Each channel has its own taps,
// so a token is a sum of rows, each times a row of the transposed weight. Taps are added from the
// oldest to the newest, and those before a document's first token are left out.
#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/documents.h"
#include "ops/mamba.h"
#include "ops/mamba_checks.h"
#include "ops/simd.h"

namespace qad::ops {
namespace {

using at::Tensor;

constexpr const char* kName = "causal_conv";
constexpr std::int64_t kMostTaps = 64;

// Rows of `cols` values, which may be columns of a wider matrix.
struct Rows {
  const float* data;
  std::int64_t stride;
  const float* operator[](std::int64_t row) const { return data + row * stride; }
};

struct Taps {
  Tensor weight;  // [K, C]
  Tensor bias;    // or undefined
  std::int64_t count = weight.size(0), cols = weight.size(1);
  const float* weights = weight.const_data_ptr<float>();
  const float* bias_row = bias.defined() ? bias.const_data_ptr<float>() : nullptr;

  const float* tap(std::int64_t k) const { return weights + k * cols; }
};

Taps checked_taps(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  check_floats(x, 2, kName, "x");
  check_floats(weight, 3, kName, "weight");
  check_taps(x, weight, kMostTaps, kName);
  if (bias) {
    check_floats(*bias, 1, kName, "bias");
    check_size(bias->size(0), x.size(1), kName, "size of bias");
  }
  return {weight.squeeze(1).t().contiguous(), bias ? bias->contiguous() : Tensor()};
}

Tensor with_rows(const Tensor& x) {
  return x.stride(1) == 1 ? x : x.contiguous();
}
Rows rows_of(const Tensor& x) {
  return {x.const_data_ptr<float>(), x.stride(0)};
}

// The inputs that a token's taps meet; null: none.
using Window = const float* [kMostTaps];

void look(const Rows& x, std::int64_t token, std::int64_t start, std::int64_t taps,
          Window& window) {
  for (std::int64_t k = 0; k < taps; ++k) {
    const std::int64_t from = token - (taps - 1 - k);
    window[k] = from >= start ? x[from] : nullptr;
  }
}

// The sum before SiLU, of n channels from i on.
HWY_INLINE FloatVec sum_of(FloatTag d, const Taps& taps, const Window& window, std::int64_t i,
                           std::int64_t n) {
  auto sum = taps.bias_row ? load(d, taps.bias_row + i, n) : hn::Zero(d);
  for (std::int64_t k = 0; k < taps.count; ++k)
    if (window[k]) sum = hn::MulAdd(load(d, taps.tap(k) + i, n), load(d, window[k] + i, n), sum);
  return sum;
}

void convolve(const Taps& taps, const Window& window, float* y) {
  const FloatTag d;
  for_lanes(d, taps.cols, [&](std::int64_t i, std::int64_t n) {
    const auto sum = sum_of(d, taps, window, i, n);
    store(d, hn::Mul(sum, sigmoid(d, sum)), y + i, n);
  });
}

Tensor causal_conv_cpu(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                       const Tensor& cu_seqlens) {
  const Taps taps = checked_taps(x, weight, bias);
  const std::int64_t tokens = x.size(0), cols = x.size(1);
  const auto starts = starts_by_token(checked_documents(cu_seqlens, tokens, tokens, kName));
  const Tensor in = with_rows(x);
  const Rows rows = rows_of(in);
  Tensor out = at::empty({tokens, cols}, x.options());
  float* to = out.data_ptr<float>();
  parallel_for(0, tokens, row_grain(cols * taps.count), [&](std::int64_t begin, std::int64_t end) {
    Window window;
    for (std::int64_t t = begin; t < end; ++t) {
      look(rows, t, starts[static_cast<std::size_t>(t)], taps.count, window);
      convolve(taps, window, to + t * cols);
    }
  });
  return out;
}

// With s = sigmoid(sum): d sum = dy s (1 + sum (1 - s)), of which each tap's gradient is the
// product with its input, and an input's the sum over the tokens that its taps belong to. The taps'
// sums go over fixed blocks of tokens, so that they do not depend on the number of threads.
std::tuple<Tensor, Tensor, Tensor> causal_conv_backward_cpu(const Tensor& grad, const Tensor& x,
                                                            const Tensor& weight,
                                                            const std::optional<Tensor>& bias,
                                                            const Tensor& cu_seqlens) {
  constexpr std::int64_t kMaxBlocks = 64;
  const Taps taps = checked_taps(x, weight, bias);
  const std::int64_t tokens = x.size(0), cols = x.size(1), count = taps.count;
  const auto starts = starts_by_token(checked_documents(cu_seqlens, tokens, tokens, kName));
  const Tensor in = with_rows(x), g = grad.contiguous();
  const Rows rows = rows_of(in);
  const std::int64_t block = std::max<std::int64_t>(16, (tokens + kMaxBlocks - 1) / kMaxBlocks);
  const std::int64_t blocks = (tokens + block - 1) / block;
  Tensor sums = at::empty({tokens, cols}, x.options());  // gradients of the sums before SiLU
  Tensor partial = at::zeros({blocks, count + 1, cols}, x.options());
  const float* dy = g.const_data_ptr<float>();
  float *dsum = sums.data_ptr<float>(), *weights = partial.data_ptr<float>();
  parallel_for(0, blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    const auto one = hn::Set(d, 1.0f);
    Window window;
    for (std::int64_t b = begin; b < end; ++b) {
      float* dw = weights + b * (count + 1) * cols;
      for (std::int64_t t = b * block; t < std::min(tokens, (b + 1) * block); ++t) {
        look(rows, t, starts[static_cast<std::size_t>(t)], count, window);
        for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
          const auto sum = sum_of(d, taps, window, i, n), s = sigmoid(d, sum);
          const auto slope = hn::Mul(s, hn::MulAdd(sum, hn::Sub(one, s), one));
          const auto ds = hn::Mul(load(d, dy + t * cols + i, n), slope);
          store(d, ds, dsum + t * cols + i, n);
          const auto add = [&](std::int64_t k, FloatVec v) {
            float* at = dw + k * cols + i;
            store(d, hn::Add(load(d, at, n), v), at, n);
          };
          for (std::int64_t k = 0; k < count; ++k)
            if (window[k]) add(k, hn::Mul(ds, load(d, window[k] + i, n)));
          add(count, ds);
        });
      }
    }
  });
  Tensor dx = at::empty({tokens, cols}, x.options());
  float* to = dx.data_ptr<float>();
  parallel_for(0, tokens, row_grain(cols * count), [&](std::int64_t begin, std::int64_t end) {
    const FloatTag d;
    for (std::int64_t t = begin; t < end; ++t)
      for_lanes(d, cols, [&](std::int64_t i, std::int64_t n) {
        auto sum = hn::Zero(d);
        for (std::int64_t k = count - 1; k >= 0; --k) {
          const std::int64_t of = t + count - 1 - k;
          if (of >= tokens || starts[static_cast<std::size_t>(of)] > t) break;
          sum = hn::MulAdd(load(d, taps.tap(k) + i, n), load(d, dsum + of * cols + i, n), sum);
        }
        store(d, sum, to + t * cols + i, n);
      });
  });
  const Tensor all = partial.sum(0);  // [K + 1, C]
  return {dx, all.narrow(0, 0, count).t().contiguous().unsqueeze(1),
          bias ? all.select(0, count) : Tensor()};
}

Tensor causal_conv_cached_cpu(const Tensor& x, const Tensor& weight,
                              const std::optional<Tensor>& bias, const Tensor& cu_seqlens,
                              const Tensor& lengths, const Tensor& slots, const Tensor& state) {
  const Taps taps = checked_taps(x, weight, bias);
  const std::int64_t tokens = x.size(0), cols = x.size(1), past = taps.count - 1;
  check_floats(state, 3, kName, "state");
  check_conv_state(state, past, cols, kName);
  const Documents documents = checked_documents(cu_seqlens, tokens, tokens, kName);
  const Continued from = checked_slots(lengths, slots, state.size(0), documents, kName);
  const Tensor in = with_rows(x);
  const Rows rows = rows_of(in);
  Tensor out = at::empty({tokens, cols}, x.options());
  float *to = out.data_ptr<float>(), *states = state.data_ptr<float>();
  parallel_for(0, documents.count, 1, [&](std::int64_t begin, std::int64_t end) {
    Window window;
    std::vector<float> next(static_cast<std::size_t>(past * cols));
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t start = documents.starts[i], n = documents.tokens(i);
      float* kept = states + from.slots[i] * past * cols;
      const bool fresh = from.begins(documents, i);
      // How many inputs before this piece there are: fewer than `past` near a document's beginning.
      const std::int64_t before = fresh ? 0 : std::min<std::int64_t>(past, from.lengths[i] - n);
      // The input `back` tokens before token t of the piece, if there is one.
      const auto input = [&](std::int64_t t) -> const float* {
        if (t >= 0) return rows[start + t];
        return -t <= before ? kept + (past + t) * cols : nullptr;
      };
      for (std::int64_t t = 0; t < n; ++t) {
        for (std::int64_t k = 0; k <= past; ++k) window[k] = input(t - past + k);
        convolve(taps, window, to + (start + t) * cols);
      }
      for (std::int64_t k = 0; k < past; ++k)
        if (const float* row = input(n - past + k))
          std::copy_n(row, cols, next.data() + k * cols);
        else
          std::fill_n(next.data() + k * cols, cols, 0.0f);
      std::copy(next.begin(), next.end(), kept);
    }
  });
  return out;
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def("causal_conv(Tensor x, Tensor weight, Tensor? bias, Tensor cu_seqlens) -> Tensor");
  m.def(
      "causal_conv_backward(Tensor grad, Tensor x, Tensor weight, Tensor? bias, Tensor cu_seqlens) "
      "-> (Tensor dx, Tensor dweight, Tensor dbias)");
  m.def(
      "causal_conv_cached(Tensor x, Tensor weight, Tensor? bias, Tensor cu_seqlens, Tensor "
      "lengths, Tensor slots, Tensor(a!) state) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("causal_conv", causal_conv_cpu);
  m.impl("causal_conv_backward", causal_conv_backward_cpu);
  m.impl("causal_conv_cached", causal_conv_cached_cpu);
}

std::optional<Tensor> if_defined(const Tensor& t) {
  return t.defined() ? std::optional(t) : std::nullopt;
}

Tensor forward(const Tensor& x, const Tensor& weight, const Tensor& bias,
               const Tensor& cu_seqlens) {
  static const auto op = find_op<decltype(causal_conv_cpu)>("qad::causal_conv");
  return call_kernel(op, x, weight, if_defined(bias), cu_seqlens);
}

}  // namespace

Tensor causal_conv(const Tensor& x, const Tensor& weight, const Tensor& bias,
                   const Tensor& cu_seqlens) {
  const Tensor y = forward(x, weight, bias, cu_seqlens);
  if (recording({&x, &weight, &bias})) {
    Tensors saved{x, weight, cu_seqlens};
    if (bias.defined()) saved.push_back(bias);
    record("causal_conv", y, {x, weight, bias}, saved,
           [](const Tensor& grad, Tensors saved) -> Tensors {
             static const auto op =
                 find_op<decltype(causal_conv_backward_cpu)>("qad::causal_conv_backward");
             auto [dx, dweight, dbias] =
                 call_kernel(op, grad, saved[0], saved[1],
                             saved.size() > 3 ? std::optional(saved[3]) : std::nullopt, saved[2]);
             return {dx, dweight, dbias};
           });
  }
  return y;
}

Tensor causal_conv_cached(const Tensor& x, const Tensor& weight, const Tensor& bias,
                          const Tensor& cu_seqlens, const StateSlots& slots, const Tensor& state) {
  check(!recording({&x, &weight, &bias}), kName, "cached states have no gradient");
  static const auto op = find_op<decltype(causal_conv_cached_cpu)>("qad::causal_conv_cached");
  return call_kernel(op, x, weight, if_defined(bias), cu_seqlens, slots.lengths, slots.slots,
                     state);
}

}  // namespace qad::ops
