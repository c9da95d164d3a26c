// A decoder in memory: parameters under their Hugging Face names, and its forward pass over flat
// tokens.
//
// A parameter's `value` is what the forward pass reads and the leaf where autograd leaves its
// gradient. What is trained is what is shipped: while training, the optimiser keeps FP32 masters
// and writes into `value` the BF16 rounding of the master, or its NVFP4 or FP8 fake quantisation
// where a policy says so (room quantize).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "models/config.h"
#include "models/rope.h"
#include "models/tokens.h"
#include "nvfp4/nvfp4.h"
#include "ops/fp8.h"
#include "ops/packed_weight.h"

namespace qad::models {

// One Hugging Face tensor inside a parameter: its rows follow those of the part before.
struct Part {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  std::int64_t rows;
};

// Its name without ".weight", as policies and quantisation metadata speak of it.
std::string linear_name(const Part& part);

struct Parameter {
  std::vector<Part> parts;
  at::Tensor value;  // [rows, cols] or [rows], in the model's type
  // Instead of the value, which is then a meta tensor of its shape (Placement::packs_weights).
  std::shared_ptr<const ops::PackedWeight> packed = nullptr;
  // Not trained, and FP32 in memory and in files whatever the model's type: a router's correction.
  bool constant = false;
};

// How a linear's weight and input are quantised. One weight, one global scale, one input scale: its
// parts share them by construction.
struct LinearQuant {
  // FP8: weight_global and input_global are its two scales, and there are no blocks.
  ops::Precision precision = ops::Precision::nvfp4;
  nvfp4::BlockScale weight_rule = nvfp4::BlockScale::max;
  float weight_global = 1;  // weight_scale_2
  // E4M3 codes, uint8 [rows, blocks of a row], where they were chosen by more than the weights
  // (quantize/by_hessians.h) or are learned; undefined: by the rule.
  at::Tensor weight_scales = {};
  std::optional<float> input_global;  // input_scale; absent: activations stay unquantised
  nvfp4::BlockScale input_rule = nvfp4::BlockScale::max;  // what serving kernels do
  // The forward pass counts here, so that clipping is reported and not guessed.
  at::Tensor clipped;     // int64 scalar on the values' device; undefined before the first pass
  std::int64_t seen = 0;  // of a layer's experts the first counts all: which rows are whose is
                          // known on the device alone
};

// What is added in BF16 to a quantised product, of its unquantised input: up (down x), part by
// part (SVDQuant, arXiv 2411.05007; quantize/low_rank.h). Trained as all parameters are.
struct LowRank {
  Parameter down;  // [parts * rank, cols]: "X.svdquant_lora_a" of each part
  Parameter up;    // [rows, rank]: "X.svdquant_lora_b"
};

struct Linear {
  // Rows of the coverage table: "qkv", "o", "mamba_in", "mamba_out", "gate_up", "up", "down",
  // "lm_head"; "expert up", "shared up", ...
  std::string kind;
  int layer = -1;  // -1: outside the layers
  Parameter weight;
  std::optional<Parameter> bias;
  std::unique_ptr<LinearQuant> quant;  // null: not quantised
  std::optional<LowRank> low_rank = {};
};

// Of a layer whose keys and values are cached as E4M3 codes: a key is code * key. Every forward
// pass attends to what the codes decode to; on a CPU they are what lies in the pages, on a GPU
// their values do.
struct KvScales {
  float key = 1, value = 1;
};

struct Attention {
  AttentionConfig config;
  Linear qkv, output;
  std::optional<Parameter> q_norm, k_norm;
  std::optional<KvScales> kv_scales = {};  // where the cache is FP8
};

struct Mamba {
  MambaConfig config;
  Linear in, out;  // in: z, x, B, C and dt of a token
  Parameter conv;  // [conv_channels, 1, kernel]
  std::optional<Parameter> conv_bias;
  Parameter dt_bias, a_log, d;  // [heads]
  Parameter norm;
};

struct Mlp {
  MlpConfig config;
  Linear gate_up, down;  // without a gate the first is up_proj alone
};

// Routed experts, of which each token goes through a few, and one that all go through.
struct Experts {
  ExpertsConfig config;
  Parameter router;  // [experts, hidden]
  // [experts], added to the scores for the choice alone; absent where these are a softmax
  std::optional<Parameter> correction;
  std::vector<Mlp> routed;
  std::optional<Mlp> shared;
};

struct Layer {
  std::optional<Parameter> mixer_norm;
  std::optional<Attention> attention;
  std::optional<Parameter> feed_forward_norm;
  std::optional<Mlp> mlp;
  std::optional<Experts> experts = {};
  std::optional<Mamba> mamba;  // a mixer, as attention is
};

// Where a model computes, and in which type: FP32 on the CPU, on a GPU BF16, the checkpoints' own.
struct Placement {
  at::Device device = at::kCPU;
  at::ScalarType type = at::kFloat;
  // Whether quantised linears keep their inputs packed from forward to backward: a sixth of a GPU's
  // peak goes, for 5 to 6 % of a step (H200, 135M and 0.5B), so only where memory is short.
  bool packs_inputs = false;
  // The first layers that keep only what enters them, 2 H values a token, and run again in the
  // backward pass: up to a quarter more time, so only where memory is shorter still.
  std::int64_t recomputed_layers = 0;
  // Whether weights stay as the checkpoint has them, NVFP4 in 4.5 bits a value, and are unpacked in
  // products, to the same bits: for models that only write texts. On a GPU NVFP4 alone, and
  // experts' weights anew in each pass.
  bool packs_weights = false;
};
// "cpu" or "cuda", for planning.
Placement placement_named(const std::string& device);
// The same, ready to compute: loads the GPU's plug-in. Throws Error when there is no such device.
Placement placement_of(const std::string& device);
// The same for a model that only computes forward, a few tokens at a time.
Placement decoding_placement_of(const std::string& device);

// Bytes of a GPU's memory: free for this program, and the most that it held so far.
struct DeviceMemory {
  double free = 0, total = 0, peak = 0;
};
DeviceMemory memory_of(const at::Device& device);
std::string machine_name(const at::Device& device);  // "NVIDIA H200, driver for CUDA 13.0"

// Scales of an FP8 cache, F32 [] or [1], which a checkpoint may have.
std::string key_scale_name(const Layer& layer);    // "model.layers.0.self_attn.k_proj.k_scale"
std::string value_scale_name(const Layer& layer);  // "model.layers.0.self_attn.v_proj.v_scale"

struct Model {
  ModelConfig config;
  Placement placement;
  Parameter embedding;
  std::vector<Layer> layers;
  Parameter final_norm;
  std::optional<Linear> head;  // absent when tied: the embedding serves
  mutable RopeTables rope;     // of the positions met so far; forward() grows it

