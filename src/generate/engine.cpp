// The schedule: who was admitted first goes first, new prompts take what is left of a pass. When
// pages run out, the text that was admitted last gives up its own and waits again.
#include "generate/engine.h"

#include <ATen/ops/index_select.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "ops/threads.h"

namespace qad::generate {
namespace {

EngineOptions resolved(const models::Model& model, EngineOptions o) {
  check(o.most_sequences >= 0 && o.most_tokens >= 0 && o.page_tokens > 0, "engine",
        "expected most_sequences and most_tokens from 0 and page_tokens above 0, found {}, {} "
        "and {}",
        o.most_sequences, o.most_tokens, o.page_tokens);
  const bool gpu = !model.placement.device.is_cpu();
  if (o.most_sequences == 0) o.most_sequences = gpu ? 256 : 64;
  if (o.most_tokens == 0) o.most_tokens = gpu ? 8192 : 512;
  return o;
}

// How many texts can be written at once.
std::int64_t slots_for(const models::Model& model, const EngineOptions& o) {
  const double each = models::bytes_of_slot(model);
  if (each == 0) return o.most_sequences;
  const double fit = std::min(o.cache_bytes / 2 / each, 1e6);
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(fit), 1, o.most_sequences);
}

std::int64_t pages_for(const models::Model& model, const EngineOptions& o, std::size_t slots) {
  const double states = static_cast<double>(slots) * models::bytes_of_slot(model);
  const double each = std::max(1.0, models::bytes_of_page(model, o.page_tokens));
  check(o.cache_bytes >= states + each, "engine",
        "cache: expected at least a page of {} bytes{}, found {}", each,
        states > 0 ? fmt::format(" beside the {} of a text's states", states) : "", o.cache_bytes);
  // Page numbers are int32; a hybrid's few layers of attention need no more than this either.
  return static_cast<std::int64_t>(std::min((o.cache_bytes - states) / each, 1e6));
}

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

template <class Id>
bool contains(const std::vector<Id>& ids, text::TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Engine::Engine(const models::Model& model, const EngineOptions& options)
    : model_(model),
      options_(resolved(model, options)),
      free_slots_(static_cast<std::size_t>(slots_for(model, options_))),
      has_states_(models::bytes_of_slot(model) > 0),
      pages_(pages_for(model, options_, free_slots_.size()), options_.page_tokens),
      cache_(models::make_paged_cache(model, pages_.count() + 1, options_.page_tokens,
                                      static_cast<std::int64_t>(free_slots_.size()))) {
  if (!model.placement.device.is_cpu() && options_.cuda_graphs)
    recorded_.emplace(model_, cache_, static_cast<Pages::Page>(pages_.count()));
  std::iota(free_slots_.begin(), free_slots_.end(), 0);
}

void Engine::check_request(const std::vector<text::TokenId>& prompt,
                           const SamplingOptions& sampling) const {
  check(!prompt.empty(), "generate", "expected a prompt of at least one token");
  validate(sampling, model_.config.vocabulary);
  check(sampling.stop.empty(), "generate", "stop: the engine knows ids alone; see StreamedText");
  models::check_tokens(model_, models::tokens_of({prompt}));
  const std::int64_t tokens = static_cast<std::int64_t>(prompt.size()) + sampling.max_tokens;
  check(tokens <= room(), "generate",
        "a prompt of {} tokens and {} new ones: expected no more than {}, which the cache holds",
        prompt.size(), sampling.max_tokens, room());
}

std::int64_t Engine::add(Request request) {
  check_request(request.prompt, request.sampling);
  auto s = std::make_unique<Sequence>();
  s->number = next_++;
  s->tokens = request.prompt;
  s->request = std::move(request);
  counts_.prompt_tokens += static_cast<std::int64_t>(s->tokens.size());
  waiting_.push_back(std::move(s));
  return next_ - 1;
}

void Engine::cancel(std::int64_t number) {
  const auto mark = [&](auto& sequences) {
    for (auto& s : sequences)
      if (s->number == number) s->cancelled = true;
  };
  mark(running_);
  mark(waiting_);
}

bool Engine::has(std::int64_t number) const {
  const auto in = [&](const auto& sequences) {
    return std::any_of(sequences.begin(), sequences.end(),
                       [&](const std::unique_ptr<Sequence>& s) { return s->number == number; });
  };
  return in(running_) || in(waiting_);
}

void Engine::release(Sequence& s) {
  for (auto p = s.pages.rbegin(); p != s.pages.rend(); ++p) pages_.release(*p);
  s.pages.clear();
  s.contents.clear();
  s.cached = 0;
  if (s.slot >= 0) free_slots_.push_back(s.slot);
  s.slot = -1;
}

void Engine::end(std::unique_ptr<Sequence> s, Finish finish) {
  release(*s);
  if (!s->request.done) return;
  const auto begin = s->tokens.begin() + static_cast<std::ptrdiff_t>(s->request.prompt.size());
  s->request.done(finish, {begin, s->tokens.end()});
}

bool Engine::is_running(const Sequence* s) const {
  return std::any_of(running_.begin(), running_.end(),
                     [&](const std::unique_ptr<Sequence>& r) { return r.get() == s; });
}

void Engine::preempt_last() {
  std::unique_ptr<Sequence> s = std::move(running_.back());
  running_.pop_back();
  release(*s);
  ++counts_.preemptions;
  waiting_.push_front(std::move(s));
}

// Pages for `tokens` more, if need be those of sequences behind running_[index].
bool Engine::make_room(Sequence& s, std::int64_t tokens, std::size_t index) {
  const auto wanted = static_cast<std::size_t>(divide_up(s.cached + tokens, options_.page_tokens));
  while (s.pages.size() < wanted) {
    if (const auto page = pages_.take()) {
      s.pages.push_back(*page);
    } else if (running_.size() > index + 1) {
      preempt_last();
    } else {
      return false;
    }
  }
  return true;
}

// At least the last token is read, since the next one comes of it.
void Engine::find_prefix(Sequence& s) {
  if (!options_.reuse_prefixes || has_states_ || s.request.prompt_log_probs) return;
  const std::int64_t size = options_.page_tokens;
  while (s.cached + size < static_cast<std::int64_t>(s.tokens.size())) {
    const auto found = pages_.find(s.contents.empty() ? 0 : s.contents.back(),
                                   std::span(s.tokens).subspan(static_cast<std::size_t>(s.cached),
                                                               static_cast<std::size_t>(size)));
    if (!found) break;
    s.pages.push_back(found->page);
    s.contents.push_back(found->content);
    s.cached += size;
  }
}

std::vector<Engine::Share> Engine::plan() {
  std::int64_t budget = options_.most_tokens;
  std::vector<Share> shares;
  const auto take = [&](std::size_t index) {
    Sequence& s = *running_[index];
    // A prompt leaves the texts behind it their token.
    const std::int64_t behind =
        std::count_if(running_.begin() + static_cast<std::ptrdiff_t>(index) + 1, running_.end(),
                      [](const std::unique_ptr<Sequence>& other) { return other->left() == 1; });
    const std::int64_t tokens = std::min(s.left(), std::max<std::int64_t>(budget - behind, 1));
    if (budget == 0 || !make_room(s, tokens, index)) return false;
    shares.push_back({&s, tokens});
    budget -= tokens;
    return true;
  };
  // In the order of admission: who gives up pages comes later, and has no share yet.
  for (std::size_t i = 0; i < running_.size(); ++i) take(i);
  while (budget > 0 && !waiting_.empty() && !free_slots_.empty()) {
    waiting_.front()->slot = free_slots_.back();
    free_slots_.pop_back();
    find_prefix(*waiting_.front());
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    Sequence& s = *running_.back();
    const std::int64_t reused = s.made() == 0 ? s.cached : 0;
    if (take(running_.size() - 1)) {
      counts_.reused_tokens += reused;
      if (!s.started && s.request.started) s.request.started(reused);
      s.started = true;
      continue;
    }
    release(*running_.back());  // no room before another ends
    waiting_.push_front(std::move(running_.back()));
    running_.pop_back();
    break;
  }
  return shares;
}

void Engine::note_full_pages(Sequence& s) {
  const std::int64_t size = options_.page_tokens;
  while ((static_cast<std::int64_t>(s.contents.size()) + 1) * size <= s.cached) {
    const std::size_t i = s.contents.size();
    s.contents.push_back(
        pages_.filled(s.pages[i], i == 0 ? 0 : s.contents.back(),
                      std::span(s.tokens).subspan(i * static_cast<std::size_t>(size),
                                                  static_cast<std::size_t>(size))));
  }
}

std::optional<Finish> Engine::append(Sequence& s, text::TokenId id, std::span<const float> logits) {
  const SamplingOptions& o = s.request.sampling;
  if (contains(model_.config.eos, id) || contains(o.stop_tokens, id)) {
    if (s.request.ended_by) s.request.ended_by(id);
    return Finish::stop;
  }
  s.tokens.push_back(id);
  ++counts_.new_tokens;
  if (s.request.log_probs) s.request.log_probs(log_probs(logits, id, s.request.likeliest));
  if (s.request.each && !s.request.each(id)) return Finish::stop;
  if (s.made() >= o.max_tokens) return Finish::length;
  return std::nullopt;
}

// A few rows of logits at a time: V may be 150,000.
void Engine::tell_prompt(Sequence& s, const at::Tensor& hidden) {
  constexpr std::int64_t kRows = 32;
  const auto prompt = static_cast<std::int64_t>(s.request.prompt.size());
  // Row r belongs to token cached + r and foretells the one behind it. What was told before the
  // sequence gave up its pages is not told again.
  const std::int64_t end = std::min(hidden.size(0), prompt - 1 - s.cached);
  std::int64_t next = static_cast<std::int64_t>(s.told) - 1 - s.cached;
  while (next < end) {
    const std::int64_t rows = std::min(kRows, end - next);
    const at::Tensor logits =
        models::logits(model_, hidden.narrow(0, next, rows)).to(at::kCPU, at::kFloat).contiguous();
    const auto width = static_cast<std::size_t>(logits.size(1));
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::span<const float> row(
          logits.const_data_ptr<float>() + static_cast<std::size_t>(r) * width, width);
      s.request.prompt_log_probs(log_probs(row, s.request.prompt[s.told++], s.request.likeliest));
    }
    next += rows;
  }
}

bool Engine::only_writes(const std::vector<Share>& shares) const {
  return std::all_of(shares.begin(), shares.end(), [](const Share& share) {
    return share.sequence->left() == 1 && !share.sequence->request.prompt_log_probs;
  });
}

NextLogits Engine::write_on(const std::vector<Share>& shares) {
  std::vector<RecordedPasses::Text> texts;
  for (const auto& [s, tokens] : shares)
    texts.push_back({s->tokens.back(), s->cached, s->pages, s->slot});
  return recorded_->run(texts);
}

NextLogits Engine::read(const std::vector<Share>& shares) {
  std::vector<std::int64_t> ids, positions, last;
  std::vector<std::int32_t> ends, lengths, slots;
  std::size_t most_pages = 0;
  models::PagedTokens t;
  for (const auto& [s, tokens] : shares) {
    for (std::int64_t i = s->cached; i < s->cached + tokens; ++i) {
      ids.push_back(s->tokens[static_cast<std::size_t>(i)]);
      positions.push_back(i);
    }
    const std::int64_t length = s->cached + tokens;
    ends.push_back(static_cast<std::int32_t>(ids.size()));
    lengths.push_back(static_cast<std::int32_t>(length));
    slots.push_back(s->slot);
    if (s->left() == tokens) last.push_back(static_cast<std::int64_t>(ids.size()) - 1);
    t.longest = std::max(t.longest, length);
    most_pages = std::max(most_pages, s->pages.size());
  }
  t.tokens = models::make_tokens(ids, ends);
  t.tokens.positions = at::tensor(positions);
  t.lengths = at::tensor(lengths, at::kInt);
  t.slots = at::tensor(slots, at::kInt);
  t.pages = at::zeros(
      {static_cast<std::int64_t>(shares.size()), static_cast<std::int64_t>(most_pages)}, at::kInt);
  for (std::size_t i = 0; i < shares.size(); ++i)
    std::copy(shares[i].sequence->pages.begin(), shares[i].sequence->pages.end(),
              t.pages.data_ptr<std::int32_t>() + i * most_pages);
  const at::Tensor hidden = models::forward_paged(model_, t, cache_);
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const auto& [s, tokens] = shares[i];
    if (s->request.prompt_log_probs) tell_prompt(*s, hidden.narrow(0, ends[i] - tokens, tokens));
  }
  if (last.empty()) return {};
  const bool all = static_cast<std::int64_t>(last.size()) == hidden.size(0);
  return next_logits(models::logits(
      model_, all ? hidden : hidden.index_select(0, at::tensor(last).to(hidden.device()))));
}

