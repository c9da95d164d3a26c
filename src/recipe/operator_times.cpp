// The observer. PyTorch's callbacks are plain functions, so what they fill is global to this file.
#include "recipe/operator_times.h"

#include <ATen/record_function.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <mutex>
#include <optional>

namespace qad::recipe {
namespace {

using Clock = std::chrono::steady_clock;

// One call: on a GPU two events on its stream, else two readings of the clock.
struct Span : at::ObserverContext {
  std::string name;
  bool through = false;  // what it calls counts, not itself
  std::optional<c10::Event> begin, end;
  Clock::time_point from, to;
};

std::mutex mutex;
std::vector<Span> spans;
at::Device device = at::kCPU;
thread_local int depth = 0;

c10::Event now() {
  const c10::impl::VirtualGuardImpl guard(device.type());
  c10::Event event(device.type(), c10::EventFlag::BACKEND_DEFAULT);
  event.record(guard.getStream(device));
  return event;
}

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& f) {
  auto span = std::make_unique<Span>();
  // The way back of a layer that runs again (models/forward.cpp): its operators are counted.
  span->through = std::string_view(f.name()).ends_with("evaluate_function: qad::layer");
  if (span->through || ++depth > 1) return span;
  span->name = f.name();
  if (device.is_cpu())
    span->from = Clock::now();
  else
    span->begin = now();
  return span;
}

void end(const at::RecordFunction&, at::ObserverContext* context) {
  auto* const span = static_cast<Span*>(context);
  if (!span->through) --depth;
  if (span->name.empty()) return;
  if (device.is_cpu())
    span->to = Clock::now();
  else
    span->end = now();
  const std::lock_guard lock(mutex);
  spans.push_back(std::move(*span));
}

}  // namespace

OperatorTimes::OperatorTimes(at::Device where) {
  device = where;
  spans.clear();
  handle_ = at::addGlobalCallback(
      at::RecordFunctionCallback(begin, end).scopes({at::RecordScope::FUNCTION}));
}

OperatorTimes::~OperatorTimes() {
  if (running_) at::removeCallback(handle_);
}

std::vector<OperatorTime> OperatorTimes::stop() {
  at::removeCallback(handle_);
  running_ = false;
  if (!device.is_cpu()) {
    const c10::impl::VirtualGuardImpl guard(device.type());
    guard.synchronizeDevice(device.index());
  }
  std::map<std::string, OperatorTime> sums;
  const std::lock_guard lock(mutex);
  for (const Span& span : spans) {
    OperatorTime& sum = sums[span.name];
    sum.name = span.name;
    sum.calls += 1;
    sum.seconds += device.is_cpu() ? std::chrono::duration<double>(span.to - span.from).count()
                                   : span.begin->elapsedTime(*span.end) * 1e-3;
  }
  spans.clear();
  std::vector<OperatorTime> out;
  for (auto& [name, sum] : sums) out.push_back(std::move(sum));
  std::sort(out.begin(), out.end(),
            [](const OperatorTime& a, const OperatorTime& b) { return a.seconds > b.seconds; });
  return out;
}

}  // namespace qad::recipe
