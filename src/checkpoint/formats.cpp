// The table of formats, and those that are only a folder.
#include "checkpoint/formats.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "checkpoint/mlx.h"
#include "checkpoint/model_card.h"
#include "checkpoint/torchao.h"
#include "core/error.h"
#include "core/nearest.h"

namespace qad::checkpoint {
namespace {

using Layout = OutFolder (*)(const OutModel&, std::vector<std::string>&);

std::vector<std::string> write_laid_out(const fs::path& path, const OutModel& m, Layout layout,
                                        std::string_view name) {
  std::vector<std::string> changes;
  OutFolder folder = layout(m, changes);
  folder.files.emplace_back("README.md", model_card(m, name, changes));
  write_folder(path, folder);
  return changes;
}

template <Layout kLayout>
void lay_out(const OutModel& m) {
  std::vector<std::string> changes;
  kLayout(m, changes);
}

std::vector<std::string> write_modelopt(const fs::path& path, const OutModel& m) {
  return write_laid_out(path, m, modelopt_folder, "modelopt");
}

std::vector<std::string> write_compressed_tensors(const fs::path& path, const OutModel& m) {
  return write_laid_out(path, m, compressed_tensors_folder, "compressed-tensors");
}

std::vector<std::string> write_mlx(const fs::path& path, const OutModel& m) {
  return write_laid_out(path, m, mlx_folder, "mlx");
}

std::vector<std::string> write_torchao(const fs::path& path, const OutModel& m) {
  return write_laid_out(path, m, torchao_folder, "torchao");
}

std::vector<std::string> write_plain(const fs::path& path, const OutModel& m) {
  return write_laid_out(path, m, plain_folder, "hf-bf16");
}

constexpr std::array kFormats = {
    Format{"modelopt", "vLLM, SGLang, TensorRT-LLM", write_modelopt, lay_out<modelopt_folder>},
    Format{"compressed-tensors", "vLLM, SGLang, Transformers", write_compressed_tensors,
           lay_out<compressed_tensors_folder>},
    Format{"gguf", "llama.cpp, Ollama, LM Studio", write_gguf_nvfp4, lay_out_gguf},
    Format{"gguf-q8_0", "llama.cpp, Ollama, LM Studio", write_gguf_q8_0, lay_out_gguf},
    Format{"gguf-bf16", "llama.cpp, Ollama, LM Studio", write_gguf_bf16, lay_out_gguf},
    Format{"mlx", "MLX", write_mlx, lay_out<mlx_folder>, true},
    Format{"torchao", "Transformers with torchao", write_torchao, lay_out<torchao_folder>},
    Format{"hf-bf16", "whatever reads Hugging Face folders", write_plain, lay_out<plain_folder>},
};

}  // namespace

std::span<const Format> formats() {
  return kFormats;
}

const Format& format_named(std::string_view name) {
  std::vector<std::string> known;
  for (const Format& f : kFormats) {
    if (f.name == name) return f;
    known.emplace_back(f.name);
  }
  fail("format", "\"{}\": expected {}{}", name, fmt::join(known, ", "),
       did_you_mean(std::string(name), known));
}

void check_format(const Format& format, const fs::path& path, const OutModel& m) {
  check(format.name.starts_with("gguf") || path.extension() != ".gguf", "format",
        "{}: the name of a GGUF file, but the format is {}; choose --format gguf or another name",
        path.string(), format.name);
  format.lay_out(m);
}

OutFolder plain_folder(const OutModel& m, std::vector<std::string>& changes) {
  refuse_low_rank(m, "hf-bf16");
  OutFolder folder = bare_folder(m);
  std::int64_t decoded = 0, rounded = 0;
  // What is FP32 in a model of BF16 is so on purpose (Mamba's constants).
  const bool bf16 = std::ranges::any_of(
      m.weights, [](const OutWeight& w) { return !w.is_quantized() && w.dtype == DType::bf16; });
  for (const OutWeight& w : m.weights) {
    const bool is_float = !(bf16 && w.dtype == DType::f32) &&
                          (w.dtype == DType::f32 || w.dtype == DType::f16 || w.dtype == DType::f64);
    decoded += w.is_quantized();
    rounded += is_float && !w.is_quantized();
    folder.tensors.push_back(plain_tensor(w, is_float ? std::optional(DType::bf16) : std::nullopt));
  }
  const bool old_spelling = folder.config.contains("torch_dtype");
  if (old_spelling) folder.config["torch_dtype"] = "bfloat16";
  if (!old_spelling || folder.config.contains("dtype")) folder.config["dtype"] = "bfloat16";
  if (decoded > 0)
    changes.push_back(fmt::format(
        "{} quantised weights are BF16 values: exact where the global scale is a power of two, "
        "else rounded to nearest; scales of inputs{} are gone",
        decoded, m.kv_cache_algo.empty() ? "" : " and of the cache"));
  if (rounded > 0) changes.push_back(fmt::format("{} tensors are rounded to BF16", rounded));
  return folder;
}

}  // namespace qad::checkpoint
