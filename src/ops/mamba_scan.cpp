// Mamba-2's selective scan: the operator around mamba_scan_kernel. Work is handed out by document
// and group of heads, each computed the same on any thread; what the backward pass needs of states
// is computed again.
#include <cmath>

#include "ops/autograd.h"
#include "ops/dispatch.h"
#include "ops/documents.h"
#include "ops/mamba.h"
#include "ops/mamba_checks.h"
#include "ops/mamba_scan_kernel.h"
#include "ops/tasks.h"

namespace qad::ops {
namespace {

using at::Tensor;

constexpr const char* kName = "mamba_scan";

// An operator's inputs, checked, and A and the time steps made of them.
struct Scan : ScanDims {
  double least, most;
  Tensor xbc, dt, dt_bias, d;
  Tensor a, steps;  // [heads], [T, heads]

  std::int64_t group_heads() const { return heads / groups; }

  // Tokens [first, first + n) and the heads of a group.
  ScanHeads part(std::int64_t first, std::int64_t n, std::int64_t group) const {
    const std::int64_t head = group * group_heads(), stride = xbc.stride(0);
    const float* row = xbc.const_data_ptr<float>() + first * stride;
    return {.x = row + head * dim,
            .b = row + inner() + group * state,
            .c = row + inner() + (groups + group) * state,
            .stride = stride,
            .step = steps.const_data_ptr<float>() + first * heads + head,
            .step_stride = heads,
            .a = a.const_data_ptr<float>() + head,
            .d = d.const_data_ptr<float>() + head,
            .tokens = n,
            .heads = group_heads(),
            .dim = dim,
            .state = state};
  }
};

// As PyTorch's: beyond 20 log(1 + e^x) is x in FP32.
float softplus(float x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}

Scan checked_scan(const Tensor& xbc, const Tensor& dt, const Tensor& dt_bias, const Tensor& a_log,
                  const Tensor& d, std::int64_t dim, std::int64_t groups, double least,
                  double most) {
  check_floats(xbc, 2, kName, "xbc");
  check_floats(dt, 2, kName, "dt");
  const ScanDims dims = checked_scan_dims(xbc, dt, dim, groups, least, most, kName);
  for (const auto& [t, name] : {std::pair(&dt_bias, "dt_bias"), {&a_log, "a_log"}, {&d, "d"}}) {
    check_floats(*t, 1, kName, name);
    check_size(t->size(0), dims.heads, kName, fmt::format("size of {}", name));
  }
  Scan s{dims,
         least,
         most,
         xbc.stride(1) == 1 ? xbc : xbc.contiguous(),
         dt.contiguous(),
         dt_bias.contiguous(),
         d.contiguous(),
         a_log.exp().neg_().contiguous(),
         at::empty({dims.tokens, dims.heads}, dt.options())};
  const float *raw = s.dt.const_data_ptr<float>(), *bias = s.dt_bias.const_data_ptr<float>();
  float* to = s.steps.data_ptr<float>();
  const auto low = static_cast<float>(least), high = static_cast<float>(most);
  parallel_for(0, s.tokens, row_grain(32 * s.heads), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t h = 0; h < s.heads; ++h) {
        const std::int64_t i = t * s.heads + h;
        to[i] = std::clamp(softplus(raw[i] + bias[h]), low, high);
      }
  });
  return s;
}

Tensor mamba_scan_cpu(const Tensor& xbc, const Tensor& dt, const Tensor& dt_bias,
                      const Tensor& a_log, const Tensor& d, const Tensor& cu_seqlens,
                      std::int64_t longest, std::int64_t head_dim, std::int64_t groups,
                      double least_step, double most_step) {
  const Scan s = checked_scan(xbc, dt, dt_bias, a_log, d, head_dim, groups, least_step, most_step);
  const Documents documents = checked_documents(cu_seqlens, s.tokens, longest, kName);
  Tensor y = at::empty({s.tokens, s.inner()}, xbc.options());
  float* to = y.data_ptr<float>();
  for_tasks(documents.count * groups, scan_scratch(s.part(0, documents.longest, 0)),
            [&](std::int64_t task, float* scratch) {
              const std::int64_t i = task / groups, group = task % groups;
              scan_forward(s.part(documents.starts[i], documents.tokens(i), group),
                           to + documents.starts[i] * s.inner() + group * s.group_heads() * s.dim,
                           s.inner(), scratch);
            });
  return y;
}

