// What a model can be written as. A format is one file that knows its names, layouts and metadata,
// and one line of the table in formats.cpp; docs/formats.md says what each keeps.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/out_model.h"

namespace qad::checkpoint {

struct Format {
  std::string_view name;
  std::string_view loaded_by;
  // Writes a folder (GGUF: also a file, when the path ends in .gguf), whole or not at all. Returns
  // what had to change, a sentence each: nothing when codes, scales and plain values are the same
  // bits as before.
  std::vector<std::string> (*write)(const fs::path& path, const OutModel& m);
  // Lays the model out as `write` does and writes nothing. An outline will do: a model whose
  // weights have names, shapes and kinds, but no values yet.
  void (*lay_out)(const OutModel& m);
  // Whether global scales must be known before the first weight is written.
  bool scales_first = false;
};

std::span<const Format> formats();
const Format& format_named(std::string_view name);  // throws Error naming the formats

// For commands, before long work: throws Error when `m`, or the model of which it is the outline,
// cannot be written to `path` as `format`. What writing would only find out at its end.
void check_format(const Format& format, const fs::path& path, const OutModel& m);

// The formats, each in a file of its name (modelopt: nvfp4_tensors.cpp). A folder's tensors and
// metadata, not yet written; `changes` gains what the call says.
OutFolder modelopt_folder(const OutModel& m, std::vector<std::string>& changes);
OutFolder compressed_tensors_folder(const OutModel& m, std::vector<std::string>& changes);
OutFolder plain_folder(const OutModel& m, std::vector<std::string>& changes);
// GGUF: NVFP4 weights as they are and others in BF16 (F32 where they are F32), or in Q8_0; or all
// in BF16.
std::vector<std::string> write_gguf_nvfp4(const fs::path& path, const OutModel& m);
std::vector<std::string> write_gguf_q8_0(const fs::path& path, const OutModel& m);
std::vector<std::string> write_gguf_bf16(const fs::path& path, const OutModel& m);
void lay_out_gguf(const OutModel& m);

}  // namespace qad::checkpoint
