// The GGUF container: a cursor that can't leave the file, key-values into JSON, tensor records into
// checked spans. Layout: ggml's docs/gguf.md.
#include "checkpoint/gguf_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <unordered_set>

#include "core/error.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOp = "open_gguf";
constexpr std::size_t kMaxKeyBytes = 65535, kMaxTensorNameBytes = 64;  // gguf.md
constexpr int kMaxArrayDepth = 8;  // ours: real files don't nest at all

enum Type : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};

// The least bytes a value of each type takes, so that a lying count fails before anything is
// allocated.
constexpr std::size_t kMinBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string_view where) : bytes_(bytes), where_(where) {}

  std::size_t position() const { return position_; }
  std::size_t left() const { return bytes_.size() - position_; }

  template <class T>
  T number(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  // A count of things of at least `min_bytes` each.
  std::size_t count(std::size_t min_bytes, std::string_view what) {
    const auto n = number<std::uint64_t>(what);
    check(n <= left() / min_bytes, kOp,
          "{}: {} says {}, but only {} bytes follow; the file is truncated or not a GGUF", where_,
          what, n, left());
    return n;
  }

  std::string text(std::string_view what, std::size_t max_bytes = SIZE_MAX) {
    const std::size_t n = count(1, what);
    check(n <= max_bytes, kOp, "{}: {} at byte {} has {} bytes, expected at most {}", where_, what,
          position_, n, max_bytes);
    const auto raw = take(n, what);
    return {reinterpret_cast<const char*>(raw.data()), n};
  }

 private:
  std::span<const std::byte> take(std::size_t n, std::string_view what) {
    check(n <= left(), kOp, "{}: ends within {} at byte {}; the file is truncated", where_, what,
          position_);
    position_ += n;
    return bytes_.subspan(position_ - n, n);
  }

  std::span<const std::byte> bytes_;
  std::string_view where_;
  std::size_t position_ = 0;
};

Json read_value(Cursor& in, std::uint32_t type, std::string_view key, std::string_view where,
                int depth = 0) {
  switch (type) {
    case u8:
      return in.number<std::uint8_t>(key);
    case i8:
      return in.number<std::int8_t>(key);
    case u16:
      return in.number<std::uint16_t>(key);
    case i16:
      return in.number<std::int16_t>(key);
    case u32:
      return in.number<std::uint32_t>(key);
    case i32:
      return in.number<std::int32_t>(key);
    case f32:
      return in.number<float>(key);
    case string:
      return in.text(key);
    case u64:
      return in.number<std::uint64_t>(key);
    case i64:
      return in.number<std::int64_t>(key);
    case f64:
      return in.number<double>(key);
    case boolean: {
      const auto value = in.number<std::uint8_t>(key);
      check(value <= 1, kOp, "{}: {}: expected a boolean (0 or 1), found {}", where, key, value);
      return value == 1;
    }
    case array: {
      check(depth < kMaxArrayDepth, kOp, "{}: {}: arrays nest deeper than {}", where, key,
            kMaxArrayDepth);
      const auto element = in.number<std::uint32_t>(key);
      check(element < std::size(kMinBytes), kOp, "{}: {}: unknown value type {} in an array", where,
            key, element);
      const std::size_t n = in.count(kMinBytes[element], key);
      Json values = Json::array();
      values.get_ref<Json::array_t&>().reserve(n);
      for (std::size_t i = 0; i < n; ++i)
        values.push_back(read_value(in, element, key, where, depth + 1));
      return values;
    }
    default:
      fail(kOp, "{}: {}: unknown value type {}", where, key, type);
  }
}

Json read_metadata(Cursor& in, std::size_t n, std::string_view where) {
  Json metadata = Json::object();
  auto& entries = metadata.get_ref<Json::object_t&>();
  std::unordered_set<std::string> seen;
  for (std::size_t i = 0; i < n; ++i) {
    std::string key = in.text("a key", kMaxKeyBytes);
    check(seen.insert(key).second, kOp, "{}: key '{}' appears twice", where, key);
    const auto type = in.number<std::uint32_t>(key);
    Json value = read_value(in, type, key, where);
    // Not operator[]: that searches all earlier entries, and uniqueness is known.
    entries.emplace_back(std::move(key), std::move(value));
  }
  return metadata;
}

std::size_t alignment_of(const Json& metadata, std::string_view where) {
  const auto entry = metadata.find("general.alignment");
  if (entry == metadata.end()) return 32;
  const bool ok = entry->is_number_unsigned() && *entry <= UINT32_MAX && *entry >= 8 &&
                  std::has_single_bit(entry->get<std::uint64_t>());
  check(ok, kOp, "{}: general.alignment: expected a power of two from 8 on, found {}", where,
        entry->is_number() ? entry->dump() : entry->type_name());
  return entry->get<std::size_t>();
}