void Engine::run(const std::vector<Share>& shares) {
  const at::NoGradGuard no_grad;
  const NextLogits next = recorded_ && only_writes(shares) ? write_on(shares) : read(shares);
  ++counts_.passes;
  std::vector<Sequence*> ready;  // whose next token comes of this pass
  std::vector<bool> whole;       // whether that takes all of its logits
  for (const auto& [s, tokens] : shares) {
    s->cached += tokens;
    note_full_pages(*s);
    if (s->left() > 0) continue;
    const SamplingOptions& o = s->request.sampling;
    ready.push_back(s);
    whole.push_back(o.temperature > 0 || o.repetition_penalty != 1 || s->request.log_probs);
  }
  if (ready.empty()) return;

  const LogitRows rows(next, whole);
  std::vector<text::TokenId> ids(ready.size());
  ops::for_pieces(static_cast<std::int64_t>(ready.size()), [&](std::int64_t piece) {
    const auto i = static_cast<std::size_t>(piece);
    const Sequence& s = *ready[i];
    if (s.complete()) return;  // the prompt's log-probabilities were all that was wanted
    ids[i] = rows.has(i) ? sample(rows.row(i), s.request.sampling, s.tokens, s.made())
                         : rows.likeliest(i);
  });
  std::vector<std::pair<Sequence*, Finish>> ended;
  for (std::size_t i = 0; i < ready.size(); ++i) {
    Sequence& s = *ready[i];
    if (s.complete()) {
      ended.emplace_back(&s, Finish::length);
      continue;
    }
    if (const auto finish = append(s, ids[i], rows.has(i) ? rows.row(i) : std::span<const float>()))
      ended.emplace_back(&s, *finish);
  }
  for (const auto& [s, finish] : ended) end(take_out(s), finish);
}

std::unique_ptr<Engine::Sequence> Engine::take_out(const Sequence* s) {
  const auto at = std::find_if(running_.begin(), running_.end(),
                               [&](const std::unique_ptr<Sequence>& r) { return r.get() == s; });
  std::unique_ptr<Sequence> out = std::move(*at);
  running_.erase(at);
  return out;
}

bool Engine::step() {
  // Out first, then told: who is told may add another.
  std::vector<std::unique_ptr<Sequence>> over;
  const auto drop = [&](auto& sequences) {
    std::erase_if(sequences, [&](std::unique_ptr<Sequence>& s) {
      if (!s->cancelled && !s->complete()) return false;
      over.push_back(std::move(s));
      return true;
    });
  };
  drop(running_);
  drop(waiting_);
  for (auto& s : over) {
    const Finish finish = s->cancelled ? Finish::cancelled : Finish::length;
    end(std::move(s), finish);
  }
  const std::vector<Share> shares = plan();
  if (shares.empty()) return !over.empty();
  try {
    run(shares);
  } catch (...) {
    for (const Share& share : shares)
      if (is_running(share.sequence)) release(*take_out(share.sequence));
    throw;
  }
  return true;
}

}  // namespace qad::generate
