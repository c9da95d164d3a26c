#include "checkpoint/diff.h"

#include <gmock/gmock.h>

#include <cmath>

#include "checkpoint/write.h"
#include "files.h"

namespace qad::checkpoint {
namespace {

// Folders of F32 tensors.
struct Folder {
  ScratchFolder scratch;
  OutFolder out;

  Folder& with(const std::string& name, std::vector<float> values) {
    const auto n = static_cast<std::int64_t>(values.size());
    out.tensors.push_back({name, DType::f32, {n}, [values](std::byte* to) {
                             std::memcpy(to, values.data(), values.size() * sizeof(float));
                           }});
    return *this;
  }
  Checkpoint opened() {
    out.config = {{"model_type", "llama"}};
    write_folder(scratch / "m", out);
    return open(scratch / "m");
  }
};

TEST(Differences, AreMeasured) {
  Folder a, b;
  a.with("x.weight", {3, 4}).with("y.weight", {1}).with("z.weight", {1, 2}).with("w.weight", {2});
  b.with("x.weight", {3, 3.5f}).with("y.weight", {1}).with("z.weight", {1}).with("v.weight", {2});
  const auto found = differences(a.opened(), b.opened());
  ASSERT_EQ(found.size(), 5u);
  EXPECT_EQ(found[0].name, "v.weight");
  EXPECT_EQ(found[0].kind, "only in B");
  EXPECT_EQ(found[1].kind, "only in A");
  EXPECT_EQ(found[2].kind, "values");
  EXPECT_EQ(found[2].max_error, 0.5);
  EXPECT_DOUBLE_EQ(found[2].snr_db(), 20);  // 25 to 1/4 is 100
  EXPECT_EQ(found[3].kind, "equal");
  EXPECT_EQ(found[3].snr_db(), INFINITY);
  EXPECT_EQ(found[4].kind, "[2] and [1]");
}

TEST(Differences, SeeWhatIsNotANumber) {
  Folder a, b;
  a.with("x.weight", {NAN, 1});
  b.with("x.weight", {1, 1});
  const auto found = differences(a.opened(), b.opened());
  EXPECT_EQ(found.at(0).kind, "values");
}

}  // namespace
}  // namespace qad::checkpoint