struct Record {
  GgufTensor tensor;
  std::uint64_t offset, bytes;
};

Record read_record(Cursor& in, std::size_t file_bytes, std::string_view where) {
  Record r;
  GgufTensor& t = r.tensor;
  t.name = in.text("a tensor name", kMaxTensorNameBytes);
  const auto dims = in.number<std::uint32_t>(t.name);
  check(dims >= 1 && dims <= 4, kOp, "{}: {}: expected 1 to 4 dimensions, found {}", where, t.name,
        dims);
  // No format packs more than 64 values into a byte, so a product beyond that can't be in the file;
  // the bound also keeps every later product from overflowing.
  const std::uint64_t limit = std::uint64_t{file_bytes} * 64;
  std::uint64_t elements = 1;
  for (std::uint32_t i = 0; i < dims; ++i) {
    const auto n = in.number<std::uint64_t>(t.name);
    check(n >= 1 && n <= limit / elements, kOp,
          "{}: {}: dimension {} is {}, which a file of {} bytes can't hold", where, t.name, i, n,
          file_bytes);
    elements *= n;
    t.shape.push_back(static_cast<std::int64_t>(n));
  }
  const std::int64_t row = t.shape.front();  // ggml lists the fastest dimension first
  std::reverse(t.shape.begin(), t.shape.end());
  const auto type = in.number<std::uint32_t>(t.name);
  t.format = find_ggml_format(type);
  check(t.format != nullptr, kOp,
        "{}: {}: type {} is not supported; expected F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, "
        "Q4_K, Q5_K, Q6_K, MXFP4 or NVFP4",
        where, t.name, ggml_type_name(type));
  check(row % t.format->values == 0, kOp,
        "{}: {}: rows of {} values are no multiple of {}'s blocks of {}", where, t.name, row,
        t.format->name, t.format->values);
  r.offset = in.number<std::uint64_t>(t.name);
  r.bytes = elements / static_cast<std::uint64_t>(t.format->values) *
            static_cast<std::uint64_t>(t.format->bytes);
  return r;
}

void check_no_overlap(const std::vector<Record>& records, std::string_view where) {
  std::vector<const Record*> sorted;
  for (const Record& r : records) sorted.push_back(&r);
  std::sort(sorted.begin(), sorted.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    check(sorted[i - 1]->offset + sorted[i - 1]->bytes <= sorted[i]->offset, kOp,
          "{}: tensors {} and {} overlap in the file", where, sorted[i - 1]->tensor.name,
          sorted[i]->tensor.name);
  }
}

}  // namespace

std::int64_t GgufTensor::rows() const {
  std::int64_t n = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) n *= shape[i];
  return n;
}

GgufFile parse_gguf(std::span<const std::byte> bytes, std::string_view where) {
  static_assert(std::endian::native == std::endian::little);
  Cursor in(bytes, where);
  const auto magic = in.number<std::uint32_t>("the magic");
  check(magic == 0x46554747, kOp, "{}: doesn't begin with 'GGUF'", where);
  const auto version = in.number<std::uint32_t>("the version");
  check((version & 0xffff) != 0, kOp, "{}: is a big-endian GGUF; expected little endian", where);
  check(version == 2 || version == 3, kOp, "{}: GGUF version {}: expected 2 or 3", where, version);
  const std::size_t n_tensors = in.count(8 + 4 + 8 + 4 + 8, "the number of tensors");
  const std::size_t n_values = in.count(8 + 4 + 1, "the number of key-values");

  GgufFile file{std::string(where), read_metadata(in, n_values, where), {}};
  const std::size_t alignment = alignment_of(file.metadata, where);
  std::vector<Record> records;
  std::unordered_set<std::string> seen;
  for (std::size_t i = 0; i < n_tensors; ++i) {
    records.push_back(read_record(in, bytes.size(), where));
    const std::string& name = records.back().tensor.name;
    check(seen.insert(name).second, kOp, "{}: tensor '{}' appears twice", where, name);
  }

  const std::size_t begin = (in.position() + alignment - 1) / alignment * alignment;
  const auto data = bytes.subspan(std::min(begin, bytes.size()));
  for (const auto& [t, offset, n] : records) {
    check(offset % alignment == 0, kOp, "{}: {}: offset {} is no multiple of the alignment {}",
          where, t.name, offset, alignment);
    check(offset <= data.size() && n <= data.size() - offset, kOp,
          "{}: {}: expected {} bytes at offset {}, but the data ends at {}; the file is truncated",
          where, t.name, n, offset, data.size());
  }
  check_no_overlap(records, where);
  for (Record& r : records) {
    r.tensor.data = data.subspan(r.offset, r.bytes);
    file.tensors.push_back(std::move(r.tensor));
  }
  return file;
}

}  // namespace qad::checkpoint
