#include "checkpoint/write.h"

#include <gmock/gmock.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <map>
#include <numeric>

#include "checkpoint/safetensors.h"
#include "checkpoint/verify.h"
#include "files.h"

namespace qad::checkpoint {
namespace {

using testing::HasSubstr;

std::vector<float> values(const Tensor& t) {
  std::vector<float> v(static_cast<std::size_t>(t.elements()));
  read_f32(t, v.data());
  return v;
}

OutTensor counting(const std::string& name, std::vector<std::int64_t> shape, float first) {
  const auto n = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  return {name, DType::f32, shape, [=](std::byte* out) {
            for (std::int64_t i = 0; i < n; ++i) {
              const float x = first + static_cast<float>(i);
              std::memcpy(out + i * 4, &x, 4);
            }
          }};
}

OutTensor bytes(const std::string& name, std::int64_t n) {
  return {name, DType::u8, {n}, [n](std::byte* out) {
            std::memset(out, 7, static_cast<std::size_t>(n));
          }};
}

OutFolder small_folder() {
  OutFolder out;
  out.config = {{"model_type", "llama"}, {"hidden_size", 4}};
  out.tensors = {bytes("a.odd", 3), counting("a.weight", {2, 3}, 1), counting("b.weight", {4}, 10),
                 counting("c.empty", {0, 5}, 0), counting("scalar", {}, 42)};
  return out;
}

TEST(WriteFolder, IsReadBack) {
  const ScratchFolder scratch;
  OutFolder out = small_folder();
  out.generation_config = {{"eos_token_id", 2}};
  out.files = {{"tokenizer.json", "{}"}};
  write_folder(scratch / "m", out);

  const Checkpoint c = open(scratch / "m");
  EXPECT_EQ(c.config, out.config);
  EXPECT_EQ(c.generation_config, out.generation_config);
  EXPECT_TRUE(c.quantization.is_null());
  EXPECT_EQ(c.tensors.size(), 5u);
  EXPECT_EQ(values(c.at("a.weight")), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(c.at("a.weight").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(values(c.at("scalar")), std::vector<float>{42});
  EXPECT_EQ(c.at("c.empty").elements(), 0);
  EXPECT_EQ(c.at("a.weight").stored_bytes, 24);
  EXPECT_EQ(read_text(scratch / "m/tokenizer.json"), "{}");
  EXPECT_EQ(read_json(scratch / "m/.qad")["producer"], "qad");
  EXPECT_EQ(read_text(scratch / "m/config.json"),
            "{\n  \"model_type\": \"llama\",\n  \"hidden_size\": 4\n}\n");
}

// Where each tensor starts in its file.
std::uintptr_t offset(const Checkpoint& c, const std::string& name) {
  for (const MappedFile& file : c.files) {
    const auto all = file.bytes();
    const auto* at = c.at(name).raw.data();
    if (at >= all.data() && at < all.data() + all.size())
      return static_cast<std::uintptr_t>(at - all.data());
  }
  return 1;
}

TEST(WriteFolder, AlignsHeaderAndTensors) {
  const ScratchFolder scratch;
  write_folder(scratch / "m", small_folder());
  const SafetensorsFile file = read_safetensors(scratch / "m/model.safetensors");
  EXPECT_EQ(file.metadata.at("format"), "pt");
  EXPECT_EQ(static_cast<unsigned char>(file.file.bytes()[0]) % 8, 0);
  const Checkpoint c = open(scratch / "m");
  for (const char* name : {"a.weight", "b.weight", "scalar"})
    EXPECT_EQ(offset(c, name) % 4, 0u) << name;
}

TEST(WriteFolder, ShardsBySizeAndKeepsModulesTogether) {
  const ScratchFolder scratch;
  OutFolder out;
  out.config = Json::object();
  out.tensors = {bytes("a.weight", 60), bytes("a.bias", 60),      bytes("b.weight", 30),
                 bytes("b.bias", 30),   bytes("big.weight", 500), bytes("c.weight", 10)};
  out.max_shard_bytes = 150;
  write_folder(scratch / "m", out);
  const Json index = read_json(scratch / "m/model.safetensors.index.json");
  EXPECT_EQ(index["metadata"]["total_size"], 690);
  const Json expected = {{"a.bias", "model-00001-of-00004.safetensors"},
                         {"a.weight", "model-00001-of-00004.safetensors"},
                         {"b.bias", "model-00002-of-00004.safetensors"},
                         {"b.weight", "model-00002-of-00004.safetensors"},
                         {"big.weight", "model-00003-of-00004.safetensors"},
                         {"c.weight", "model-00004-of-00004.safetensors"}};
  EXPECT_EQ(index["weight_map"], expected);
  EXPECT_FALSE(fs::exists(scratch / "m/model.safetensors"));
  const Checkpoint c = open(scratch / "m");
  EXPECT_EQ(c.tensors.size(), 6u);
  EXPECT_TRUE(problems(c).empty());

  // Sharded or not, each tensor has the same bytes.
  out.max_shard_bytes = 1 << 20;
  write_folder(scratch / "whole", out);
  const Checkpoint whole = open(scratch / "whole");
  EXPECT_EQ(whole.files.size(), 1u);
  for (const auto& [name, t] : whole.tensors)
    EXPECT_TRUE(
        std::equal(t.raw.begin(), t.raw.end(), c.at(name).raw.begin(), c.at(name).raw.end()))
        << name;

  // A wrong total is the index's word against the tensors'.
  Json wrong = index;
  wrong["metadata"]["total_size"] = 691;
  write_file(scratch / "m/model.safetensors.index.json", to_text(wrong));
  EXPECT_THAT(problems(open(scratch / "m")), testing::ElementsAre(HasSubstr("total_size is 691")));
}

TEST(WriteFolder, FillsOneTensorAtATimeAndOnce) {
  const ScratchFolder scratch;
  std::map<std::string, int> filled;
  OutFolder out = small_folder();
  for (OutTensor& t : out.tensors)
    t.fill = [&filled, name = t.name, fill = std::move(t.fill)](std::byte* to) {
      ++filled[name];
      fill(to);
    };
  write_folder(scratch / "m", out);
  EXPECT_EQ(filled.size(), out.tensors.size());
  for (const auto& [name, times] : filled) EXPECT_EQ(times, 1) << name;
}

TEST(WriteFolder, RefusesNamesThatCollide) {
  const ScratchFolder scratch;
  const auto error_with = [&](auto change) {
    OutFolder out = small_folder();
    change(out);
    return error_of([&] { write_folder(scratch / "m", out); });
  };
  EXPECT_THAT(error_with([](OutFolder& o) { o.tensors.push_back(bytes("a.odd", 1)); }),
              HasSubstr("a.odd is to be"));
  for (const char* name : {"config.json", ".qad", "../x", "", "..", "model.safetensors"})
    EXPECT_THAT(error_with([&](OutFolder& o) { o.files.emplace_back(name, ""); }),
                HasSubstr("cannot write a further file"))
        << name;
  EXPECT_THAT(error_with([](OutFolder& o) { o.tensors[0].dtype = DType::other; }),
              HasSubstr("cannot write other"));
  EXPECT_THAT(error_with([](OutFolder& o) { o.config = {}; }),
              HasSubstr("expected an object as config.json"));
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

TEST(WriteFolder, AFailureLeavesTheOldFolder) {
  const ScratchFolder scratch;
  write_folder(scratch / "m", small_folder());
  OutFolder out = small_folder();
  out.config["hidden_size"] = 8;
  out.tensors.push_back({"z", DType::u8, {1}, [](std::byte*) { fail("test", "no value"); }});
  EXPECT_THAT(error_of([&] { write_folder(scratch / "m", out); }), HasSubstr("no value"));
  EXPECT_EQ(open(scratch / "m").config["hidden_size"], 4);
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), fs::directory_iterator()), 1);
}

TEST(WriteFolder, NeverReplacesAModelThatItDidNotWrite) {
  const ScratchFolder scratch;
  fs::create_directory(scratch / "m");
  write_file(scratch / "m/config.json", "{}");
  EXPECT_THAT(error_of([&] { write_folder(scratch / "m", small_folder()); }),
              HasSubstr("no .qad in it); choose another folder or remove it"));
  EXPECT_EQ(read_text(scratch / "m/config.json"), "{}");
  EXPECT_FALSE(fs::exists(scratch / "m/model.safetensors"));
}

TEST(WriteFolder, TargetsThatTouchTheSourceAreRefused) {
  const ScratchFolder scratch;
  write_folder(scratch / "m", small_folder());  // ours: only that it is read speaks against it
  fs::create_directory_symlink(scratch / "m", scratch / "link");
  fs::create_directory(scratch / "bins");
  write_file(scratch / "bins/a.gguf", "x");
  const auto refusal = [&](const char* out, const char* source) {
    return error_of([&] { check_writable_target(scratch / out, scratch / source); });
  };
  for (const char* out : {"m", "m/", "link", "bins/../m", "m/out", "link/deep/out"})
    EXPECT_THAT(refusal(out, "m"), HasSubstr("which is read; choose")) << out;
  EXPECT_THAT(refusal("m", "link"), HasSubstr("which is read; choose"));
  EXPECT_THAT(refusal("bins/a.gguf", "bins/a.gguf"), HasSubstr("which is read; choose"));
  EXPECT_THAT(refusal("bins", "bins/a.gguf"), HasSubstr("would be replaced"));
  EXPECT_THAT(refusal("bins", "m"), HasSubstr("no .qad in it"));
  EXPECT_THAT(refusal("bins/a.gguf/out", "m"), HasSubstr("is not a folder"));
  EXPECT_EQ(refusal("bins/out", "bins/a.gguf"), "");
  EXPECT_EQ(refusal("m", "bins/a.gguf"), "");
  EXPECT_EQ(refusal("m2", "m"), "");
}

TEST(WriteFolder, AFullDiskLeavesTheOldFolder) {
  const ScratchFolder scratch;
  write_folder(scratch / "m", small_folder());
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{
        1000, 1000};  // a file that may not grow is what a full disk looks like to write(2)
    ::setrlimit(RLIMIT_FSIZE, &limit);
    OutFolder out = small_folder();
    out.tensors.push_back(bytes("z", 5000));
    const std::string error = error_of([&] { write_folder(scratch / "m", out); });
    ::_exit(error.find("File too large; nothing was left behind") == error.npos);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(open(scratch / "m").tensors.size(), 5u);
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), fs::directory_iterator()), 1);
}

TEST(WriteFolder, AModelLargerThanTheDiskIsRefusedAtOnce) {
  const ScratchFolder scratch;
  OutFolder out = small_folder();
  out.tensors.push_back({"huge", DType::u8, {std::int64_t{1} << 60}, [](std::byte*) { FAIL(); }});
  EXPECT_THAT(error_of([&] { write_folder(scratch / "m", out); }),
              HasSubstr("bytes are needed, the disk has"));
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

}  // namespace
}  // namespace qad::checkpoint
