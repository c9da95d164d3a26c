// A mixture of experts on CUDA: checks and registration. Router logits and their gradients are
// products in FP32, as models compute them.
#include "cuda/experts.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sort.h>
#include <torch/library.h>

#include "cuda/tensor.h"

namespace qad::cuda {
namespace {

using at::Tensor;

float* data_or_null(const Tensor& t) {
  return t.defined() ? t.data_ptr<float>() : nullptr;
}

// int32 rows [T, k] of a matrix of T k.
Tensor checked_rows(const Tensor& rows, std::int64_t count, const Tensor& beside,
                    std::string_view operation) {
  const Tensor r = check_beside(rows, at::kInt, beside, operation, "rows");
  check(r.dim() == 2, operation, "rows: expected 2 dimensions, found {}", describe(r));
  check_size(r.numel(), count, operation, "rows");
  return r;
}

std::tuple<Tensor, Tensor, Tensor> router_cuda(const Tensor& x, const Tensor& weight,
                                               const std::optional<Tensor>& bias,
                                               std::int64_t top_k, std::int64_t groups,
                                               std::int64_t top_groups, bool normalize,
                                               double scale, bool softmax) {
  check_values(x, 2, "router", "x");
  check_values(weight, 2, "router", "weight");
  const std::int64_t tokens = x.size(0), experts = weight.size(0);
  check_size(x.size(1), weight.size(1), "router", "columns of x");
  if (bias) check_size(bias->numel(), experts, "router", "size of bias");
  check(experts <= kMostGroups && groups >= 1 && experts % groups == 0 &&
            (groups == 1 || experts / groups >= 2) && top_groups >= 1 && top_groups <= groups &&
            top_k >= 1 && top_k <= experts / groups * top_groups,
        "router",
        "expected at most {} experts in equal groups of two or more that leave enough to choose "
        "from, found {}: {} of {} groups and top {}",
        kMostGroups, experts, top_groups, groups, top_k);
  const Launch launch(x, "router");
  const Tensor logits = named(
      "router", [&] { return at::mm(x.to(at::kFloat), weight.to(at::kFloat).t()); }, x, weight);
  const Tensor correction = bias ? bias->to(x.device(), at::kFloat).contiguous() : Tensor();
  Tensor weights = at::empty({tokens, top_k}, logits.options()), scores = at::empty_like(weights);
  Tensor chosen = at::empty({tokens, top_k}, x.options().dtype(at::kInt));
  route({tokens, experts, top_k, groups, top_groups, data_or_null(correction), normalize, softmax,
         static_cast<float>(scale)},
        logits.data_ptr<float>(), weights.data_ptr<float>(), chosen.data_ptr<std::int32_t>(),
        scores.data_ptr<float>(), launch.stream());
  launch.done(x, weight);
  return {weights, chosen, scores};
}

std::tuple<Tensor, Tensor> router_backward_cuda(const Tensor& grad, const Tensor& x,
                                                const Tensor& weight, const Tensor& experts,
                                                const Tensor& scores, bool normalize, double scale,
                                                bool softmax) {
  constexpr const char* name = "router_backward";
  const Tensor g = check_beside(grad, at::kFloat, x, name, "grad"),
               e = check_beside(experts, at::kInt, x, name, "experts"),
               s = check_beside(scores, at::kFloat, x, name, "scores");
  const std::int64_t tokens = x.size(0), count = weight.size(0), top_k = experts.size(1);
  const Launch launch(x, name);
  return named(
      name,
      [&] {
        const Tensor in = x.to(at::kFloat), w = weight.to(at::kFloat);
        const Tensor all = softmax ? at::mm(in, w.t()) : Tensor();
        const Tensor logits = at::empty({tokens, count}, in.options());
        route_backward(
            {tokens, count, top_k, 1, 1, nullptr, normalize, softmax, static_cast<float>(scale)},
            g.const_data_ptr<float>(), e.const_data_ptr<std::int32_t>(), s.const_data_ptr<float>(),
            data_or_null(all), logits.data_ptr<float>(), launch.stream());
        launch.done(grad, x, weight);
        return std::tuple(at::mm(logits, w).to(x.scalar_type()),
                          at::mm(logits.t(), in).to(weight.scalar_type()));
      },
      x, weight);
}

std::tuple<Tensor, Tensor, Tensor> sort_by_expert_cuda(const Tensor& experts, std::int64_t count) {
  constexpr const char* name = "sort_by_expert";
  const Tensor of = check_beside(experts, at::kInt, experts, name, "experts");
  const std::int64_t n = of.numel();
  check(n < INT32_MAX, name, "expected fewer than 2^31 rows, found {}", n);
  Tensor rows = at::empty_like(of), choices = at::empty({n}, of.options()),
         offsets = at::empty({count + 1}, of.options());
  const Launch launch(of, name);
  const auto [sorted, from] = named(
      name, [&] { return at::sort(of.view(-1), /*stable=*/true, 0, false); }, experts);
  expert_rows(sorted.const_data_ptr<std::int32_t>(), from.const_data_ptr<std::int64_t>(), n, count,
              rows.data_ptr<std::int32_t>(), choices.data_ptr<std::int32_t>(),
              offsets.data_ptr<std::int32_t>(), launch.stream());
  launch.done(experts);
  return {rows, choices, offsets};
}

// Quantises rows that were just computed, each under its group's scale.
class GroupQuantization {
 public:
  GroupQuantization(std::string_view operation, at::ArrayRef<double> globals, std::int64_t rule,
                    const std::optional<Tensor>& offsets, const Tensor& rows,
                    const std::optional<Tensor>& clipped) {
    if (!clipped || !clipped->defined()) return;
    const auto groups = static_cast<std::int64_t>(globals.size());
    check(groups >= 1 && groups <= kMostGroups, operation,
          "global scales: expected 1 to {} on a GPU, found {}", kMostGroups, groups);
    if (offsets) {
      offsets_ = check_beside(*offsets, at::kInt, rows, operation, "offsets");
      check_size(offsets_.numel(), groups + 1, operation, "size of offsets");
    } else {
      check_size(groups, 1, operation, "global scales");
    }
    rule_ = ops::checked_rule(rule, operation);
    check_beside(*clipped, at::kLong, rows, operation, "clipped");
    check(clipped->is_contiguous(), operation, "clipped: expected it contiguous");
    check_size(clipped->numel(), groups, operation, "size of clipped");
    clipped_ = clipped->data_ptr<std::int64_t>();
    groups_ = groups;
    for (std::int64_t i = 0; i < groups; ++i) {
      const double g = globals[static_cast<std::size_t>(i)];
      scales_.global[i] =
          g == 0
              ? 0
              : quantization_of(g, rule, clipped->view(-1).narrow(0, i, 1), rows, operation).global;
    }
  }
  void operator()(Type type, const Tensor& rows, cudaStream_t stream) const {
    if (clipped_ == nullptr) return;
    const std::int32_t* offsets =
        offsets_.defined() ? offsets_.const_data_ptr<std::int32_t>() : nullptr;
    fake_quantize_groups(type, rows.data_ptr(), {rows.size(0), rows.size(1), groups_, offsets},
                         scales_, rule_, clipped_, stream);
  }

