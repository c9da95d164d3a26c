// A recipe: everything one run of `qad distill` needs, as plain values. for_each_key() is the one
// table of its keys: YAML files, --set, the command line's flags, the help text and the record in
// result.json all come from it.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/json.h"
#include "ops/loss_weights.h"

namespace qad::recipe {

// A data file and its share in a mixture.
struct DataFile {
  static constexpr const char* required = "file";
  std::string file;
  double weight = 1;
};
template <class D, class F>
requires std::is_same_v<std::remove_const_t<D>, DataFile>
void for_each_key(D& d, F&& f) {
  f("file", d.file, "", "");
  f("weight", d.weight, ">0", "its share");
}

// A rule of the quantisation policy: `pattern` over Hugging Face names, later rules win.
struct PolicyRule {
  static constexpr const char* required = "pattern|quantize";
  std::string pattern;
  bool quantize = false;
  std::string format = "nvfp4";  // where it quantises
};
template <class P, class F>
requires std::is_same_v<std::remove_const_t<P>, PolicyRule>
void for_each_key(P& p, F&& f) {
  f("pattern", p.pattern, "", "");
  f("quantize", p.quantize, "", "");
  f("format", p.format, "nvfp4|fp8", "");
}

struct Recipe {
  std::string model, teacher, output = "out/run";
  bool teacher_quantized = false;
  std::string method = "qad", format = "modelopt", device = "cpu";
  std::int64_t threads = 0, seed = 0;

  struct {
    std::string policy = "nvfp4";
    std::vector<PolicyRule> rules;
    std::int64_t keep_first = 0, keep_last = 0;
    std::string global_scale = "pow2", weight_scales = "max", input_scales = "max";
    std::string rounding = "nearest";
    double input_headroom = 1;
    std::string kv_cache = "preset";
    std::vector<std::string> transform;
    double smoothing = 0.5;
    std::int64_t low_rank = 0;
    double bits = 0;
    std::int64_t sensitivity_tokens = 2048;
  } quantize;

  struct {
    std::string data;
    std::int64_t sequences = 64, seq_len = 0;
  } calibration;

  struct {
    std::vector<DataFile> train;
    std::string validation, selection, test, mask = "all";
    bool pack = true, eos = false;
    std::int64_t max_validation_documents = 0, max_test_documents = 0;
    std::int64_t synthesize_tokens = 0;
  } data;

  struct {
    std::int64_t steps = 300, seq_len = 256, batch_sequences = 16, micro_sequences = 0;
    std::int64_t recompute_layers = 0;
    double learning_rate = 1e-5, final_fraction = 0.1;
    std::int64_t warmup_steps = 20;
    std::string schedule = "cosine";
    double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0, clip_norm = 1;
    double scales_rate = 0.05;
    std::int64_t validate_every = 0, keep_best = 10, save_every = 0;
    bool cache_teacher = false, cuda_graphs = true, learn_scales = false;
    std::string cache_folder;
    std::string masters = "fp32", optimizer_states = "fp32", gradients = "fp32", logits = "fp32";
  } train;

  ops::LossWeights loss;

  struct {
    std::vector<std::string> tasks, set;
    std::string protocol;
    std::int64_t cache_gb = 1;
  } evaluate;

