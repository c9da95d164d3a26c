// Mamba-2's scan on CUDA as matrix products over chunks of tokens (Dao and Gu 2024, section 6; the
// formulas are those of ops/mamba_scan_kernel.cpp): cuBLAS does the products, the kernels
// of mamba_scan.cu what is between them. States of chunks are computed again on the way back.
#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "cuda/mamba.h"
#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

constexpr const char* kName = "mamba_scan";

Tensor floats(const Tensor& t) {
  return t.to(at::kFloat).contiguous();
}

// An operator's inputs, checked, and what is made of its small ones.
struct Scan {
  Tensor xbc, dt, dt_bias, a, d, starts, firsts;
  ScanSizes sizes;
  ScanInputs inputs;

  std::int64_t inner() const { return sizes.heads * sizes.dim; }
  Type type() const { return inputs.type; }
  // Columns of xbc, or of a tensor like it.
  Rows columns(std::int64_t first) const {
    const auto* data = static_cast<const char*>(xbc.const_data_ptr());
    return {data + first * static_cast<std::int64_t>(xbc.element_size()), xbc.stride(0)};
  }
  Tensor make(at::IntArrayRef shape, at::ScalarType type = at::kFloat) const {
    return at::empty(shape, xbc.options().dtype(type));
  }
  // A matrix for each chunk and group, or each chunk and head, whichever way it was made.
  Tensor by_groups(const Tensor& t, std::int64_t columns) const {
    return t.view({sizes.chunks * sizes.groups, -1, columns});
  }
  Tensor by_heads(const Tensor& t, std::int64_t columns) const {
    return t.view({sizes.chunks * sizes.heads, -1, columns});
  }
  std::int64_t wide() const { return inner() / sizes.groups; }
};

Scan checked_scan(const Tensor& xbc, const Tensor& dt, const Tensor& dt_bias, const Tensor& a_log,
                  const Tensor& d, const Tensor& cu_seqlens, std::int64_t dim, std::int64_t groups,
                  double least, double most) {
  const Type type = check_values(xbc, 2, kName, "xbc");
  check_values(dt, 2, kName, "dt");
  const std::int64_t tokens = xbc.size(0), heads = dt.size(1);
  check_size(dt.size(0), tokens, kName, "rows of dt");
  for (const auto& [t, name] : {std::pair(&dt_bias, "dt_bias"), {&a_log, "a_log"}, {&d, "d"}}) {
    check_values(*t, 1, kName, name);
    check_size(t->size(0), heads, kName, fmt::format("size of {}", name));
  }
  check(dim > 0 && groups > 0 && heads % groups == 0, kName,
        "heads: expected a multiple of {} groups, found {} of {}", groups, heads, dim);
  const std::int64_t of_groups = xbc.size(1) - heads * dim, state = of_groups / (2 * groups);
  check(state > 0 && of_groups == 2 * groups * state, kName,
        "xbc: expected {} columns of x, and B and C of {} groups, found {}", heads * dim, groups,
        xbc.size(1));
  check(least >= 0 && most > least, kName, "time steps: expected rising limits from 0, found {} {}",
        least, most);
  Scan s{.xbc = xbc.stride(1) == 1 ? xbc : xbc.contiguous(),
         .dt = dt.to(xbc.scalar_type()).contiguous(),
         .dt_bias = floats(dt_bias),
         .a = floats(a_log).exp().neg(),
         .d = floats(d),
         .starts = check_beside(cu_seqlens, at::kInt, xbc, kName, "cu_seqlens"),
         .firsts = {},
         .sizes = {},
         .inputs = {}};
  const std::int64_t documents = s.starts.numel() - 1;
  s.firsts = at::empty({documents + 1}, s.starts.options());
  s.sizes = {.in = {tokens, documents, s.starts.const_data_ptr<std::int32_t>()},
             .chunks = tokens / kScanChunk + documents,
             .heads = heads,
             .dim = dim,
             .groups = groups,
             .state = state,
             .firsts = s.firsts.const_data_ptr<std::int32_t>()};
  s.inputs = {.type = type,
              .dt = s.dt.const_data_ptr(),
              .dt_bias = s.dt_bias.const_data_ptr<float>(),
              .a = s.a.const_data_ptr<float>(),
              .d = s.d.const_data_ptr<float>(),
              .least = static_cast<float>(least),
              .most = static_cast<float>(most)};
  return s;
}