  const Parameter& head_parameter() const;
  const at::Tensor& head_weight() const;  // its value [V, H]
};

// Keys and values of many sequences, in pages that a sequence takes as it grows (PagedAttention,
// Kwon et al. 2023). Per layer [pages, page_tokens, kv_heads, head_dim], undefined where a layer
// has no attention. Of the model's type, or on a CPU bytes: E4M3 codes by the layer's KvScales.
//
// Of a layer with Mamba a sequence has a state, which does not grow and cannot be shared: it lies
// in a slot. Per layer the inputs before the convolution's next token, [slots, kernel - 1,
// conv_channels], and the scan's state, [slots, heads, head_dim, state] FP32.
struct PagedCache {
  std::int64_t pages = 0, page_tokens = 0, slots = 0;
  std::vector<at::Tensor> keys, values;
  std::vector<at::Tensor> convolutions, states;
};
PagedCache make_paged_cache(const Model& model, std::int64_t pages, std::int64_t page_tokens,
                            std::int64_t slots = 1);
double bytes_of_page(const Model& model, std::int64_t page_tokens);
double bytes_of_slot(const Model& model);  // 0: no layer has a state

// Of one sequence: a page that grows.
struct KvCache {
  PagedCache page;
  std::int64_t length = 0;
};

// New tokens of S sequences, one behind the other, and where the cache has the rest of each.
struct PagedTokens {
  Tokens tokens;       // a document is a sequence's new tokens; positions count from its beginning
  at::Tensor lengths;  // int32 [S], with the new tokens
  at::Tensor pages;    // int32 [S, P]: the pages of each in order
  std::int64_t longest = 0;  // of the lengths
  at::Tensor slots;          // int32 [S], no two alike: of models that have states
};

// Sees the unquantised input of each linear (calibration).
using Observer = std::function<void(const Linear&, const at::Tensor& input)>;

// Sees the keys (rotated) and values of a layer, [T, kv_heads, head_dim], before they are rounded.
using CacheObserver =
    std::function<void(std::size_t layer, const at::Tensor& keys, const at::Tensor& values)>;

// Throws Error for tokens that the model does not have. forward() asks it; whoever replays a
// recorded one must.
void check_tokens(const Model& model, const Tokens& tokens);
// Makes the rotary tables that a forward pass over documents of `length` tokens reads, which it
// else does itself: a recorded one must find them.
void reserve_positions(const Model& model, std::int64_t length);
// Final-norm output [T, H]. Differentiable when the parameters require gradients; the model must
// then outlive the backward pass, which runs recomputed layers again (not those of a forward pass
// with an observer). Observers may be empty. `tokens` may be on another device than the model.
at::Tensor forward(const Model& model, const Tokens& tokens, const Observer& observer = {},
                   const CacheObserver& cache_observer = {});
// The same in steps, layer by layer: the residual stream [T, H] as it enters the first layer,
// leaves one, and goes to the head. To the same bits; of the parameters only those of the step have
// values.
at::Tensor embed(const Model& model, const Tokens& tokens);
at::Tensor forward_layer(const Model& model, std::size_t layer, const Tokens& tokens,
                         const at::Tensor& stream, const Observer& observer = {},
                         const CacheObserver& cache_observer = {});
at::Tensor final_norm(const Model& model, const at::Tensor& stream);
// The same of the new tokens alone, whose keys and values go into their pages. Without gradients.
at::Tensor forward_paged(const Model& model, const PagedTokens& tokens, const PagedCache& cache);
// The same of one sequence, tokens appended to `cache`.
at::Tensor forward_cached(const Model& model, const std::vector<std::int32_t>& ids, KvCache& cache);
// The head on hidden states (quantising them if the head is quantised): FP32 [T, V].
at::Tensor logits(const Model& model, const at::Tensor& hidden);
// The input of the head as its product reads it: fake-quantised if the head is. For ops::head_loss.
at::Tensor head_input(const Model& model, const at::Tensor& hidden);

// Every parameter in checkpoint order; every linear in checkpoint order.
std::vector<Parameter*> parameters(Model& model);
std::vector<const Parameter*> parameters(const Model& model);
std::vector<Parameter*> parameters(Layer& layer);
std::vector<const Parameter*> parameters(const Layer& layer);
std::vector<Linear*> linears(Model& model);
std::vector<const Linear*> linears(const Model& model);

// Builds from config alone: names and shapes (values are meta tensors, without storage), for
// inspection and planning.
Model build(const ModelConfig& config);
// Whether its product can be corrected: not a routed expert's, nor the head's.
bool takes_low_rank(const Linear& l);
// The names and shapes of a correction of this rank.
void give_low_rank(Linear& l, std::int64_t rank);
// Values in all parameters; a tied head's are the embedding's.
std::int64_t parameter_count(const ModelConfig& config);
std::int64_t parameter_count(const Model& model);
// Reads a checkpoint: plain weights, or NVFP4 and FP8 ones dequantised with LinearQuant set, so
// that forward() does what the deployed kernel does (FP8 where each part has one scale and all
// share one of their input: else they are plain values); rounded to the placement's type. Throws
// Error for missing, extra or misshapen tensors and non-finite values, naming each. A tied model's
// own lm_head.weight must equal the embedding. With packed weights matrices have no value.
Model load(const checkpoint::Checkpoint& c, const Placement& placement = {});

// The names and shapes that a checkpoint should have: build() of its configuration, with the
// low-rank corrections that are there.
Model shape_of(const checkpoint::Checkpoint& c);
// load() in steps, for models that are larger than memory. First the names and shapes, which are
// checked against the checkpoint, without values; then those of some parameters at a time.
Model open_model(const checkpoint::Checkpoint& c, const Placement& placement);
void read_values(const checkpoint::Checkpoint& c, Model& model,
                 const std::vector<Parameter*>& which);
void drop_values(const std::vector<Parameter*>& which);

// From here on the model computes there: values are rounded to the placement's type, those of
// quantised linears to their own bits where global scales are powers of two; what clipping counted
// is forgotten. Of a model without packed weights.
void move_to(Model& model, const Placement& placement);

}  // namespace qad::models
