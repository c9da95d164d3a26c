// A checkpoint's tensors into a model's values: parts one below the other, NVFP4 dequantised or, in
// a model that only writes texts, as it is.
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "checkpoint/fp8.h"
#include "checkpoint/nvfp4_tensors.h"
#include "core/error.h"
#include "models/device_copy.h"
#include "models/verify.h"
#include "ops/threads.h"

namespace qad::models {
namespace {

constexpr std::string_view kOperation = "load_checkpoint";

// One tensor to read; large ones first, so that threads end together.
struct Job {
  std::int64_t elements;
  std::function<void()> read;
};

void run(std::vector<Job> jobs) {
  std::sort(jobs.begin(), jobs.end(),
            [](const Job& a, const Job& b) { return a.elements > b.elements; });
  std::atomic<std::size_t> next = 0;
  ops::for_pieces(at::get_num_threads(), [&](std::int64_t) {
    for (std::size_t i; (i = next++) < jobs.size();) jobs[i].read();
  });
}

std::unique_ptr<LinearQuant> quant_of(const checkpoint::Nvfp4Weight& w) {
  auto quant = std::make_unique<LinearQuant>();
  quant->weight_global = w.global_scale;
  quant->input_global = w.input_scale;
  return quant;
}

// The scales of a matrix in FP8 whose parts have one each and share that of their input; else its
// parts are plain values, as a teacher's.
std::unique_ptr<LinearQuant> fp8_quant_of(const checkpoint::Checkpoint& c, const Parameter& p) {
  std::unique_ptr<LinearQuant> quant;
  for (const Part& part : p.parts) {
    const auto t = c.tensors.find(part.name);
    if (t == c.tensors.end() || !t->second.fp8) return nullptr;
    const checkpoint::Fp8Weight& w = *t->second.fp8;
    if (!w.quantizes_inputs()) return nullptr;
    if (!quant) {
      quant = std::make_unique<LinearQuant>();
      quant->precision = ops::Precision::fp8;
      quant->weight_global = w.scales.front();
      quant->input_global = w.input_scale;
    } else if (*quant->input_global != *w.input_scale) {
      return nullptr;
    }
    quant->weight_global = std::max(quant->weight_global, w.scales.front());
  }
  return quant;
}

// Stored as the model wants it, so that no value has to pass through the CPU's registers.
bool copies_as_it_is(const checkpoint::Tensor& t, const at::Tensor& rows) {
  return !t.read && !t.raw.empty() && t.dtype == checkpoint::DType::bf16 &&
         rows.scalar_type() == at::kBFloat16;
}

// Where in a file a tensor's bytes are.
FileCopy file_copy(const checkpoint::Checkpoint& c, const checkpoint::Tensor& t,
                   const at::Tensor& to) {
  for (const MappedFile& file : c.files) {
    const auto bytes = file.bytes();
    if (t.raw.data() >= bytes.data() && t.raw.data() + t.raw.size() <= bytes.data() + bytes.size())
      return {&file, static_cast<std::size_t>(t.raw.data() - bytes.data()), to};
  }
  fail(kOperation, "{}: {}: expected its bytes in one of the checkpoint's files", c.path.string(),
       t.name);
}

// k_proj.k_scale and v_proj.v_scale of each layer, as ModelOpt writes them (amax / 448); a
// checkpoint may leave them out for 1.
void read_kv_scales(const checkpoint::Checkpoint& c, Model& model) {
  const std::string algo = checkpoint::read_quantization(c.quantization).kv_cache_algo;
  if (algo.empty()) return;
  check(algo == "FP8", kOperation,
        "{}: keys and values in {}: expected FP8, or kv_cache_quant_algo null", c.path.string(),
        algo);
  const auto scale = [&](const std::string& name) {
    if (!c.has(name)) return 1.0f;
    const checkpoint::Tensor& t = c.at(name);
    check(t.elements() == 1, kOperation, "{}: {}: expected one number, found {}", c.path.string(),
          name, t.elements());
    float value = 0;
    checkpoint::read_f32(t, &value);
    check(value > 0x1p-100f && value < 0x1p100f, kOperation,
          "{}: {}: expected a positive scale, found {}", c.path.string(), name, value);
    return value;
  };
  for (Layer& layer : model.layers)
    if (layer.attention)
      layer.attention->kv_scales = {scale(key_scale_name(layer)), scale(value_scale_name(layer))};
}

// What went to a GPU without being looked at on the way.
void check_finite(const std::vector<Parameter*>& which, const fs::path& path) {
  std::vector<const Part*> parts;
  // The largest magnitude is infinite or NaN if any value is: one pass without temporaries, and one
  // wait for all.
  std::vector<at::Tensor> largest;
  for (const Parameter* p : which) {
    if (p->value.is_cpu() || p->packed) continue;
    std::int64_t row = 0;
    for (const Part& part : p->parts) {
      parts.push_back(&part);
      largest.push_back(at::linalg_vector_norm(p->value.narrow(0, row, part.rows),
                                               std::numeric_limits<double>::infinity()));
      row += part.rows;
    }
  }
  if (parts.empty()) return;
  const at::Tensor found = at::stack(largest).to(at::kCPU, at::kFloat);
  for (std::size_t i = 0; i < parts.size(); ++i)
    check(std::isfinite(found.const_data_ptr<float>()[i]), kOperation,
          "{}: {}: expected finite values, found an infinity or NaN", path.string(),
          parts[i]->name);
}

using Nvfp4Parts = std::vector<std::optional<checkpoint::Nvfp4Weight>>;

// Whether BF16 holds its values: FP8's under powers of two, which have 4 significand bits.
bool is_bf16(const checkpoint::Tensor& t) {
  const auto is_power = [](float scale) {
    int exponent = 0;
    return std::frexp(scale, &exponent) == 0.5f && exponent > -100;
  };
  return t.dtype == checkpoint::DType::bf16 ||
         (t.fp8 && std::ranges::all_of(t.fp8->scales, is_power));
}

// The precision that holds all parts of a matrix, of which those of `nvfp4` are quantised.
ops::Stored stored_of(const checkpoint::Checkpoint& c, const Parameter& p,
                      const Nvfp4Parts& nvfp4) {
  bool all_nvfp4 = true, all_bf16 = true;
  for (std::size_t i = 0; i < p.parts.size(); ++i) {
    const bool quantised = i < nvfp4.size() && nvfp4[i];
    all_nvfp4 &= quantised;
    all_bf16 &= !quantised && is_bf16(c.at(p.parts[i].name));
  }
  return all_nvfp4 ? ops::Stored::nvfp4 : all_bf16 ? ops::Stored::bf16 : ops::Stored::fp32;
}

const std::uint8_t* bytes(std::span<const std::byte> b) {
  return reinterpret_cast<const std::uint8_t*>(b.data());
}

// A plain tensor into a packed weight's rows from `row` on: by pieces, so that its values in FP32
// never exist at once, unless only the whole can be read.
void pack_plain(const checkpoint::Checkpoint& c, const checkpoint::Tensor& t,
                const ops::PackedWeight& to, std::int64_t row, std::vector<Job>& jobs) {
  constexpr std::int64_t kValues = 1 << 20;
  const std::int64_t rows = t.shape[0], cols = t.shape[1];
  const bool whole = t.read || t.raw.empty() || cols == 0;
  const std::int64_t step = whole ? rows : std::max<std::int64_t>(1, kValues / cols);
  for (std::int64_t first = 0; first < rows; first += step) {
    checkpoint::Tensor piece = t;
    piece.shape[0] = std::min(step, rows - first);
    if (!whole) {
      const std::size_t row_bytes = t.raw.size() / static_cast<std::size_t>(rows);
      piece.raw = t.raw.subspan(static_cast<std::size_t>(first) * row_bytes,
                                static_cast<std::size_t>(piece.shape[0]) * row_bytes);
    }
    jobs.push_back({piece.elements(), [&c, &t, &to, piece, row, first] {
                      std::vector<float> values(static_cast<std::size_t>(piece.elements()));
                      if (!read_finite(piece, values.data()).empty()) {
                        values.resize(static_cast<std::size_t>(t.elements()));
                        fail(kOperation, "{}: {}", c.path.string(), read_finite(t, values.data()));
                      }
                      ops::put_rows(to, row + first, piece.shape[0], values.data());
                    }});
  }
}

void pack(const checkpoint::Checkpoint& c, Parameter& p, const Nvfp4Parts& nvfp4,
          ops::Stored stored, const at::Device& device, std::vector<Job>& jobs) {
  std::vector<ops::GlobalScale> globals;
  if (stored == ops::Stored::nvfp4)
    for (const auto& w : nvfp4) globals.push_back({w->rows, w->global_scale});
  const auto packed = std::make_shared<const ops::PackedWeight>(
      ops::make_packed(stored, p.value.size(0), p.value.size(1), globals, device));
  p.packed = packed;
  std::int64_t row = 0;
  for (std::size_t i = 0; i < p.parts.size(); ++i) {
    if (i >= nvfp4.size() || !nvfp4[i]) {
      pack_plain(c, c.at(p.parts[i].name), *packed, row, jobs);
    } else {
      jobs.push_back({nvfp4[i]->rows * nvfp4[i]->cols, [packed, stored, row, w = *nvfp4[i]] {
                        if (stored == ops::Stored::nvfp4)
                          return ops::put_rows(*packed, row, w.rows, bytes(w.codes()),
                                               bytes(w.scales()));
                        std::vector<float> values(static_cast<std::size_t>(w.rows * w.cols));
                        nvfp4::dequantize(bytes(w.codes()), bytes(w.scales()), w.rows, w.cols,
                                          w.global_scale, values.data());
                        ops::put_rows(*packed, row, w.rows, values.data());
                      }});
    }
    row += p.parts[i].rows;
  }
}

// Values of parameters, read side by side when all are known.
class Reader {
 public:
  Reader(const checkpoint::Checkpoint& c, const Placement& placement)
      : c_(c), placement_(placement) {}

