// Reading the values of a config.json: each function gives one that was checked, or throws Error
// "[parse_config] config.json: KEY: ...". A null is as good as nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"
#include "models/config.h"

namespace qad::models {

constexpr std::string_view kParseConfig = "parse_config";

// Far above any model, and low enough that no product of two sizes, nor the sum over all layers,
// leaves 63 bits.
constexpr std::int64_t kMostWidth = 1 << 20, kMostVocabulary = 1 << 24, kMostLayers = 10'000;
constexpr std::int64_t kMostPositions = std::int64_t{1} << 31;

// Null pointer: not there.
const Json* find(const Json& json, const char* key);

std::int64_t integer(const Json& json, const char* key, std::int64_t least, std::int64_t most);
// At least 1.
std::int64_t size(const Json& json, const char* key, std::int64_t most = kMostWidth);
std::int64_t size_or(const Json& json, const char* key, std::int64_t fallback,
                     std::int64_t most = kMostWidth);
// Positive and finite.
double number_or(const Json& json, const char* key, double fallback);
bool boolean_or(const Json& json, const char* key, bool fallback);
std::string text_or(const Json& json, const char* key, const char* fallback);

// norm_eps and layers of a nemotron_h.
void parse_nemotron_h(const Json& config, ModelConfig& model);
// Experts in those layers of a qwen3_moe, parsed as a dense one, that have them.
void parse_qwen3_moe(const Json& config, ModelConfig& model);
// Throws Error for sizes that no router can choose from; `layer` is who has them, KEY what says how
// many experts there are.
void check_experts(const ExpertsConfig& c, std::size_t layer, const char* key);

}  // namespace qad::models