 private:
  GroupScales scales_ = {};
  Tensor offsets_;
  std::int64_t groups_ = 0;
  nvfp4::BlockScale rule_ = nvfp4::BlockScale::max;
  std::int64_t* clipped_ = nullptr;
};

Tensor gather_rows_cuda(const Tensor& x, const Tensor& rows, const Tensor& offsets,
                        at::ArrayRef<double> globals, std::int64_t rule,
                        const std::optional<Tensor>& clipped) {
  constexpr const char* name = "gather_rows";
  const Type type = check_values(x, 2, name, "x");
  const Tensor in = x.contiguous(), r = checked_rows(rows, rows.numel(), x, name);
  check_size(r.size(0), x.size(0), name, "tokens of rows");
  Tensor out = at::empty({r.numel(), x.size(1)}, x.options());
  const GroupQuantization quantize(name, globals, rule, offsets, out, clipped);
  const Launch launch(x, name);
  gather_rows(type, in.const_data_ptr(), r.const_data_ptr<std::int32_t>(), r.size(0), r.size(1),
              x.size(1), out.data_ptr(), launch.stream());
  quantize(type, out, launch.stream());
  launch.done(x, rows);
  return out;
}

Tensor combine_rows_cuda(const Tensor& y, const std::optional<Tensor>& weights, const Tensor& rows,
                         const std::optional<Tensor>& addend) {
  constexpr const char* name = "combine_rows";
  const Type type = check_values(y, 2, name, "y");
  const Tensor in = y.contiguous(), r = checked_rows(rows, y.size(0), y, name);
  const Tensor by = weights ? check_beside(*weights, at::kFloat, y, name, "weights") : Tensor();
  const Tensor added =
      addend ? check_beside(*addend, y.scalar_type(), y, name, "addend") : Tensor();
  if (weights) check_size(by.numel(), r.numel(), name, "number of weights");
  if (addend) check_size(added.numel(), r.size(0) * y.size(1), name, "elements of addend");
  Tensor out = at::empty({r.size(0), y.size(1)}, y.options());
  const Launch launch(y, name);
  combine_rows(type, in.const_data_ptr(), data_or_null(by), r.const_data_ptr<std::int32_t>(),
               addend ? added.const_data_ptr() : nullptr, r.size(0), r.size(1), y.size(1),
               out.data_ptr(), launch.stream());
  launch.done(y, rows);
  return out;
}

std::tuple<Tensor, Tensor> combine_rows_backward_cuda(const Tensor& grad, const Tensor& y,
                                                      const Tensor& weights, const Tensor& rows) {
  constexpr const char* name = "combine_rows_backward";
  const Type type = check_values(y, 2, name, "y");
  const Tensor g = check_beside(grad, y.scalar_type(), y, name, "grad"), in = y.contiguous(),
               by = check_beside(weights, at::kFloat, y, name, "weights"),
               r = checked_rows(rows, y.size(0), y, name);
  check_size(g.numel(), r.size(0) * y.size(1), name, "elements of grad");
  Tensor dy = at::empty_like(in), dweights = at::empty_like(by);
  const Launch launch(y, name);
  combine_rows_backward(type, g.const_data_ptr(), in.const_data_ptr(), by.const_data_ptr<float>(),
                        r.const_data_ptr<std::int32_t>(), r.size(0), r.size(1), y.size(1),
                        dy.data_ptr(), dweights.data_ptr<float>(), launch.stream());
  launch.done(grad, y, rows);
  return {dy, dweights};
}

Tensor relu2_cuda(const Tensor& x, at::ArrayRef<double> globals, std::int64_t rule,
                  const std::optional<Tensor>& offsets, const std::optional<Tensor>& clipped) {
  const Type type = check_values(x, 2, "relu2", "x");
  const Tensor in = x.contiguous();
  Tensor out = at::empty_like(in);
  const GroupQuantization quantize("relu2", globals, rule, offsets, out, clipped);
  const Launch launch(x, "relu2");
  relu2(type, in.const_data_ptr(), in.numel(), out.data_ptr(), launch.stream());
  quantize(type, out, launch.stream());
  launch.done(x);
  return out;
}

Tensor relu2_backward_cuda(const Tensor& grad, const Tensor& x) {
  const Type type = check_values(x, 2, "relu2_backward", "x");
  const Tensor in = x.contiguous(),
               g = check_beside(grad, x.scalar_type(), x, "relu2_backward", "grad");
  check_size(g.numel(), in.numel(), "relu2_backward", "elements of grad");
  Tensor out = at::empty_like(in);
  const Launch launch(x, "relu2_backward");
  relu2_backward(type, g.const_data_ptr(), in.const_data_ptr(), in.numel(), out.data_ptr(),
                 launch.stream());
  launch.done(grad, x);
  return out;
}

Tensor grouped_swiglu_cuda(const Tensor& gate_up, at::ArrayRef<double> globals, std::int64_t rule,
                           const Tensor& offsets, const std::optional<Tensor>& clipped) {
  constexpr const char* name = "grouped_swiglu";
  const Type type = check_values(gate_up, 2, name, "gate_up");
  check(gate_up.size(1) % 2 == 0, name, "gate_up: expected an even number of columns, found {}",
        gate_up.size(1));
  const Tensor in = gate_up.contiguous();
  Tensor out = at::empty({in.size(0), in.size(1) / 2}, in.options());
  const GroupQuantization quantize(name, globals, rule, offsets, out, clipped);
  const Launch launch(in, name);
  swiglu(type, in.const_data_ptr(), in.size(0), out.size(1), {1, nvfp4::BlockScale::max, nullptr},
         out.data_ptr(), launch.stream());
  quantize(type, out, launch.stream());
  launch.done(in);
  return out;
}

TORCH_LIBRARY_IMPL(qad, CUDA, m) {
  m.impl("router", router_cuda);
  m.impl("router_backward", router_backward_cuda);
  m.impl("sort_by_expert", sort_by_expert_cuda);
  m.impl("gather_rows", gather_rows_cuda);
  m.impl("combine_rows", combine_rows_cuda);
  m.impl("combine_rows_backward", combine_rows_backward_cuda);
  m.impl("relu2", relu2_cuda);
  m.impl("relu2_backward", relu2_backward_cuda);
  m.impl("grouped_swiglu", grouped_swiglu_cuda);
}

}  // namespace
}  // namespace qad::cuda
