// Packing, batches and the stream: what must hold whatever the documents.
#include "data/batches.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "core/error.h"
#include "core/random.h"

namespace qad::data {
namespace {

using ::testing::ElementsAre;

// Tokens count on through all documents, so that each is known by its id.
std::vector<Document> documents_of(const std::vector<std::size_t>& lengths) {
  std::vector<Document> documents;
  text::TokenId id = 0;
  for (std::size_t n : lengths) {
    Document d;
    for (std::size_t i = 0; i < n; ++i) d.ids.push_back(id++);
    d.counts.assign(n, 1);
    documents.push_back(d);
  }
  return documents;
}

std::vector<std::size_t> random_lengths(std::size_t count, std::uint64_t longest) {
  Random random{7};
  std::vector<std::size_t> lengths;
  for (std::size_t i = 0; i < count; ++i) lengths.push_back(1 + random.below(longest));
  return lengths;
}

TEST(Pack, PutsEveryTokenInOnePiece) {
  for (const bool packed : {true, false})
    for (const std::int64_t seq_len : {1, 7, 64, 1000}) {
      const auto documents = documents_of(random_lengths(50, 100));
      const auto sequences = pack(documents, seq_len, packed);
      std::vector<std::int64_t> next(documents.size(), 0);
      for (std::size_t i = 0; i < sequences.size(); ++i) {
        std::int64_t length = 0;
        for (const Piece& p : sequences[i]) {
          EXPECT_GT(p.length, 0);
          EXPECT_EQ(p.begin, next[p.document]);  // in order, nothing twice, nothing left out
          next[p.document] += p.length;
          length += p.length;
        }
        EXPECT_LE(length, seq_len);
        if (packed && i + 1 < sequences.size()) {
          EXPECT_EQ(length, seq_len);
        }
        if (!packed) {
          EXPECT_EQ(sequences[i].size(), 1);
        }
      }
      for (std::size_t d = 0; d < documents.size(); ++d)
        EXPECT_EQ(next[d], static_cast<std::int64_t>(documents[d].ids.size()));
    }
}

template <class T>
std::vector<T> values(const at::Tensor& t) {
  return {t.const_data_ptr<T>(), t.const_data_ptr<T>() + t.numel()};
}

TEST(MakeBatch, EveryTokenButADocumentsFirstIsATargetOnce) {
  const auto documents = documents_of(random_lengths(30, 40));
  std::vector<const Sequence*> all;
  const auto sequences = pack(documents, 16);
  for (const Sequence& s : sequences) all.push_back(&s);
  const Batch batch = make_batch(documents, all);
  std::multiset<std::int64_t> expected, found;
  for (const Document& d : documents) expected.insert(d.ids.begin() + 1, d.ids.end());
  const auto labels = values<std::int64_t>(batch.labels);
  const auto weights = values<float>(batch.weights);
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (weights[i] != 0) found.insert(labels[i]);
  EXPECT_EQ(found, expected);
  EXPECT_EQ(batch.targets, static_cast<double>(expected.size()));
}

TEST(MakeBatch, ByHand) {
  auto documents = documents_of({3, 4});  // tokens 0 1 2 and 3 4 5 6
  documents[1].counts = {1, 1, 0, 1};
  const auto sequences = pack(documents, 5);
  ASSERT_EQ(sequences.size(), 2);
  const Batch b = make_batch(documents, {&sequences[0], &sequences[1]});
  EXPECT_THAT(values<std::int64_t>(b.tokens.ids), ElementsAre(0, 1, 2, 3, 4, 5, 6));
  EXPECT_THAT(values<std::int64_t>(b.tokens.positions), ElementsAre(0, 1, 2, 0, 1, 0, 1));
  EXPECT_THAT(values<std::int32_t>(b.tokens.cu_seqlens), ElementsAre(0, 3, 5, 7));
  EXPECT_THAT(values<std::int64_t>(b.labels), ElementsAre(1, 2, 0, 4, 5, 6, 0));
  EXPECT_THAT(values<float>(b.weights), ElementsAre(1, 1, 0, 1, 0, 1, 0));
  EXPECT_THAT(b.document, ElementsAre(0, 0, 0, 1, 1, 1, 1));
  EXPECT_EQ(b.targets, 4);
}

Source source_of(std::size_t sequences, double weight) {
  Source s;
  s.documents = documents_of(std::vector<std::size_t>(sequences, 4));
  s.sequences = pack(s.documents, 4);
  s.weight = weight;
  return s;
}

TEST(Stream, EachEpochIsAnotherPermutation) {
  constexpr std::int64_t kSize = 37;
  const Stream stream({source_of(kSize, 1)}, 5);
  std::set<std::vector<std::size_t>> orders;
  for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
    std::vector<std::size_t> order;
    for (std::int64_t i = 0; i < kSize; ++i)
      order.push_back(stream.draw(epoch * kSize + i).sequence);
    const std::set<std::size_t> all(order.begin(), order.end());
    EXPECT_EQ(all.size(), kSize);
    EXPECT_EQ(*all.rbegin(), kSize - 1);
    orders.insert(order);
  }
  EXPECT_EQ(orders.size(), 4);
}

TEST(Stream, ShufflesEvenly) {
  // Sequence 0 takes each of the 5 places in about a fifth of 4000 epochs: 800, standard
  // deviation 25.
  const Stream stream({source_of(5, 1)}, 11);
  std::vector<int> places(5);
  for (std::int64_t k = 0; k < 20000; ++k)
    if (stream.draw(k).sequence == 0) ++places[static_cast<std::size_t>(k % 5)];
  for (int n : places) EXPECT_NEAR(n, 800, 125);
}

TEST(Stream, WeightsAreSharesAndEachSourceWalksItsEpochs) {
  const Stream stream({source_of(7, 1), source_of(100, 2.5), source_of(3, 0.5)}, 9);
  const double shares[] = {0.25, 0.625, 0.125};
  std::vector<std::vector<std::size_t>> drawn(3);
  for (std::int64_t k = 0; k < 5000; ++k) {
    const auto d = stream.draw(k);
    drawn[d.source].push_back(d.sequence);
    for (std::size_t s = 0; s < 3; ++s)
      ASSERT_NEAR(double(drawn[s].size()), shares[s] * double(k + 1), 6) << "draw " << k;
  }
  for (std::size_t s = 0; s < 3; ++s) {
    const std::size_t size = stream.sources()[s].sequences.size();
    for (std::size_t i = 0; i + size <= drawn[s].size(); i += size)
      EXPECT_EQ(std::set<std::size_t>(&drawn[s][i], &drawn[s][i] + size).size(), size);
  }
}

TEST(Stream, DependsOnTheSeedAlone) {
  const auto order = [](std::uint64_t seed) {
    const Stream stream({source_of(50, 1), source_of(50, 1)}, seed);
    std::vector<std::size_t> o;
    for (std::int64_t k = 0; k < 100; ++k) {
      o.push_back(stream.draw(k).source);
      o.push_back(stream.draw(k).sequence);
    }
    return o;
  };
  EXPECT_EQ(order(1), order(1));
  EXPECT_NE(order(1), order(2));
}

TEST(Stream, BatchesCountDocumentsThroughAllSources) {
  const Stream stream({source_of(3, 1), source_of(2, 1)}, 4);
  const Batch batch = stream.batch(0, 40);
  const std::set<std::int64_t> documents(batch.document.begin(), batch.document.end());
  EXPECT_THAT(documents, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_EQ(batch.tokens.ids.numel(), 160);
  EXPECT_EQ(token_count(stream.sources()[0]) + token_count(stream.sources()[1]), 20);
}

TEST(Stream, FingerprintSeesDataWeightsAndSeed) {
  const auto base = Stream({source_of(3, 1), source_of(2, 1)}, 4).fingerprint();
  EXPECT_EQ(base, Stream({source_of(3, 1), source_of(2, 1)}, 4).fingerprint());
  EXPECT_NE(base, Stream({source_of(3, 1), source_of(2, 1)}, 5).fingerprint());
  EXPECT_NE(base, Stream({source_of(3, 1), source_of(2, 2)}, 4).fingerprint());
  Source changed = source_of(2, 1);
  changed.documents[1].counts[2] = 0;
  EXPECT_NE(base, Stream({source_of(3, 1), changed}, 4).fingerprint());
}

TEST(Stream, RefusesWhatCannotBeDrawn) {
  EXPECT_THROW(Stream({}, 0), Error);
  EXPECT_THROW(Stream({Source{}}, 0), Error);
  EXPECT_THROW(Stream({source_of(1, 0)}, 0), Error);
  EXPECT_THROW(Stream({source_of(1, NAN)}, 0), Error);
}

}  // namespace
}  // namespace qad::data
