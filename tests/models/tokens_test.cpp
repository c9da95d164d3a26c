#include "models/tokens.h"

#include <gmock/gmock.h>

#include "core/error.h"

namespace qad::models {
namespace {

template <class T>
std::vector<T> values(const at::Tensor& t) {
  return {t.const_data_ptr<T>(), t.const_data_ptr<T>() + t.numel()};
}

TEST(Tokens, KnowWhatTheHostMustKnow) {
  const Tokens t = tokens_of({{7, 3}, {5, 9, 4, 3}, {8}});
  EXPECT_THAT(values<std::int64_t>(t.ids), testing::ElementsAre(7, 3, 5, 9, 4, 3, 8));
  EXPECT_THAT(values<std::int64_t>(t.positions), testing::ElementsAre(0, 1, 0, 1, 2, 3, 0));
  EXPECT_THAT(values<std::int32_t>(t.cu_seqlens), testing::ElementsAre(0, 2, 6, 7));
  EXPECT_EQ(t.longest, 4);
  EXPECT_EQ(t.least_id, 3);
  EXPECT_EQ(t.most_id, 9);
}

TEST(Tokens, DocumentsMustCoverTheIdsInOrder) {
  EXPECT_THROW(make_tokens({1, 2, 3}, {2}), Error);
  EXPECT_THROW(make_tokens({1, 2, 3}, {2, 1, 3}), Error);
  EXPECT_EQ(make_tokens({1, 2, 3}, {0, 3}).longest, 3);  // an empty document is one
}

}  // namespace
}  // namespace qad::models
