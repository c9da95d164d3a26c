// Times what a hybrid adds to the operators at a step of 16384 tokens of nemotron-h-0.9b (hidden
// 1024, 32 Mamba heads of 64 in 8 groups with state 128; 64 experts of width 704, 6 a token).
#include "card.h"

namespace qad::bench {

void hybrid(const Card& card) {
  constexpr std::int64_t kTokens = 16384, kDocument = 4096, kHidden = 1024;
  constexpr std::int64_t kHeads = 32, kDim = 64, kGroups = 8, kState = 128;
  constexpr std::int64_t kInner = kHeads * kDim, kColumns = kInner + 2 * kGroups * kState;
  constexpr std::int64_t kExperts = 64, kChosen = 6, kWidth = 704;
  const double T = kTokens, D = kInner, C = kColumns;
  const Tensor starts =
      at::arange(0, kTokens + 1, kDocument, at::TensorOptions().dtype(at::kInt)).cuda();
  const at::IValue none;
  {
    const Tensor xbc = bf16({kTokens, kColumns}), weight = bf16({kColumns, 1, 4}),
                 bias = bf16({kColumns});
    line(card, "causal_conv", 4 * T * C, 0, [&] {
      call("qad::causal_conv", {xbc, weight, bias, starts});
    });
    line(card, "causal_conv_backward", 6 * T * C, 0, [&] {
      call("qad::causal_conv_backward", {xbc, xbc, weight, bias, starts});
    });
    const Tensor dt = bf16({kTokens, kHeads}), of_heads = bf16({kHeads}, 0.5);
    const Tensor y = bf16({kTokens, kInner}), z = bf16({kTokens, kInner}), norm = bf16({kInner});
    const double inf = std::numeric_limits<double>::infinity();
    // The floor of the scan is what it reads and writes once: x, B, C, dt and y.
    line(card, "mamba_scan", 2 * T * (C + D), 0, [&] {
      call("qad::mamba_scan",
           {xbc, dt, of_heads, of_heads, of_heads, starts, kDocument, kDim, kGroups, 0.0, inf});
    });
    line(card, "mamba_scan_backward", 2 * T * (2 * C + D), 0, [&] {
      call("qad::mamba_scan_backward",
           {y, xbc, dt, of_heads, of_heads, of_heads, starts, kDocument, kDim, kGroups, 0.0, inf});
    });
    const auto inverse =
        call("qad::gated_rms_norm", {y, z, norm, kGroups, 1e-5, 1.0, std::int64_t{0}, none})[1];
    line(card, "gated_rms_norm", 6 * T * D, 0, [&] {
      call("qad::gated_rms_norm", {y, z, norm, kGroups, 1e-5, 1.0, std::int64_t{0}, none});
    });
    line(card, "gated_rms_norm_backward", 10 * T * D, 0, [&] {
      call("qad::gated_rms_norm_backward", {y, y, z, norm, inverse});
    });
  }
  const Tensor x = bf16({kTokens, kHidden}), gate = bf16({kExperts, kHidden}, 0.02),
               correction = at::zeros({kExperts}).cuda();
  const std::int64_t one = 1;
  const auto route = [&] {
    return call("qad::router", {x, gate, correction, kChosen, one, one, true, 2.5, false});
  };
  const auto routes = route();
  const double H = kHidden, R = T * kChosen, W = kWidth;
  line(card, "router", 2 * T * H, 0, route);
  const auto order = call("qad::sort_by_expert", {routes[1], kExperts});
  line(card, "sort_by_expert", 16 * R, 0, [&] {
    call("qad::sort_by_expert", {routes[1], kExperts});
  });
  c10::List<double> globals;
  for (std::int64_t e = 0; e < kExperts; ++e) globals.push_back(0x1p-5);
  const Tensor clipped = at::zeros({kExperts}, at::kLong).cuda();
  const auto gather = [&] {
    return call("qad::gather_rows", {x, order[0], order[2], globals, std::int64_t{0}, clipped})[0]
        .toTensor();
  };
  const Tensor rows = gather();
  line(card, "gather_rows quantized", 2 * H * (T + R), 0, gather);
  std::vector<Tensor> up;
  for (std::int64_t e = 0; e < kExperts; ++e) up.push_back(bf16({kWidth, kHidden}, 0.03));
  const double product = 2 * R * H * W, bytes = 2 * (R * (H + W) + kExperts * H * W);
  const Tensor wide = call("qad::grouped_linear", {rows, up, order[2]})[0].toTensor();
  line(card, "grouped_linear", bytes, product, [&] {
    call("qad::grouped_linear", {rows, up, order[2]});
  });
  line(card, "grouped_linear_backward", 2 * bytes, 2 * product, [&] {
    call("qad::grouped_linear_backward", {wide, rows, up, order[2], true, true});
  });
  line(card, "relu2 quantized", 4 * R * W, 0, [&] {
    call("qad::relu2", {wide, globals, std::int64_t{0}, order[2], clipped});
  });
  line(card, "combine_rows", 2 * H * (R + T), 0, [&] {
    call("qad::combine_rows", {rows, routes[0], order[0], none});
  });
  line(card, "combine_rows_backward", 2 * H * (2 * R + T), 0, [&] {
    call("qad::combine_rows_backward", {x, rows, routes[0], order[0]});
  });
}

}  // namespace qad::bench