// What of a step's gradient reaches dt: softplus' slope, the logistic function, and nothing where
// a limit holds.
Tensor gradient_of_dt(const Scan& s, const Tensor& dsteps) {
  Tensor out = at::empty_like(dsteps);
  const float *raw = s.dt.const_data_ptr<float>(), *bias = s.dt_bias.const_data_ptr<float>();
  const float* from = dsteps.const_data_ptr<float>();
  float* to = out.data_ptr<float>();
  const auto low = static_cast<float>(s.least), high = static_cast<float>(s.most);
  parallel_for(0, s.tokens, row_grain(32 * s.heads), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t)
      for (std::int64_t h = 0; h < s.heads; ++h) {
        const std::int64_t i = t * s.heads + h;
        const float x = raw[i] + bias[h], step = softplus(x);
        to[i] = step < low || step > high ? 0 : from[i] / (1 + std::exp(-x));
      }
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mamba_scan_backward_cpu(
    const Tensor& grad, const Tensor& xbc, const Tensor& dt, const Tensor& dt_bias,
    const Tensor& a_log, const Tensor& d, const Tensor& cu_seqlens, std::int64_t longest,
    std::int64_t head_dim, std::int64_t groups, double least_step, double most_step) {
  const Scan s = checked_scan(xbc, dt, dt_bias, a_log, d, head_dim, groups, least_step, most_step);
  const Documents documents = checked_documents(cu_seqlens, s.tokens, longest, kName);
  const Tensor g = grad.contiguous();
  Tensor dxbc = at::empty({s.tokens, xbc.size(1)}, xbc.options());
  Tensor dsteps = at::empty_like(s.steps);
  // A document's parts, summed in their order.
  Tensor da = at::zeros({documents.count, s.heads}, xbc.options()), dd = at::zeros_like(da);
  const float* gp = g.const_data_ptr<float>();
  float *to = dxbc.data_ptr<float>(), *steps = dsteps.data_ptr<float>();
  float *das = da.data_ptr<float>(), *dds = dd.data_ptr<float>();
  for_tasks(documents.count * groups, scan_backward_scratch(s.part(0, documents.longest, 0)),
            [&](std::int64_t task, float* scratch) {
              const std::int64_t i = task / groups, group = task % groups;
              const std::int64_t first = documents.starts[i], head = group * s.group_heads();
              float* row = to + first * dxbc.size(1);
              scan_backward(s.part(first, documents.tokens(i), group),
                            gp + first * s.inner() + head * s.dim, s.inner(),
                            {.dx = row + head * s.dim,
                             .db = row + s.inner() + group * s.state,
                             .dc = row + s.inner() + (groups + group) * s.state,
                             .stride = dxbc.size(1),
                             .dstep = steps + first * s.heads + head,
                             .da = das + i * s.heads + head,
                             .dd = dds + i * s.heads + head},
                            scratch);
            });
  const Tensor ddt = gradient_of_dt(s, dsteps);
  return {dxbc, ddt, ddt.sum(0), da.sum(0).mul(s.a), dd.sum(0)};
}

Tensor mamba_scan_cached_cpu(const Tensor& xbc, const Tensor& dt, const Tensor& dt_bias,
                             const Tensor& a_log, const Tensor& d, const Tensor& cu_seqlens,
                             const Tensor& lengths, const Tensor& slots, const Tensor& state,
                             std::int64_t head_dim, std::int64_t groups, double least_step,
                             double most_step) {
  const Scan s = checked_scan(xbc, dt, dt_bias, a_log, d, head_dim, groups, least_step, most_step);
  check_floats(state, 4, kName, "state");
  check_scan_state(state, s, kName);
  const Documents documents = checked_documents(cu_seqlens, s.tokens, s.tokens, kName);
  const Continued from = checked_slots(lengths, slots, state.size(0), documents, kName);
  Tensor y = at::empty({s.tokens, s.inner()}, xbc.options());
  float *to = y.data_ptr<float>(), *states = state.data_ptr<float>();
  const std::int64_t of_head = s.dim * s.state;
  for_pieces(documents.count * s.heads, [&](std::int64_t task) {
    const std::int64_t i = task / s.heads, head = task % s.heads, group = head / s.group_heads();
    const std::int64_t first = documents.starts[i], within = head % s.group_heads();
    ScanHeads one = s.part(first, documents.tokens(i), group);
    one.x += within * s.dim, one.step += within, one.a += within, one.d += within;
    one.heads = 1;
    float* kept = states + (from.slots[i] * s.heads + head) * of_head;
    if (from.begins(documents, i)) std::fill_n(kept, of_head, 0.0f);
    scan_steps(one, kept, to + first * s.inner() + head * s.dim, s.inner());
  });
  return y;
}

TORCH_LIBRARY_FRAGMENT(qad, m) {
  m.def(
      "mamba_scan(Tensor xbc, Tensor dt, Tensor dt_bias, Tensor a_log, Tensor d, Tensor "
      "cu_seqlens, int longest, int head_dim, int groups, float least_step, float most_step) -> "
      "Tensor");
  m.def(
      "mamba_scan_backward(Tensor grad, Tensor xbc, Tensor dt, Tensor dt_bias, Tensor a_log, "
      "Tensor d, Tensor cu_seqlens, int longest, int head_dim, int groups, float least_step, "
      "float most_step) -> (Tensor dxbc, Tensor ddt, Tensor ddt_bias, Tensor da_log, Tensor dd)");
  m.def(
      "mamba_scan_cached(Tensor xbc, Tensor dt, Tensor dt_bias, Tensor a_log, Tensor d, Tensor "
      "cu_seqlens, Tensor lengths, Tensor slots, Tensor(a!) state, int head_dim, int groups, float "
      "least_step, float most_step) -> Tensor");
}
TORCH_LIBRARY_IMPL(qad, CPU, m) {
  m.impl("mamba_scan", mamba_scan_cpu);
  m.impl("mamba_scan_backward", mamba_scan_backward_cpu);
  m.impl("mamba_scan_cached", mamba_scan_cached_cpu);
}

Tensor forward(const Tensor& xbc, const Tensor& dt, const ScanParameters& p,
               const Tensor& cu_seqlens, std::int64_t longest, const ScanShape& s) {
  static const auto op = find_op<decltype(mamba_scan_cpu)>("qad::mamba_scan");
  return call_kernel(op, xbc, dt, p.dt_bias, p.a_log, p.d, cu_seqlens, longest, s.head_dim,
                     s.groups, s.least_step, s.most_step);
}

}  // namespace

