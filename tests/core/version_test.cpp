#include "core/version.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "core/file.h"

namespace qad {
namespace {

TEST(Version, IsTheBuilds) {
  EXPECT_THAT(read_text(fs::path(QAD_SOURCE_DIR) / "CMakeLists.txt"),
              testing::HasSubstr(fmt::format("project(qad VERSION {} ", kVersion)));
}

}  // namespace
}  // namespace qad
