// The rules are those of the reference implementation (safetensors 0.5+): sorted by offset, the
// tensors tile the data section exactly, and each range has the size that dtype and shape ask for.
#include "checkpoint/safetensors.h"

#include <algorithm>
#include <cstring>

#include "checkpoint/dtype.h"
#include "core/error.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOperation = "read_safetensors";

struct Entry {
  Tensor tensor;
  std::uint64_t begin = 0, end = 0;
};

std::vector<std::int64_t> parse_shape(const Json& info, std::string_view where,
                                      const std::string& name) {
  const auto shape = info.find("shape");
  check(shape != info.end() && shape->is_array(), kOperation, "{}: {}: expected a list \"shape\"",
        where, name);
  std::vector<std::int64_t> dims;
  for (const Json& dim : *shape) {
    check(dim.is_number_unsigned() && dim.get<std::uint64_t>() <= INT64_MAX, kOperation,
          "{}: {}: expected dimensions of 0 or more in \"shape\", found {}", where, name,
          shape->dump());
    dims.push_back(dim.get<std::int64_t>());
  }
  return dims;
}

Entry parse_entry(const Json& info, std::string_view where, const std::string& name) {
  check(info.is_object(), kOperation,
        "{}: {}: expected an object with dtype, shape and data_offsets", where, name);
  const auto dtype = info.find("dtype");
  check(dtype != info.end() && dtype->is_string(), kOperation,
        "{}: {}: expected a string \"dtype\"", where, name);
  const DTypeInfo* type = find_dtype(dtype->get_ref<const std::string&>());
  check(type != nullptr, kOperation, "{}: {}: unknown dtype {}", where, name, dtype->dump());

  const auto offsets = info.find("data_offsets");
  check(offsets != info.end() && offsets->is_array() && offsets->size() == 2 &&
            (*offsets)[0].is_number_unsigned() && (*offsets)[1].is_number_unsigned(),
        kOperation, "{}: {}: expected \"data_offsets\" [begin, end]", where, name);

  Entry entry;
  entry.tensor.name = name;
  entry.tensor.dtype = type->type;
  if (type->type == DType::other) entry.tensor.stored_as = type->name;
  entry.tensor.shape = parse_shape(info, where, name);
  entry.begin = (*offsets)[0].get<std::uint64_t>();
  entry.end = (*offsets)[1].get<std::uint64_t>();

  const auto count = count_elements(entry.tensor.shape);
  std::int64_t bits = 0;
  check(count && !__builtin_mul_overflow(*count, std::int64_t{type->bits}, &bits), kOperation,
        "{}: {}: shape {} is larger than any file", where, name, shape_text(entry.tensor.shape));
  check(bits % 8 == 0, kOperation, "{}: {}: shape {} of {} does not fill whole bytes", where, name,
        shape_text(entry.tensor.shape), type->name);
  const auto bytes = static_cast<std::uint64_t>(bits) / 8;
  check(entry.begin <= entry.end && entry.end - entry.begin == bytes, kOperation,
        "{}: {}: expected {} bytes for {} {}, found data_offsets [{}, {}]", where, name, bytes,
        type->name, shape_text(entry.tensor.shape), entry.begin, entry.end);
  return entry;
}

}  // namespace

std::vector<Tensor> parse_safetensors(std::span<const std::byte> file, std::string_view where,
                                      std::map<std::string, std::string>& metadata) {
  std::uint64_t length = 0;
  check(file.size() >= sizeof(length), kOperation,
        "{}: {} bytes are too few for a header; is the file truncated?", where, file.size());
  std::memcpy(&length, file.data(), sizeof(length));
  check(length <= kMaxSafetensorsHeader, kOperation,
        "{}: the header claims {} bytes, the limit is {}; is this a safetensors file?", where,
        length, kMaxSafetensorsHeader);
  check(length <= file.size() - sizeof(length), kOperation,
        "{}: the header claims {} bytes, the file has {}; is it truncated?", where, length,
        file.size());
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof(length), length);
  check(!text.empty() && text.front() == '{', kOperation, "{}: expected a JSON object as header",
        where);
  const auto data = file.subspan(sizeof(length) + length);
  const Json header = parse_json(text, where);

  std::vector<Entry> entries;
  entries.reserve(header.size());
  for (const auto& [name, info] : header.items()) {
    if (name != "__metadata__") {
      entries.push_back(parse_entry(info, where, name));
      continue;
    }
    check(info.is_object(), kOperation, "{}: expected __metadata__ to be an object", where);
    for (const auto& [key, value] : info.items()) {
      check(value.is_string(), kOperation, "{}: __metadata__: expected a string under \"{}\"",
            where, key);
      metadata[key] = value.get<std::string>();
    }
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });

  std::vector<Tensor> tensors;
  tensors.reserve(entries.size());
  std::uint64_t at = 0;
  for (Entry& entry : entries) {
    check(entry.begin == at, kOperation, "{}: {}: expected its bytes to start at {}, found {} ({})",
          where, entry.tensor.name, at, entry.begin,
          entry.begin < at ? "they overlap another tensor" : "a hole before it");
    check(entry.end <= data.size(), kOperation,
          "{}: {}: ends at byte {} of {}; is the file truncated?", where, entry.tensor.name,
          entry.end, data.size());
    at = entry.end;
    entry.tensor.raw = data.subspan(entry.begin, entry.end - entry.begin);
    entry.tensor.stored_bytes = static_cast<std::int64_t>(entry.tensor.raw.size());
    tensors.push_back(std::move(entry.tensor));
  }
  check(at == data.size(), kOperation,
        "{}: {} bytes follow the last tensor; expected the file to end there", where,
        data.size() - at);
  return tensors;
}

SafetensorsFile read_safetensors(const fs::path& path) {
  SafetensorsFile result{MappedFile(path), {}, {}};
  result.tensors = parse_safetensors(result.file.bytes(), path.string(), result.metadata);
  return result;
}

}  // namespace qad::checkpoint
