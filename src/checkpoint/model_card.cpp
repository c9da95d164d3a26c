#include "checkpoint/model_card.h"

#include "core/version.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kBegin = "<!-- qad: about -->\n", kEnd = "<!-- qad: end -->\n";

std::string weights_table(const OutModel& m) {
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> kinds;  // tensors, values
  for (const OutWeight& w : m.weights) {
    const std::string algo = algo_of(w);
    std::int64_t n = 1;
    for (const std::int64_t dim : w.shape) n *= dim;
    auto& [tensors, values] = kinds[algo.empty() ? "not quantised" : algo];
    ++tensors;
    values += n;
  }
  std::string text = "| weights | tensors | parameters |\n| --- | --- | --- |\n";
  for (const auto& [kind, count] : kinds)
    text += fmt::format("| {} | {} | {} |\n", kind, count.first, count.second);
  if (!m.kv_cache_algo.empty())
    text += fmt::format("\nKeys and values are cached in {}.\n", m.kv_cache_algo);
  return text;
}

bool has_algo(const OutModel& m, std::string_view algo) {
  for (const OutWeight& w : m.weights)
    if (algo_of(w) == algo) return true;
  return false;
}

std::string usage(const OutModel& m, std::string_view format) {
  const std::string gguf =
      "llama.cpp:\n\n    llama-server -m model.gguf\n    llama-cli -m model.gguf -p \"Once upon a "
      "time\"\n";
  if (format.starts_with("gguf")) return gguf;
  if (format == "mlx")
    return "MLX:\n\n    mlx_lm.generate --model PATH --prompt \"Once upon a time\"\n";
  if (format == "torchao")
    return std::string(has_algo(m, "NVFP4")
                           ? "torchao 0.18 (Transformers 5.23 loads no scales of inputs):\n\n"
                             "    unflatten_tensor_state_dict(tensors, metadata)  # "
                             "torchao.prototype.safetensors\n\n"
                           : "Transformers, with torchao 0.18 or later:\n\n"
                             "    AutoModelForCausalLM.from_pretrained(\"PATH\", "
                             "dtype=\"bfloat16\")\n\n") +
           "As GGUF: `qad convert PATH model.gguf --format gguf`, then " + gguf;
  if (low_rank_of(m) > 0)
    return "No server is known to load low-rank corrections (NVFP4_SVD); this program does:\n\n"
           "    qad serve PATH\n";
  std::string text = "vLLM:\n\n    vllm serve PATH\n\n";
  if (format == "modelopt" && has_algo(m, "NVFP4"))
    text +=
        "SGLang, TensorRT-LLM:\n\n    python -m sglang.launch_server --model-path PATH "
        "--quantization modelopt_fp4\n    trtllm-serve PATH\n\n";
  if (format != "modelopt")
    text +=
        "Transformers (with compressed-tensors where weights are quantised):\n\n"
        "    AutoModelForCausalLM.from_pretrained(\"PATH\", dtype=\"bfloat16\")\n\n";
  return text + "As GGUF: `qad convert PATH model.gguf --format gguf`, then " + gguf;
}

}  // namespace

std::string model_card(const OutModel& m, std::string_view format,
                       const std::vector<std::string>& changes) {
  bool quantized = false;
  for (const OutWeight& w : m.weights) quantized |= w.is_quantized();
  quantized &= format != "hf-bf16" && format != "gguf-bf16";
  std::string text = "---\n";
  text += fmt::format("library_name: {}\n", format.starts_with("gguf") ? "gguf" : "transformers");
  text += "pipeline_tag: text-generation\ntags:\n- qad\n";
  if (quantized) text += fmt::format("- nvfp4\n- {}\n", format);
  text += fmt::format("---\n\n# {}\n\n", m.name.empty() ? "A model" : m.name);
  const bool gguf = format.starts_with("gguf");
  text += fmt::format("Written by qad {} as {}.\n\n", kVersion,
                      gguf || quantized ? format : "a Hugging Face folder");
  if (!m.about.empty()) {
    text += kBegin;
    text += m.about;
    if (!m.about.ends_with('\n')) text += '\n';
    text += kEnd;
    text += '\n';
  }
  if (quantized) text += "## Weights\n\n" + weights_table(m) + "\n";
  if (!changes.empty()) {
    text += "What this format changed:\n\n";
    for (const std::string& change : changes) text += "- " + change + "\n";
    text += "\n";
  }
  text += "## Serve\n\n" + usage(m, format);
  if ((format == "modelopt" || format == "compressed-tensors") && has_algo(m, "NVFP4"))
    text +=
        "\nGPUs before Blackwell have no NVFP4 products: engines then use the weights alone, with "
        "16-bit inputs.\n";
  return text;
}

std::string about_of(const fs::path& folder) {
  const fs::path file = folder / "README.md";
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return {};
  const std::string text = read_text(file);
  const auto begin = text.find(kBegin), end = text.find(kEnd);
  if (begin == text.npos || end == text.npos || end < begin) return {};
  return text.substr(begin + kBegin.size(), end - begin - kBegin.size());
}

}  // namespace qad::checkpoint
