// CUDA graphs through LibTorch, whose allocator then takes memory from a pool that graphs own.
#include "models/recording.h"

#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>

namespace qad::cuda {
namespace {

class Graph final : public models::Recording {
 public:
  explicit Graph(const std::function<void()>& work) {
    // One pool for all that live: they never run at once. PyTorch takes no pool back that was let
    // go of.
    if (living_ == 0) pool_ = at::cuda::graph_pool_handle();
    // What ran before left memory with the allocator that the pool cannot use.
    c10::cuda::CUDACachingAllocator::emptyCache();
    const c10::cuda::CUDAStream before = c10::cuda::getCurrentCUDAStream();
    const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
    before.synchronize();
    const c10::cuda::CUDAStreamGuard guard(stream);
    // cuBLAS cannot begin while work is recorded, and a text may be the first work there is.
    at::cuda::getCurrentCUDABlasHandle();
    at::cuda::getCurrentCUDABlasLtHandle();
    graph_.capture_begin(pool_);
    try {
      work();
    } catch (...) {
      try {
        graph_.capture_end();
      } catch (const std::exception&) {  // a consequence of the first error, which says more
      }
      throw;
    }
    graph_.capture_end();
    ++living_;
  }
  ~Graph() override { --living_; }
  void replay() override { graph_.replay(); }

 private:
  inline static at::MempoolId_t pool_;
  inline static std::int64_t living_ = 0;
  at::cuda::CUDAGraph graph_;
};

}  // namespace
}  // namespace qad::cuda

extern "C" qad::models::Recording* qad_cuda_record(const std::function<void()>& work) {
  return new qad::cuda::Graph(work);
}