  struct {
    std::vector<std::string> prompts;
    std::int64_t max_tokens = 120;
    double temperature = 0;
  } samples;
};

// Every key in the order of a recipe file; see core/yaml_keys.h.
template <class R, class F>
requires std::is_same_v<std::remove_const_t<R>, Recipe>
void for_each_key(R& r, F&& f) {
  f("model", r.model, "", "checkpoint to distil: an HF folder, a .gguf or a llama2.c .bin");
  f("teacher", r.teacher, "", "teacher with the same vocabulary; empty: the model itself");
  f("teacher_quantized", r.teacher_quantized, "", "allow a teacher that is itself quantised");
  f("output", r.output, "", "folder for checkpoint/, result.json, report.html and logs");
  f("method", r.method, "qad|qat|ptq",
    "learn from the teacher, from the labels alone, or not at all");
  f("format", r.format, "modelopt|compressed-tensors|gguf|gguf-q8_0|gguf-bf16|mlx|torchao|hf-bf16",
    "what the checkpoint is written as (docs/formats.md)");
  f("device", r.device, "cpu|cuda", "where to compute");
  f("threads", r.threads, "", "CPU threads; 0: one a core");
  f("seed", r.seed, "", "of the data order, of samples and of a rotation");

  f("quantize.policy", r.quantize.policy,
    "nvfp4|nvfp4-weight-only|nvfp4-mlp-only|nvfp4-nano-9b-v2|nvfp4-nano-30b-a3b",
    "which matrices become NVFP4, or FP8 by quantize.rules (lm_head stays BF16)");
  f("quantize.rules", r.quantize.rules, "",
    "further rules over HF names, later ones win: [{pattern: '*.0.mlp.*', quantize: false}, "
    "{pattern: '*.o_proj', quantize: true, format: fp8}]; format: nvfp4 or fp8 (E4M3, one scale a "
    "matrix and one for its inputs; of experts on a CPU alone)");
  f("quantize.keep_first", r.quantize.keep_first, "", "first layers left in BF16");
  f("quantize.keep_last", r.quantize.keep_last, "", "last layers left in BF16");
  f("quantize.global_scale", r.quantize.global_scale, "pow2|amax",
    "power of two, exact in BF16; or ModelOpt's amax/2688, of FP8 amax/448");
  f("quantize.weight_scales", r.quantize.weight_scales, "max|mse|four_over_six|hessian",
    "how a block of 16 weights gets its scale; hessian: least error of the results");
  f("quantize.rounding", r.quantize.rounding, "nearest|gptq",
    "gptq: later columns make good what rounding does to the results");
  f("quantize.input_scales", r.quantize.input_scales, "max|four_over_six",
    "the same for activations; serving kernels use max");
  f("quantize.input_headroom", r.quantize.input_headroom, "",
    "input scales are made for this multiple of the calibrated maximum");
  f("quantize.kv_cache", r.quantize.kv_cache, "preset|none|fp8",
    "keys and values rounded to E4M3, with calibrated scales, as engines with an FP8 cache hold "
    "them; preset: as the policy's checkpoint has it (nvfp4-nano-30b-a3b: fp8, others: none)");
  f("quantize.transform", r.quantize.transform, "",
    "awq, smoothquant or hadamard, or several in their order: changes of the weights that leave "
    "the model's function as it is, before it is quantised");
  f("quantize.smoothing", r.quantize.smoothing, "",
    "of smoothquant, 0 to 1: how much of the inputs' range goes into weights");
  f("quantize.low_rank", r.quantize.low_rank, "",
    "SVDQuant: so many of the largest singular values of each NVFP4 weight become a product of two "
    "BF16 matrices beside it, which reads unquantised inputs; 0: none. For format: modelopt "
    "(NVFP4_SVD), which no server here loads");
  f("quantize.bits", r.quantize.bits, "",
    "mean bits of the weights that the policy quantises, 4.5 to 16: each gets NVFP4, FP8 (where "
    "inputs "
    "are quantised, and not for formats gguf, gguf-q8_0 and mlx) or BF16 so that their KLs "
    "sum to the least; 0: as the policy says");
  f("quantize.sensitivity_tokens", r.quantize.sensitivity_tokens, ">0",
    "of the calibration data, on which these KLs are measured");

  f("calibration.data", r.calibration.data, "",
    "file to calibrate on (scales, Hessians, transformations, bits); empty: the first training "
    "file");
  f("calibration.sequences", r.calibration.sequences, "", "sequences used");
  f("calibration.seq_len", r.calibration.seq_len, "", "tokens a sequence; 0: train.seq_len");

  f("data.train", r.data.train, "",
    "a file or folder, or a mixture [{file: a.jsonl, weight: 2}, ...]; empty: what the teacher "
    "writes");
  f("data.synthesize_tokens", r.data.synthesize_tokens, "",
    "without data.train: tokens the teacher writes; 0: as many as training reads");
  f("data.validation", r.data.validation, "", "file for choosing the checkpoint");
  f("data.selection", r.data.selection, "",
    "held-out file on which the kept checkpoints are evaluated; empty: the validation figures "
    "decide");
  f("data.test", r.data.test, "",
    "held-out file for the table BF16 | PTQ | QAD; may be empty where data.train is");
  f("data.mask", r.data.mask, "all|assistant", "which tokens count: all, or the assistant's");
  f("data.pack", r.data.pack, "", "several documents in a sequence (they do not see each other)");
  f("data.eos", r.data.eos, "", "end plain texts with EOS (chats end as their template says)");
  f("data.max_validation_documents", r.data.max_validation_documents, "", "0: all");
  f("data.max_test_documents", r.data.max_test_documents, "", "0: all");

  f("train.steps", r.train.steps, "", "optimiser steps");
  f("train.seq_len", r.train.seq_len, "", "tokens a sequence");
  f("train.batch_sequences", r.train.batch_sequences, "", "sequences a step");
  f("train.micro_sequences", r.train.micro_sequences, "",
    "sequences a micro-batch; 0: the whole batch");
  f("train.recompute_layers", r.train.recompute_layers, "",
    "first layers run again in the backward pass, up to a quarter more time for their activations' "
    "memory; a GPU short of it takes more");
  f("train.learning_rate", r.train.learning_rate, "",
    "peak: at or below the SFT rate after SFT, above the RL rate after RL");
  f("train.final_fraction", r.train.final_fraction, "",
    "last learning rate as a share of the peak");
  f("train.warmup_steps", r.train.warmup_steps, "", "linear warm-up");
  f("train.schedule", r.train.schedule, "cosine|linear|constant", "after the warm-up");
  f("train.beta1", r.train.beta1, "", "AdamW");
  f("train.beta2", r.train.beta2, "", "AdamW");
  f("train.epsilon", r.train.epsilon, "", "AdamW");
  f("train.weight_decay", r.train.weight_decay, "", "AdamW, on matrices only");
  f("train.clip_norm", r.train.clip_norm, "", "largest gradient norm; 0: no clipping");
  f("train.validate_every", r.train.validate_every, "",
    "steps between validations; 0: a tenth of the run");
  f("train.keep_best", r.train.keep_best, "",
    "checkpoints kept by validation loss; the one nearest to the teacher is taken");
  f("train.save_every", r.train.save_every, "",
    "steps between resume points, besides one after each validation and at an interrupt");
  f("train.cache_teacher", r.train.cache_teacher, "",
    "reuse the teacher's hidden states in later epochs");
  f("train.cache_folder", r.train.cache_folder, "",
    "with cache_teacher: keep them in this folder, for later runs too; empty: in memory");
  f("train.masters", r.train.masters, "fp32|split",
    "split: FP32's bits as BF16 and 16 more, less memory on a GPU (NUMERICS 6)");
  f("train.optimizer_states", r.train.optimizer_states, "fp32|bf16|int8",
    "AdamW's moments: bf16 is rounded stochastically, int8 in blocks of 256");
  f("train.learn_scales", r.train.learn_scales, "",
    "block scales of weights are trained, too (LSQ)");
  f("train.scales_rate", r.train.scales_rate, "",
    "with learn_scales: their learning rate, times that of weights; 0: they stay what PTQ chose");
  f("train.gradients", r.train.gradients, "fp32|bf16", "on a GPU; the CPU's are fp32");
  f("train.cuda_graphs", r.train.cuda_graphs, "",
    "on a GPU: record each micro-batch and replay it, where memory allows");
  f("train.logits", r.train.logits, "fp32|bf16",
    "on a GPU while training: bf16 is faster, its rounding costs some 3e-4 nats (NUMERICS 5.1)");

  f("loss.forward_kl", r.loss.forward_kl, "",
    "weight of KL(teacher || student), the report's loss");
  f("loss.reverse_kl", r.loss.reverse_kl, "", "weight of KL(student || teacher)");
  f("loss.jensen_shannon", r.loss.jensen_shannon, "", "weight of the Jensen-Shannon divergence");
  f("loss.mse", r.loss.mse, "", "weight of the mean squared logit difference");
  f("loss.cross_entropy", r.loss.cross_entropy, "", "weight of the labels' cross-entropy");
  f("loss.temperature", r.loss.temperature, "", "of the divergences");

  f("evaluate.tasks", r.evaluate.tasks, "",
    "benchmarks that BF16, PTQ and QAD are taken through: names (qad evaluate -h) or .yaml files");
  f("evaluate.set", r.evaluate.set, "", "TASK.KEY=VALUE: changes keys of tasks; * means all");
  f("evaluate.protocol", r.evaluate.protocol, "",
    "sampling of a model family: a name or .yaml of {TASK: {KEY: VALUE}}");
  f("evaluate.cache_gb", r.evaluate.cache_gb, ">0", "memory for keys and values while they write");

  f("samples.prompts", r.samples.prompts, "",
    "texts to continue by BF16, PTQ and QAD; [\"\"] starts from BOS");
  f("samples.max_tokens", r.samples.max_tokens, "", "tokens a sample");
  f("samples.temperature", r.samples.temperature, "", "0: greedy");
}

// Throw Error "[recipe] FILE:LINE: ..." for syntax, unknown keys (with the nearest right one),
// wrong types and values. Relative paths in a file are relative to the current folder.
Recipe load_recipe(const fs::path& file);
Recipe parse_recipe(const std::string& yaml, const std::string& where);
// key=value as on the command line; the value is YAML.
void set_key(Recipe& recipe, const std::string& key, const std::string& value,
             const std::string& where);
// "key=value", as --set gives it.
void set_assignment(Recipe& recipe, const std::string& assignment);
// Whether the teacher writes what is learned from.
bool is_data_free(const Recipe& recipe);
// Whether its format holds weights in FP8, or their values in BF16.
bool format_has_fp8(const Recipe& recipe);
// Throws Error for rules that ask for FP8 where the format has none.
void check_precisions(const Recipe& recipe);
// Whether the student is in FP32 until it is quantised, on a GPU too: BF16 would round what
// transformations and corrections leave, and hide small sensitivities.
bool quantizes_in_fp32(const Recipe& recipe);
// Whether anything before training reads data.
bool needs_calibration(const Recipe& recipe);
// What is missing or contradictory before anything is loaded: one Error naming the key.
void validate(const Recipe& recipe);

struct KeyInfo {
  std::string key, value, words, help;  // value: the default, as YAML
};
std::vector<KeyInfo> keys();
Json to_json(const Recipe& recipe);
std::string to_yaml(const Recipe& recipe);

}  // namespace qad::recipe
