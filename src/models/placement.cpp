// Finding the GPU: the plug-in with its operators stands beside the program, or where the loader
// looks, and is loaded only when asked for, so that the program runs where there is no CUDA.
#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>

#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "models/model.h"
#include "models/recording.h"

namespace qad::models {
namespace {

constexpr const char* kPlugin = "libqad_cuda.so";

// The plug-in's functions; null before it is loaded.
using Text = const char* (*)();
Text machine_text = nullptr;
RecordWork record = nullptr;

// Before anything asks PyTorch about CUDA: it remembers that there was none.
void load_plugin() {
  const fs::path beside = fs::read_symlink("/proc/self/exe").parent_path() / kPlugin;
  const bool here = fs::exists(beside);
  void* const plugin = dlopen(here ? beside.c_str() : kPlugin, RTLD_NOW | RTLD_GLOBAL);
  if (plugin == nullptr)
    fail("device", "cuda: {}; {}", dlerror(),
         here ? "a library of CUDA is missing: run scripts/cuda, which fetches what it needs"
              : "this build has no GPU part: run scripts/cuda, or use --device cpu");
  // What the plug-in finds wrong with driver or card; empty if nothing.
  const auto problem = reinterpret_cast<Text>(dlsym(plugin, "qad_cuda_problem"));
  machine_text = reinterpret_cast<Text>(dlsym(plugin, "qad_cuda_machine"));
  record = reinterpret_cast<RecordWork>(dlsym(plugin, "qad_cuda_record"));
  check(problem != nullptr && machine_text != nullptr && record != nullptr, "device",
        "cuda: {} is of another version; run scripts/cuda", kPlugin);
  const std::string found = problem();
  check(found.empty(), "device", "cuda: {}", found);
  check(at::getNumGPUs() > 0, "device",
        "cuda: LibTorch sees no GPU (CUDA_VISIBLE_DEVICES, or a LibTorch without CUDA?)");
  at::globalContext().lazyInitDevice(at::kCUDA);  // or it knows nothing of its memory
  // Makes the GPU's context: some tenths of a second that are no part of what comes next.
  c10::impl::getDeviceGuardImpl(at::kCUDA)->synchronizeDevice(0);
}

}  // namespace

std::unique_ptr<Recording> record_work(const at::Device& device,
                                       const std::function<void()>& work) {
  check(!device.is_cpu() && record != nullptr, "record", "expected a GPU in use, found {}",
        device.str());
  return std::unique_ptr<Recording>(record(work));
}

Placement placement_named(const std::string& device) {
  if (device == "cpu") return {};
  check(device == "cuda", "device", "expected cpu or cuda, found {}", device);
  return {at::Device(at::kCUDA, 0), at::kBFloat16};
}

Placement placement_of(const std::string& device) {
  const Placement placement = placement_named(device);
  if (!placement.device.is_cpu()) load_plugin();
  return placement;
}

Placement decoding_placement_of(const std::string& device) {
  Placement placement = placement_of(device);
  placement.packs_weights = true;
  return placement;
}

std::string machine_name(const at::Device& device) {
  if (!device.is_cpu() && machine_text != nullptr) return machine_text();
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name"))
      return fmt::format("{}, {} threads", line.substr(line.find(": ") + 2), at::get_num_threads());
  return fmt::format("CPU, {} threads", at::get_num_threads());
}

DeviceMemory memory_of(const at::Device& device) {
  c10::DeviceAllocator* const allocator = at::getDeviceAllocator(device.type());
  const auto [free, total] = allocator->getMemoryInfo(device.index());
  const auto stats = allocator->getDeviceStats(device.index());
  return {static_cast<double>(free), static_cast<double>(total),
          static_cast<double>(stats.allocated_bytes[0].peak)};
}

}  // namespace qad::models