Tensor mamba_scan(const Tensor& xbc, const Tensor& dt, const ScanParameters& p,
                  const Tensor& cu_seqlens, std::int64_t longest, const ScanShape& s) {
  const Tensor y = forward(xbc, dt, p, cu_seqlens, longest, s);
  if (recording({&xbc, &dt, &p.dt_bias, &p.a_log, &p.d}))
    record("mamba_scan", y, {xbc, dt, p.dt_bias, p.a_log, p.d},
           {xbc, dt, p.dt_bias, p.a_log, p.d, cu_seqlens},
           [longest, s](const Tensor& grad, Tensors saved) -> Tensors {
             static const auto op =
                 find_op<decltype(mamba_scan_backward_cpu)>("qad::mamba_scan_backward");
             auto [dxbc, ddt, ddt_bias, da_log, dd] =
                 call_kernel(op, grad, saved[0], saved[1], saved[2], saved[3], saved[4], saved[5],
                             longest, s.head_dim, s.groups, s.least_step, s.most_step);
             return {dxbc, ddt, ddt_bias, da_log, dd};
           });
  return y;
}

Tensor mamba_scan_cached(const Tensor& xbc, const Tensor& dt, const ScanParameters& p,
                         const Tensor& cu_seqlens, const StateSlots& slots, const Tensor& state,
                         const ScanShape& s) {
  check(!recording({&xbc, &dt, &p.dt_bias, &p.a_log, &p.d}), kName,
        "cached states have no gradient");
  static const auto op = find_op<decltype(mamba_scan_cached_cpu)>("qad::mamba_scan_cached");
  return call_kernel(op, xbc, dt, p.dt_bias, p.a_log, p.d, cu_seqlens, slots.lengths, slots.slots,
                     state, s.head_dim, s.groups, s.least_step, s.most_step);
}

}  // namespace qad::ops