// What both ways make first. x's layouts: x by heads; xw, times its step and the decay behind it,
// by groups, of which states are made.
struct Chunks {
  Tensor sums, factors;  // of `decays`
  Decays decays;
  Tensor x, xw, b, c;
};

float* data(const Tensor& t) {
  return t.data_ptr<float>();
}

// Matrices [batch, rows, columns], one behind the other, or what they are the transposes of.
struct Matrices {
  Tensor t;
  bool transposed = false;
  std::int64_t rows() const { return t.size(transposed ? 2 : 1); }
  std::int64_t columns() const { return t.size(transposed ? 1 : 2); }
};
Matrices transposed(const Tensor& t) {
  return {t, true};
}

// c = a b, or c += a b, batch by batch, with FP32 sums. Where the model is BF16, factors are
// rounded to TF32: x, B, C and dy are exact in it, and the rest has three bits more than BF16 keeps
// of the result. at::bmm would make that choice for the whole process.
void multiply(const Scan& s, const Matrices& a, const Matrices& b, const Tensor& c, bool adds) {
  const auto m = static_cast<int>(a.rows()), n = static_cast<int>(b.columns()),
             k = static_cast<int>(a.columns());
  check(b.rows() == k && c.size(1) == m && c.size(2) == n && c.size(0) == a.t.size(0) &&
            c.size(0) == b.t.size(0) && a.t.is_contiguous() && b.t.is_contiguous() &&
            c.is_contiguous(),
        kName, "product: shapes {} do not fit", ops::describe_all(a.t, b.t, c));
  const float one = 1, beta = adds ? 1 : 0;
  const auto how = [](const Matrices& x) { return x.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  const auto each = [](const Tensor& t) { return t.size(1) * t.size(2); };
  // cuBLAS counts columns first, so to it all are transposed, and c^T = b^T a^T.
  const cublasStatus_t status = cublasGemmStridedBatchedEx(
      at::cuda::getCurrentCUDABlasHandle(), how(b), how(a), n, m, k, &one, data(b.t), CUDA_R_32F,
      static_cast<int>(b.t.size(2)), each(b.t), data(a.t), CUDA_R_32F,
      static_cast<int>(a.t.size(2)), each(a.t), &beta, data(c), CUDA_R_32F, n, each(c),
      static_cast<int>(c.size(0)),
      s.type() == Type::bf16 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
      CUBLAS_GEMM_DEFAULT);
  check(status == CUBLAS_STATUS_SUCCESS, kName, "cuBLAS: {}; inputs: {}",
        cublasGetStatusString(status), ops::describe_all(a.t, b.t));
}
Tensor product(const Scan& s, const Matrices& a, const Matrices& b) {
  Tensor c = s.make({a.t.size(0), a.rows(), b.columns()});
  multiply(s, a, b, c, false);
  return c;
}

Tensor spread(const Scan& s, Type type, Rows from, std::int64_t heads, std::int64_t dim,
              cudaStream_t stream) {
  Tensor to = s.make({s.sizes.chunks, heads, kScanChunk, dim});
  scan_spread(s.sizes, {type, from, heads, dim, heads, data(to), nullptr, nullptr, nullptr},
              stream);
  return to;
}

Chunks chunks_of(const Scan& s, cudaStream_t stream) {
  const ScanSizes& z = s.sizes;
  Chunks c;
  scan_chunks(z.in, z.chunks, s.firsts.data_ptr<std::int32_t>(), stream);
  c.sums = s.make({z.chunks, z.heads, kScanChunk}, at::kDouble);
  c.factors = s.make({3 * kScanChunk + 1, z.chunks, z.heads});
  const std::int64_t n = z.chunks * z.heads * kScanChunk;
  float* f = data(c.factors);
  c.decays = {c.sums.data_ptr<double>(), f, f + n, f + 2 * n, f + 3 * n};
  scan_decays(z, s.inputs, c.decays, stream);
  c.x = s.make({z.chunks, z.heads, kScanChunk, z.dim});
  c.xw = at::empty_like(c.x);
  scan_spread(z,
              {s.type(), s.columns(0), z.heads, z.dim, z.groups, data(c.x), data(c.xw),
               c.decays.left, c.decays.steps},
              stream);
  const std::int64_t first = s.inner(), columns = z.groups * z.state;
  c.b = s.by_groups(spread(s, s.type(), s.columns(first), z.groups, z.state, stream), z.state);
  c.c = s.by_groups(spread(s, s.type(), s.columns(first + columns), z.groups, z.state, stream),
                    z.state);
  return c;
}

// [chunks * groups, wide, state]: rows^T columns of each chunk, handed on to the next.
Tensor states_of(const Scan& s, const Tensor& rows, const Tensor& columns, const float* whole,
                 bool back, cudaStream_t stream) {
  Tensor states = product(s, transposed(s.by_groups(rows, s.wide())), {columns});
  scan_hand_on(s.sizes, whole, back, data(states), stream);
  return states;
}

Tensor mamba_scan_cuda(const Tensor& xbc, const Tensor& dt, const Tensor& dt_bias,
                       const Tensor& a_log, const Tensor& d, const Tensor& cu_seqlens, std::int64_t,
                       std::int64_t head_dim, std::int64_t groups, double least_step,
                       double most_step) {
  const Scan s =
      checked_scan(xbc, dt, dt_bias, a_log, d, cu_seqlens, head_dim, groups, least_step, most_step);
  Tensor y = s.make({s.sizes.in.tokens, s.inner()}, xbc.scalar_type());
  if (s.sizes.in.tokens == 0) return y;
  const Launch launch(xbc, kName);
  named(
      kName,
      [&] {
        const Chunks c = chunks_of(s, launch.stream());
        const Tensor states = states_of(s, c.xw, c.b, c.decays.whole, false, launch.stream());
        const Tensor from_state = product(s, {c.c}, transposed(states));
        const Tensor pairs = product(s, {c.c}, transposed(c.b));
        Tensor m = s.make({s.sizes.chunks * s.sizes.heads, kScanChunk, kScanChunk});
        scan_matrix(s.sizes, data(pairs), c.decays, data(m), launch.stream());
        const Tensor mx = product(s, {m}, {s.by_heads(c.x, head_dim)});
        scan_output(s.sizes, c.decays,
                    {data(mx), data(from_state), s.inputs.d, s.type(), s.columns(0), y.data_ptr()},
                    launch.stream());
      },
      xbc, dt);
  launch.done(xbc, dt);
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mamba_scan_backward_cuda(
    const Tensor& grad, const Tensor& xbc, const Tensor& dt, const Tensor& dt_bias,
    const Tensor& a_log, const Tensor& d, const Tensor& cu_seqlens, std::int64_t,
    std::int64_t head_dim, std::int64_t groups, double least_step, double most_step) {
  const Scan s =
      checked_scan(xbc, dt, dt_bias, a_log, d, cu_seqlens, head_dim, groups, least_step, most_step);
  const ScanSizes& z = s.sizes;
  const Tensor g = check_beside(grad, xbc.scalar_type(), xbc, kName, "grad");
  check_size(g.numel(), z.in.tokens * s.inner(), kName, "elements of grad");
  Tensor dxbc = s.make({z.in.tokens, xbc.size(1)}, xbc.scalar_type());
  Tensor ddt = s.make({z.in.tokens, z.heads}), da = s.make({z.chunks, z.heads}),
         dd = at::empty_like(da);
  const Launch launch(xbc, kName);
  if (z.in.tokens > 0)
    named(
        kName,
        [&] {
          const Chunks c = chunks_of(s, launch.stream());
          Tensor dy = at::empty_like(c.x), dy_since = at::empty_like(c.x);
          scan_spread(z,
                      {s.type(),
                       {g.const_data_ptr(), s.inner()},
                       z.heads,
                       z.dim,
                       z.groups,
                       data(dy),
                       data(dy_since),
                       c.decays.since,
                       nullptr},
                      launch.stream());
          const Tensor entering = states_of(s, c.xw, c.b, c.decays.whole, false, launch.stream());
          const Tensor leaving = states_of(s, dy_since, c.c, c.decays.whole, true, launch.stream());
          const Tensor dys = s.by_heads(dy, head_dim);
          Tensor du, dpairs = s.make({z.chunks * groups, kScanChunk, kScanChunk});
          Tensor dsums = at::empty_like(c.sums);
          {
            const Tensor pairs = product(s, {c.c}, transposed(c.b));
            const Tensor products = product(s, {dys}, transposed(s.by_heads(c.x, head_dim)));
            Tensor m = at::empty_like(products);
            scan_matrix_backward(z, data(pairs), data(products), c.decays, data(m), data(dpairs),
                                 dsums.data_ptr<double>(), launch.stream());
            du = product(s, transposed(m), {dys});
          }
          const Tensor from_state = product(s, {c.c}, transposed(entering));
          const Tensor to_state = product(s, {c.b}, transposed(leaving));
          scan_finish_backward(
              z, s.inputs, c.decays,
              {data(c.x), data(dy), data(du), data(from_state), data(to_state), data(entering),
               data(leaving), dsums.const_data_ptr<double>(), s.type(), dxbc.data_ptr(),
               dxbc.size(1), data(ddt), data(da), data(dd)},
              launch.stream());
          const auto collect = [&](const Tensor& chunks, std::int64_t first) {
            auto* to = static_cast<char*>(dxbc.data_ptr());
            scan_collect(z, data(chunks), groups, z.state, s.type(),
                         to + first * static_cast<std::int64_t>(dxbc.element_size()), dxbc.size(1),
                         launch.stream());
          };
          const Tensor db = product(s, transposed(dpairs), {c.c}), dc = product(s, {dpairs}, {c.b});
          multiply(s, {s.by_groups(c.xw, s.wide())}, {leaving}, db, true);
          multiply(s, {s.by_groups(dy_since, s.wide())}, {entering}, dc, true);
          collect(db, s.inner());
          collect(dc, s.inner() + groups * z.state);
        },
        grad, xbc, dt);
  launch.done(grad, xbc, dt);
  return {dxbc, ddt.to(dt.scalar_type()), ddt.sum(0).to(dt_bias.scalar_type()),
          da.sum(0).mul(s.a).to(a_log.scalar_type()), dd.sum(0).to(d.scalar_type())};
}

Tensor mamba_scan_cached_cuda(const Tensor& xbc, const Tensor& dt, const Tensor& dt_bias,
                              const Tensor& a_log, const Tensor& d, const Tensor& cu_seqlens,
                              const Tensor& lengths, const Tensor& slots, const Tensor& state,
                              std::int64_t head_dim, std::int64_t groups, double least_step,
                              double most_step) {
  const Scan s =
      checked_scan(xbc, dt, dt_bias, a_log, d, cu_seqlens, head_dim, groups, least_step, most_step);
  const ScanSizes& z = s.sizes;
  check_beside(state, at::kFloat, xbc, kName, "state");
  check(state.dim() == 4 && state.is_contiguous() &&
            state.sizes().slice(1) == at::IntArrayRef({z.heads, z.dim, z.state}),
        kName, "state: expected contiguous [slots, {}, {}, {}], found {}", z.heads, z.dim, z.state,
        describe(state));
  check(z.state <= kMostState, kName, "state: expected at most {} values a row, found {}",
        kMostState, z.state);
  const Tensor of = check_beside(lengths, at::kInt, xbc, kName, "lengths"),
               in = check_beside(slots, at::kInt, xbc, kName, "slots");
  check_size(of.numel(), z.in.documents, kName, "number of lengths");
  check_size(in.numel(), z.in.documents, kName, "number of slots");
  Tensor y = s.make({z.in.tokens, s.inner()}, xbc.scalar_type());
  const Launch launch(xbc, kName);
  scan_steps({s.type(), z.in, z.heads, z.dim, z.groups, z.state, s.columns(0),
              state.data_ptr<float>(), y.data_ptr()},
             s.inputs,
             {state.size(0), of.const_data_ptr<std::int32_t>(), in.const_data_ptr<std::int32_t>()},
             launch.stream());
  launch.done(xbc, dt, state);
  return y;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("mamba_scan", mamba_scan_cuda);
  m.impl("mamba_scan_backward", mamba_scan_backward_cuda);
  m.impl("mamba_scan_cached", mamba_scan_cached_cuda);
}

}  // namespace
}  // namespace qad::cuda
