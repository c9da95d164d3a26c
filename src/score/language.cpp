// An n-gram changes a language's score by log(a + p), p its frequency there and a the smoothing,
// which is 0 but for the few languages that have it once log(a) is taken off all of them.
#include "score/language.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "score/language_ngrams.h"
#include "text/tokenizer_utf8.h"

namespace qad::score {
namespace {

// A line with a language's code, then its n-grams: their length, -8 log2 of their share among
// n-grams of that length, and they themselves, one after the other, "_" for a space. At the end,
// after "=", ideographs that all count as the first. scripts/language_profiles.py makes it.
constexpr char kProfiles[] =
#include "score/language_profiles.inc"
    ;
constexpr double kSmoothing = 0.5 / 10'000;  // langdetect's ALPHA_DEFAULT / BASE_FREQ

struct Gain {
  std::uint32_t language;
  float log_ratio;
};

struct Profiles {
  std::vector<std::string_view> codes;
  std::unordered_map<NGram, std::vector<Gain>> gains;
  Ideographs ideographs;
};

Profiles read_profiles() {
  Profiles profiles;
  profiles.gains.reserve(65'536);
  for (std::string_view rest(kProfiles, sizeof kProfiles - 1); !rest.empty();) {
    const std::size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end + 1);
    if (line.front() == '=') {
      const char32_t first = text::decode_utf8(line, 2);
      for (std::size_t i = 2; i < line.size(); i += 3)  // ideographs have three bytes
        profiles.ideographs.emplace(text::decode_utf8(line, i), first);
      continue;
    }
    const std::size_t space = line.find(' ', 2);
    if (space == line.npos) {
      profiles.codes.push_back(line);
      continue;
    }
    int level = 0;
    std::from_chars(line.data() + 2, line.data() + space, level);
    const Gain gain{static_cast<std::uint32_t>(profiles.codes.size() - 1),
                    static_cast<float>(std::log1p(std::exp2(-level / 8.0) / kSmoothing))};
    const int letters = line[0] - '0';
    int have = 0;
    NGram gram = 0;
    for (std::size_t i = space + 1; i < line.size();
         i += text::utf8_size(static_cast<unsigned char>(line[i]))) {
      gram = gram << 21 | (line[i] == '_' ? U' ' : text::decode_utf8(line, i));
      if (++have < letters) continue;
      profiles.gains[gram].push_back(gain);
      have = 0;
      gram = 0;
    }
  }
  return profiles;
}

const Profiles& profiles() {
  static const Profiles read = read_profiles();
  return read;
}

// Adds to `shares` how sure one draw of n-grams is of each language. It stops, as langdetect's
// draws, at the first of every five n-grams that leaves less than 1e-5 to all others.
void draw(const std::vector<const std::vector<Gain>*>& grams, double at,
          std::vector<double>& shares) {
  constexpr double kGoldenRatio = 0.6180339887498949;
  std::vector<double> scores(shares.size()), weights(shares.size());
  for (int i = 0; i <= 1000; ++i) {
    at -= std::floor(at);
    for (const Gain& gain :
         *grams[static_cast<std::size_t>(at * static_cast<double>(grams.size()))])
      scores[gain.language] += gain.log_ratio;
    at += kGoldenRatio;
    if (i % 5 != 0) continue;
    const double best = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (std::size_t k = 0; k < scores.size(); ++k) {
      const double behind = scores[k] - best;
      sum += weights[k] = behind < -30 ? 0 : std::exp(behind);  // far below the 1e-5
    }
    if (1 / sum <= 0.99999 && i < 1000) continue;
    for (std::size_t k = 0; k < scores.size(); ++k) shares[k] += weights[k] / sum;
    return;
  }
}

}  // namespace

std::string detect_language(std::string_view text) {
  const Profiles& known = profiles();
  std::vector<const std::vector<Gain>*> grams;
  for (const NGram gram : ngrams(text, known.ideographs))
    if (const auto found = known.gains.find(gram); found != known.gains.end())
      grams.push_back(&found->second);
  if (grams.empty()) return "";
  constexpr int kDraws = 64;
  std::vector<double> shares(known.codes.size());
  for (int i = 0; i < kDraws; ++i) draw(grams, (i + 0.5) / kDraws, shares);
  const auto best = std::max_element(shares.begin(), shares.end());
  return std::string(known.codes[static_cast<std::size_t>(best - shares.begin())]);
}

bool is_detectable(std::string_view code) {
  const auto& codes = profiles().codes;
  return std::find(codes.begin(), codes.end(), code) != codes.end();
}

}  // namespace qad::score
