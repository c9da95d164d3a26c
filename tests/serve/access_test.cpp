// The rules of who may ask for what.
#include "serve/access.h"

#include <gmock/gmock.h>

#include "core/error.h"

namespace qad::serve {
namespace {

TEST(Access, AKeyIsRightAsAWholeOnly) {
  EXPECT_TRUE(may_pass("", ""));
  EXPECT_TRUE(may_pass("Bearer anything", ""));
  EXPECT_TRUE(may_pass("Bearer secret", "secret"));
  EXPECT_TRUE(may_pass("bearer secret", "secret"));  // RFC 9110: the scheme has no case
  for (const char* wrong :
       {"", "Bearer", "Bearer ", "secret", "Basic secret", "Bearer Secret", "Bearer secre",
        "Bearer secrets", "Bearer secretsecret", "Bearer  secret"})
    EXPECT_FALSE(may_pass(wrong, "secret")) << wrong;
}

TEST(Access, LoopbackIsThisMachineAlone) {
  for (const char* host : {"127.0.0.1", "127.8.8.8", "::1", "localhost"})
    EXPECT_TRUE(is_loopback(host)) << host;
  for (const char* host : {"0.0.0.0", "::", "192.168.1.1", "fe80::1", "::ffff:10.0.0.1"})
    EXPECT_FALSE(is_loopback(host)) << host;
  EXPECT_THROW(is_loopback("no such host"), Error);
}

TEST(Access, PathsHaveOneMethod) {
  EXPECT_STREQ(method_of("/v1/completions"), "POST");
  EXPECT_STREQ(method_of("/v1/models"), "GET");
  EXPECT_STREQ(method_of("/v1/models/a/b"), "GET");
  for (const char* path : {"/", "/v1", "/v1/models/", "/v1/completions/", "/v2/models"})
    EXPECT_EQ(method_of(path), nullptr) << path;
}

}  // namespace
}  // namespace qad::serve
