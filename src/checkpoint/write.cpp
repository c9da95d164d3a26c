// Streams one tensor at a time: memory is that of the largest tensor, however large the model.
#include "checkpoint/write.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>

#include "checkpoint/dtype.h"
#include "core/error.h"
#include "core/version.h"

namespace qad::checkpoint {

std::int64_t bytes_of(const OutTensor& t) {
  const std::size_t width = bytes_per_element(t.dtype);
  const auto count = count_elements(t.shape);
  std::int64_t bytes = 0;
  check(width > 0 && count &&
            !__builtin_mul_overflow(*count, static_cast<std::int64_t>(width), &bytes),
        "write_folder", "{}: cannot write {} {}", t.name, name_of(t.dtype), shape_text(t.shape));
  return bytes;
}

namespace {

constexpr std::string_view kOperation = "write_folder";

using Shard = std::vector<const OutTensor*>;

std::string_view module_of(const OutTensor& t) {
  return std::string_view(t.name).substr(0, t.name.rfind('.'));
}

// Fills shards in order. Tensors of one module (X.weight, X.weight_scale, X.bias) stay together:
// lazy loaders look for the siblings of a weight in its own shard.
std::vector<Shard> plan_shards(const std::vector<OutTensor>& tensors, std::int64_t max_bytes) {
  std::vector<Shard> shards(1);
  std::int64_t used = 0;
  for (std::size_t i = 0; i < tensors.size();) {
    std::size_t end = i;
    std::int64_t bytes = 0;
    for (; end < tensors.size() && module_of(tensors[end]) == module_of(tensors[i]); ++end)
      bytes += bytes_of(tensors[end]);
    if (!shards.back().empty() && used + bytes > max_bytes) {
      shards.emplace_back();
      used = 0;
    }
    used += bytes;
    for (; i < end; ++i) shards.back().push_back(&tensors[i]);
  }
  return shards;
}

// Where a shard's tensors lie behind its header: the widest types come first, so that every tensor
// is aligned to its type.
using Places = std::map<const OutTensor*, std::int64_t>;

using Metadata = std::map<std::string, std::string>;

std::string header_of(const Shard& shard, const Metadata& metadata, Places& places) {
  Shard sorted = shard;
  std::stable_sort(sorted.begin(), sorted.end(), [](const OutTensor* a, const OutTensor* b) {
    return bytes_per_element(a->dtype) > bytes_per_element(b->dtype);
  });
  Json header;
  header["__metadata__"] = metadata;
  header["__metadata__"]["format"] = "pt";  // Transformers refuses files without it
  std::int64_t at = 0;
  for (const OutTensor* t : sorted) {
    const std::int64_t end = at + bytes_of(*t);
    header[t->name] = {
        {"dtype", name_of(t->dtype)}, {"shape", t->shape}, {"data_offsets", {at, end}}};
    places[t] = at;
    at = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

using Written = std::function<void(std::int64_t bytes)>;  // after each tensor; may be empty

void write_shard(const fs::path& path, const Shard& shard, const Metadata& metadata,
                 const Written& written = {}) {
  AtomicFile file(path);
  Places places;
  const std::string header = header_of(shard, metadata, places);
  const std::uint64_t length = header.size();
  file.write(&length, sizeof(length));
  file.write(header);
  std::vector<std::byte> buffer;
  for (const OutTensor* t : shard) {
    buffer.resize(static_cast<std::size_t>(bytes_of(*t)));
    t->fill(buffer.data());
    file.write_at(sizeof(length) + length + static_cast<std::uint64_t>(places.at(t)), buffer.data(),
                  buffer.size());
    if (written) written(static_cast<std::int64_t>(buffer.size()));
  }
  file.commit();
}

void write_weights(const fs::path& folder, const std::vector<Shard>& shards,
                   const Metadata& metadata, const Written& written) {
  if (shards.size() == 1)
    return write_shard(folder / "model.safetensors", shards[0], metadata, written);
  std::int64_t total = 0;
  std::map<std::string, std::string> weight_map;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_shard(folder / name, shards[i], metadata, written);
    for (const OutTensor* t : shards[i]) {
      weight_map[t->name] = name;
      total += bytes_of(*t);
    }
  }
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  write_file(folder / "model.safetensors.index.json", to_text(index));
}

void check_names(const OutFolder& folder) {
  std::set<std::string_view> names;
  for (const OutTensor& t : folder.tensors)
    check(names.insert(t.name).second, kOperation, "tensor {} is to be written twice", t.name);
  std::set<std::string_view> files{"config.json", "generation_config.json", "hf_quant_config.json",
                                   "model.safetensors.index.json", kMark};
  for (const auto& [name, content] : folder.files)
    check(!name.ends_with(".safetensors") && !name.empty() && name.find('/') == name.npos &&
              name != "." && name != ".." && files.insert(name).second,
          kOperation, "cannot write a further file called \"{}\"", name);
}

// Whether `inner` is `outer` or lies in it, by whatever names the two go.
bool is_within(const fs::path& inner, const fs::path& outer) {
  std::error_code error;
  fs::path p = fs::weakly_canonical(fs::absolute(inner), error);
  if (error) p = fs::absolute(inner);
  for (;; p = p.parent_path()) {
    if (fs::equivalent(p, outer, error)) return true;
    if (!p.has_relative_path()) return false;
  }
}

}  // namespace

// A disk that is too small should say so before an hour's work is quantised, not after.
void check_space(const fs::path& folder, std::uintmax_t bytes) {
  std::error_code error;
  const auto space = fs::space(folder, error);
  check(error || space.available >= bytes, kOperation,
        "{}: {} bytes are needed, the disk has {} left; nothing was written", folder.string(),
        bytes, space.available);
}

std::string mark_text() {
  return Json{{"producer", "qad"}, {"version", kVersion}}.dump() + "\n";
}

void check_writable_target(const fs::path& out, const fs::path& source) {
  check(!is_within(out, source), kOperation,
        "{}: is, or lies in, {}, which is read; choose another folder", out.string(),
        source.string());
  check(!is_within(source, out), kOperation,
        "{}: holds {}, which is read, and would be replaced; choose another folder", out.string(),
        source.string());
  if (out.extension() != ".gguf") return check_replaceable(out, kMark);
  std::error_code error;
  const auto status = fs::status(out, error);
  check(!fs::exists(status) ||
            (fs::is_regular_file(status) && MappedFile(out).text().starts_with("GGUF")),
        kOperation, "{}: is there and no GGUF file; remove it, or choose another name",
        out.string());
}

void write_safetensors(const fs::path& path, const std::vector<OutTensor>& tensors) {
  write_shard(path, plan_shards(tensors, std::numeric_limits<std::int64_t>::max())[0], {});
}

void write_folder(const fs::path& path, const OutFolder& folder) {
  check(folder.config.is_object(), kOperation, "{}: expected an object as config.json",
        path.string());
  check_names(folder);
  const std::vector<Shard> shards = plan_shards(folder.tensors, folder.max_shard_bytes);
  AtomicFolder out(path, kMark);
  std::int64_t all = 0, done = 0;
  for (const OutTensor& t : folder.tensors) all += bytes_of(t);
  std::uintmax_t need = static_cast<std::uintmax_t>(all);
  for (const auto& [name, content] : folder.files) need += content.size();
  check_space(out.path(), need);
  write_file(out.path() / kMark, mark_text());
  write_file(out.path() / "config.json", to_text(folder.config));
  if (!folder.generation_config.is_null())
    write_file(out.path() / "generation_config.json", to_text(folder.generation_config));
  if (!folder.hf_quant_config.is_null())
    write_file(out.path() / "hf_quant_config.json", to_text(folder.hf_quant_config));
  for (const auto& [name, content] : folder.files) write_file(out.path() / name, content);
  write_weights(out.path(), shards, folder.metadata, [&](std::int64_t bytes) {
    done += bytes;
    if (folder.progress) folder.progress(done, all);
  });
  out.commit();
}

}  // namespace qad::checkpoint