  void linear(Linear& l) {
    Nvfp4Parts nvfp4;
    for (const Part& part : l.weight.parts) {
      nvfp4.push_back(find_nvfp4(c_, linear_name(part)));
      if (nvfp4.back() && !l.quant) l.quant = quant_of(*nvfp4.back());
    }
    if (!l.quant) l.quant = fp8_quant_of(c_, l.weight);
    if (packs(l.weight, nvfp4)) return;
    std::size_t next = 0;
    parts(l.weight, [&](const Part& part, const at::Tensor& rows) {
      const auto& w = nvfp4[next++];
      if (!w) return plain(part, rows);
      fill(rows, [w = *w](float* out) {
        nvfp4::dequantize(bytes(w.codes()), bytes(w.scales()), w.rows, w.cols, w.global_scale, out);
      });
    });
  }
  void embedding(Parameter& p) {
    if (!packs(p, {})) parameter(p);
  }
  void parameter(Parameter& p) {
    parts(p, [&](const Part& part, const at::Tensor& rows) { plain(part, rows); });
  }
  void read() {
    run(std::exchange(jobs_, {}));
    copy_to_device(std::exchange(copies_, {}));
  }

 private:
  // Whether a matrix stays packed, and is read as that: on a GPU only NVFP4 does.
  bool packs(Parameter& p, const Nvfp4Parts& nvfp4) {
    if (!placement_.packs_weights) return false;
    const ops::Stored stored = stored_of(c_, p, nvfp4);
    if (!placement_.device.is_cpu() && stored != ops::Stored::nvfp4) return false;
    pack(c_, p, nvfp4, stored, placement_.device, jobs_);
    return true;
  }
  // Calls fill with room for a part's values, which are `rows`' in FP32.
  void fill(at::Tensor rows, std::function<void(float*)> fill) {
    jobs_.push_back({rows.numel(), [rows, fill = std::move(fill)] {
                       if (rows.is_cpu() && rows.scalar_type() == at::kFloat)
                         return fill(rows.data_ptr<float>());
                       const at::Tensor values = at::empty(rows.sizes(), at::kFloat);
                       fill(values.data_ptr<float>());
                       rows.copy_(values.to(rows.scalar_type()));
                     }});
  }
  void plain(const Part& part, const at::Tensor& rows) {
    const checkpoint::Tensor& t = c_.at(part.name);
    if (!rows.is_cpu() && copies_as_it_is(t, rows))
      copies_.push_back(file_copy(c_, t, rows));
    else
      fill(rows, [&c = c_, &t](float* out) {
        const std::string bad = read_finite(t, out);
        check(bad.empty(), kOperation, "{}: {}", c.path.string(), bad);
      });
  }
  // Calls `read` for each part and its rows.
  template <class Read>
  void parts(Parameter& p, Read&& read) {
    p.value = at::empty(p.value.sizes(), at::TensorOptions()
                                             .dtype(p.constant ? at::kFloat : placement_.type)
                                             .device(placement_.device));
    std::int64_t row = 0;
    for (const Part& part : p.parts) {
      read(part, p.value.narrow(0, row, part.rows));
      row += part.rows;
    }
  }

