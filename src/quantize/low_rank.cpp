// A few products with a random matrix find the subspace of the largest singular values; a small SVD
// gives them.
#include "quantize/low_rank.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/matmul.h>

#include <algorithm>

#include "core/error.h"
#include "core/random.h"

namespace qad::quantize {
namespace {

constexpr std::string_view kOperation = "low_rank";
// Directions beyond the rank, and passes of the iteration: errors fall with the ratio of singular
// values inside and outside to the power of twice the passes.
constexpr std::int64_t kMore = 16;
constexpr int kPasses = 8;

at::Tensor random_matrix(std::int64_t rows, std::int64_t cols) {
  const at::Tensor m = at::empty({rows, cols}, at::kFloat);
  float* const values = m.data_ptr<float>();
  for (std::int64_t i = 0; i < m.numel(); ++i)
    values[i] =
        static_cast<float>(random_bits(0, static_cast<std::uint64_t>(i)) >> 40) * 0x1p-23f - 1.0f;
  return m;
}

at::Tensor as_bf16(const at::Tensor& t) {
  return t.to(at::kBFloat16).to(at::kFloat).contiguous();
}

std::vector<models::Linear*> corrected(models::Model& model, const Policy& policy) {
  std::vector<models::Linear*> chosen;
  if (policy.low_rank == 0) return chosen;
  for (models::Linear* l : models::linears(model)) {
    const Verdict v = decide(policy, *l, static_cast<std::int64_t>(model.layers.size()));
    if (!models::takes_low_rank(*l) || !v.quantize || v.precision != ops::Precision::nvfp4)
      continue;
    for (const models::Part& part : l->weight.parts)
      check(policy.low_rank < std::min(part.rows, l->weight.value.size(1)), kOperation,
            "{}: expected a rank below the matrix's, {} x {}, found quantize.low_rank {}",
            linear_name(part), part.rows, l->weight.value.size(1), policy.low_rank);
    chosen.push_back(l);
  }
  return chosen;
}

}  // namespace

Factors largest_factors(const at::Tensor& w, std::int64_t rank) {
  const std::int64_t k = std::min({rank + kMore, w.size(0), w.size(1)});
  at::Tensor basis =
      std::get<0>(at::linalg_qr(at::matmul(w, random_matrix(w.size(1), k).to(w.device()))));
  for (int pass = 0; pass < kPasses; ++pass) {
    const at::Tensor back = std::get<0>(at::linalg_qr(at::matmul(w.t(), basis)));
    basis = std::get<0>(at::linalg_qr(at::matmul(w, back)));
  }
  const auto [u, s, v] = at::linalg_svd(at::matmul(basis.t(), w), false);
  const at::Tensor root = s.narrow(0, 0, rank).sqrt();
  return {as_bf16(at::matmul(basis, u.narrow(1, 0, rank)).mul(root)),
          as_bf16(v.narrow(0, 0, rank).mul(root.unsqueeze(1)))};
}

void add_low_rank(models::Model& model, const Policy& policy) {
  for (models::Linear* l : corrected(model, policy)) models::give_low_rank(*l, policy.low_rank);
}

void split_low_rank(models::Model& model, const Policy& policy) {
  const at::NoGradGuard no_grad;
  check(policy.low_rank == 0 || model.placement.type == at::kFloat, kOperation,
        "expected a model in FP32");
  for (models::Linear* l : corrected(model, policy)) {
    check(l->quant == nullptr && !l->weight.packed, kOperation,
          "{}: expected an unquantised weight", linear_name(l->weight.parts.front()));
    models::give_low_rank(*l, policy.low_rank);
    at::Tensor &up = l->low_rank->up.value, &down = l->low_rank->down.value;
    up = at::empty(up.sizes(), l->weight.value.options());
    down = at::empty(down.sizes(), l->weight.value.options());
    // Where calibration and teacher may share values, theirs stay.
    l->weight.value = l->weight.value.clone();
    std::int64_t row = 0, at = 0;
    for (const models::Part& part : l->weight.parts) {
      const at::Tensor w = l->weight.value.narrow(0, row, part.rows);
      const Factors f = largest_factors(w, policy.low_rank);
      up.narrow(0, row, part.rows).copy_(f.up);
      down.narrow(0, at, policy.low_rank).copy_(f.down);
      w.sub_(at::matmul(f.up, f.down));
      row += part.rows;
      at += policy.low_rank;
    }
  }
}

}  // namespace qad::quantize
