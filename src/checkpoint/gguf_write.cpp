#include "checkpoint/gguf_write.h"

#include <cstring>

#include "checkpoint/dtype.h"
#include "checkpoint/write.h"
#include "core/error.h"

namespace qad::checkpoint {
namespace {

constexpr std::string_view kOperation = "write_gguf";
constexpr std::size_t kAlignment = 32;  // GGUF's default

enum Type : std::uint32_t { u8 = 0, u32 = 4, i32 = 5, f32 = 6, boolean = 7, string = 8, array = 9 };

class Bytes {
 public:
  template <class T>
  void number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void text(std::string_view text) {
    number(std::uint64_t{text.size()});
    text_ += text;
  }
  void pad() { text_.resize((text_.size() + kAlignment - 1) / kAlignment * kAlignment); }
  const std::string& str() const { return text_; }

 private:
  std::string text_;
};

Type type_of(const Json& value, std::string_view key) {
  if (value.is_string()) return string;
  if (value.is_boolean()) return boolean;
  if (value.is_array()) return array;
  if (value.is_number_float()) return f32;
  check(value.is_number_integer(), kOperation, "{}: a GGUF cannot hold {}", key, value.type_name());
  const bool fits =
      value.is_number_unsigned() ? value <= UINT32_MAX : value >= INT32_MIN && value <= INT32_MAX;
  check(fits, kOperation, "{}: expected 32 bits, found {}", key, value.dump());
  return value.is_number_unsigned() ? u32 : i32;
}

void put(Bytes& out, const Json& value, Type type, std::string_view key) {
  switch (type) {
    case u8:
      return out.number(value.get<std::uint8_t>());
    case u32:
      return out.number(value.get<std::uint32_t>());
    case i32:
      return out.number(value.get<std::int32_t>());
    case f32:
      return out.number(value.get<float>());
    case boolean:
      return out.number(static_cast<std::uint8_t>(value.get<bool>()));
    case string:
      return out.text(value.get_ref<const std::string&>());
    case array: {
      const Type element =
          key == "tokenizer.ggml.precompiled_charsmap" ? u8 : type_of(value[0], key);
      check(element != array, kOperation, "{}: lists of lists cannot be written", key);
      out.number(std::uint32_t{element});
      out.number(std::uint64_t{value.size()});
      for (const Json& item : value) {
        check(element == u8 || type_of(item, key) == element, kOperation,
              "{}: expected one kind of value in a list, found {} and {}", key,
              value[0].type_name(), item.type_name());
        put(out, item, element, key);
      }
      return;
    }
  }
}

std::string header_of(const Json& metadata, const std::vector<OutGgufTensor>& tensors) {
  Bytes out;
  std::uint64_t count = 0;
  for (const auto& [key, value] : metadata.items()) count += !(value.is_array() && value.empty());
  out.number(std::uint32_t{0x46554747});  // "GGUF"
  out.number(std::uint32_t{3});
  out.number(std::uint64_t{tensors.size()});
  out.number(count);
  for (const auto& [key, value] : metadata.items()) {
    if (value.is_array() && value.empty()) continue;  // of no type
    const Type type = type_of(value, key);
    out.text(key);
    out.number(std::uint32_t{type});
    put(out, value, type, key);
  }
  std::uint64_t offset = 0;
  for (const OutGgufTensor& t : tensors) {
    check(t.name.size() < 64, kOperation, "{}: the name is longer than 63 bytes", t.name);
    out.text(t.name);
    out.number(static_cast<std::uint32_t>(t.shape.size()));
    for (auto dim = t.shape.rbegin(); dim != t.shape.rend(); ++dim)
      out.number(static_cast<std::uint64_t>(*dim));
    out.number(t.format->type);
    out.number(offset);
    const auto bytes = static_cast<std::uint64_t>(t.bytes());
    offset += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  out.pad();
  return out.str();
}

}  // namespace

std::int64_t OutGgufTensor::bytes() const {
  const auto count = count_elements(shape);
  check(count && !shape.empty() && shape.size() <= 4 && shape.back() % format->values == 0,
        kOperation, "{}: cannot write {} as {}", name, shape_text(shape), format->name);
  return *count / format->values * format->bytes;
}

void write_gguf(const fs::path& path, const Json& metadata,
                const std::vector<OutGgufTensor>& tensors,
                const std::function<void(std::int64_t done, std::int64_t all)>& progress) {
  const std::string header = header_of(metadata, tensors);
  std::int64_t all = 0, done = 0;
  for (const OutGgufTensor& t : tensors) all += t.bytes();
  check_space(path.parent_path(), static_cast<std::uintmax_t>(all) + header.size());
  AtomicFile file(path);
  file.write(header);
  std::vector<std::byte> buffer;
  for (const OutGgufTensor& t : tensors) {
    const auto bytes = static_cast<std::size_t>(t.bytes());
    buffer.assign((bytes + kAlignment - 1) / kAlignment * kAlignment, std::byte{0});
    t.fill(buffer.data());
    file.write(buffer.data(), buffer.size());
    done += t.bytes();
    if (progress) progress(done, all);
  }
  file.commit();
}

}  // namespace qad::checkpoint