  const checkpoint::Checkpoint& c_;
  const Placement& placement_;
  std::vector<Job> jobs_;
  std::vector<FileCopy> copies_;
};

}  // namespace

Model shape_of(const checkpoint::Checkpoint& c) {
  Model model = build(parse_config(c.config, c.generation_config));
  for (Linear* l : linears(model)) {
    const auto found = c.tensors.find(linear_name(l->weight.parts.front()) + ".svdquant_lora_a");
    if (found == c.tensors.end() || !takes_low_rank(*l)) continue;
    const auto& shape = found->second.shape;
    if (shape.size() == 2 && shape[0] > 0 && shape[0] <= l->weight.value.size(1))
      give_low_rank(*l, shape[0]);
  }
  return model;
}

Model open_model(const checkpoint::Checkpoint& c, const Placement& placement) {
  Model model = shape_of(c);
  model.placement = placement;
  const auto wrong = structural_problems(model, c);
  check(wrong.empty(), kOperation, "{}: {}{}", c.path.string(), wrong.empty() ? "" : wrong.front(),
        wrong.size() < 2 ? ""
                         : fmt::format(" (and {} more: qad verify lists them)", wrong.size() - 1));
  read_kv_scales(c, model);
  const std::string tied = tied_head_problem(model, c);
  check(tied.empty(), kOperation, "{}: {}", c.path.string(), tied);
  return model;
}

void read_values(const checkpoint::Checkpoint& c, Model& model,
                 const std::vector<Parameter*>& which) {
  std::map<const Parameter*, Linear*> linear_of;
  for (Linear* l : linears(model)) linear_of[&l->weight] = l;
  Reader reader(c, model.placement);
  for (Parameter* p : which) {
    const auto l = linear_of.find(p);
    if (l != linear_of.end())
      reader.linear(*l->second);
    else if (p == &model.embedding)
      reader.embedding(*p);
    else
      reader.parameter(*p);
  }
  reader.read();
  check_finite(which, c.path);
}

void drop_values(const std::vector<Parameter*>& which) {
  for (Parameter* p : which) {
    p->value = at::empty(p->value.sizes(), p->value.options().device(at::kMeta));
    p->packed.reset();
  }
}

Model load(const checkpoint::Checkpoint& c, const Placement& placement) {
  Model model = open_model(c, placement);
  read_values(c, model, parameters(model));
  return model;
}

}  // namespace qad::models
