// TensorBoard files are read back by a decoder written here from the formats' descriptions.
#include "report/events.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"

namespace qad::report {
namespace {

class Events : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("qad_events_" + std::to_string(getpid()));
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

// Bit by bit, from the polynomial: not the table of the writer.
std::uint32_t plain_crc(const std::string& data) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (const char c : data) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool one =
          ((crc ^ static_cast<std::uint32_t>(static_cast<unsigned char>(c) >> bit)) & 1) != 0;
      crc >>= 1;
      if (one) crc ^= 0x82F63B78u;
    }
  }
  return ~crc;
}

std::uint32_t unmasked(std::uint32_t masked) {
  const std::uint32_t rotated = masked - 0xa282ead8u;
  return rotated >> 17 | rotated << 15;
}

template <class T>
T take(const std::string& data, std::size_t& at) {
  T value;
  if (at + sizeof(T) > data.size()) throw std::runtime_error("short");
  std::memcpy(&value, data.data() + at, sizeof(T));
  at += sizeof(T);
  return value;
}

std::vector<std::string> records(const std::string& file) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at < file.size();) {
    const std::size_t start = at;
    const auto size = take<std::uint64_t>(file, at);
    EXPECT_EQ(unmasked(take<std::uint32_t>(file, at)), plain_crc(file.substr(start, 8)));
    const std::string data = file.substr(at, size);
    at += size;
    EXPECT_EQ(unmasked(take<std::uint32_t>(file, at)), plain_crc(data));
    out.push_back(data);
  }
  return out;
}

struct Field {
  std::uint64_t number = 0;  // varint, fixed64 or fixed32 bits
  std::string bytes;
};

// Field number -> values, of any protobuf message.
std::multimap<int, Field> fields(const std::string& message) {
  std::multimap<int, Field> out;
  std::size_t at = 0;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<std::uint64_t>(take<unsigned char>(message, at));
      value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.size()) {
    const std::uint64_t key = varint();
    Field field;
    switch (key & 7) {
      case 0:
        field.number = varint();
        break;
      case 1:
        field.number = take<std::uint64_t>(message, at);
        break;
      case 2: {
        const std::uint64_t size = varint();
        field.bytes = message.substr(at, size);
        at += size;
        break;
      }
      case 5:
        field.number = take<std::uint32_t>(message, at);
        break;
      default:
        ADD_FAILURE() << "wire type " << (key & 7);
    }
    out.emplace(static_cast<int>(key >> 3), field);
  }
  return out;
}

TEST(Crc32c, KnownValues) {  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
}

TEST_F(Events, ScalarsReadBack) {
  EventWriter writer(folder_);
  writer.scalars(1, {{"train/kl", 0.5}, {"learning rate", 3e-4}});
  writer.scalars(300, {{"train/kl", -0.125}});
  const auto all = records(read_text(writer.path()));  // the writer is still open: it flushed
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(fields(all[0]).find(3)->second.bytes, "brain.Event:2");
  std::vector<std::tuple<std::uint64_t, std::string, float>> scalars;
  for (std::size_t i = 1; i < all.size(); ++i) {
    const auto event = fields(all[i]);
    double wall = 0;
    std::memcpy(&wall, &event.find(1)->second.number, sizeof wall);
    EXPECT_GT(wall, 1.6e9);
    const auto summary = fields(event.find(5)->second.bytes);
    for (auto [value, end] = summary.equal_range(1); value != end; ++value) {
      const auto scalar = fields(value->second.bytes);
      float simple = 0;
      std::memcpy(&simple, &scalar.find(2)->second.number, sizeof simple);
      scalars.emplace_back(event.find(2)->second.number, scalar.find(1)->second.bytes, simple);
    }
  }
  const decltype(scalars) expected = {
      {1, "train/kl", 0.5f}, {1, "learning rate", 3e-4f}, {300, "train/kl", -0.125f}};
  EXPECT_EQ(scalars, expected);
}

TEST_F(Events, TwoWritersInOneFolderKeepApart) {
  const EventWriter a(folder_), b(folder_);
  EXPECT_NE(a.path(), b.path());
  EXPECT_NE(a.path().filename().string().find("tfevents"), std::string::npos);
}

TEST_F(Events, MetricsLogIsOneObjectALine) {
  fs::create_directories(folder_);
  const fs::path path = folder_ / "metrics.jsonl";
  { MetricsLog(path).write({{"step", 1}, {"kl", 0.5}}); }
  { MetricsLog(path, true).write({{"step", 2}}); }
  EXPECT_EQ(read_text(path), "{\"step\":1,\"kl\":0.5}\n{\"step\":2}\n");
  { MetricsLog log(path); }
  EXPECT_EQ(read_text(path), "");
}

TEST_F(Events, ErrorsNameThePath) {
  try {
    MetricsLog log(folder_ / "missing" / "metrics.jsonl");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("missing/metrics.jsonl: No such file"), std::string::npos)
        << e.what();
  }
  MetricsLog full("/dev/full", true);
  EXPECT_THROW(full.write({{"step", 1}}), Error);
}

}  // namespace
}  // namespace qad::report
