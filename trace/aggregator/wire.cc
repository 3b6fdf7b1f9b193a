#include "trace/aggregator/wire.h"

#include <memory>
#include <zstd.h>

namespace convoy::trace {
namespace {

constexpr int kLevel = 1;
constexpr size_t kPackFrom = 256;        // smaller bodies aren't worth it
constexpr uint32_t kWorldMax = 1 << 20;  // ranks of a job
constexpr int kDimensionsMax = 16;
constexpr size_t kTextMax = 255;

template <auto Free>
struct Freed {
  template <class T>
  void operator()(T* t) const {
    Free(t);
  }
};

}  // namespace

void to_wire(const JobInfo& job, wire::Job& to) {
  to.Clear();
  to.set_job(job.job);
  to.set_generation(job.generation);
  to.set_world_size(job.world_size);
  for (const Dimension& d : job.mesh) {
    wire::Dimension* const added = to.add_mesh();
    added->set_name(d.name);
    added->set_size(d.size);
  }
}

Result<JobInfo> from_wire(const wire::Job& job) {
  JobInfo out{job.job(), job.generation(), job.world_size(), {}};
  uint64_t product = 1;
  bool sane = job.job().size() <= kTextMax && job.world_size() <= kWorldMax &&
              job.mesh_size() <= kDimensionsMax;
  for (int i = 0; sane && i < job.mesh_size(); ++i) {
    const wire::Dimension& d = job.mesh(i);
    product *= d.size();
    sane = d.size() >= 1 && product <= kWorldMax && d.name().size() <= kTextMax;
    out.mesh.push_back({d.name(), d.size()});
  }
  if (!sane) return Status(Code::kInvalidArgument, "a job of impossible sizes");
  return out;
}

bool pack(std::string& body) {
  if (body.size() < kPackFrom) return false;
  thread_local const std::unique_ptr<ZSTD_CCtx, Freed<&ZSTD_freeCCtx>> context(ZSTD_createCCtx());
  std::string packed(ZSTD_compressBound(body.size()), '\0');
  const size_t bytes = ZSTD_compressCCtx(context.get(), packed.data(), packed.size(), body.data(),
                                         body.size(), kLevel);
  if (ZSTD_isError(bytes) != 0 || bytes >= body.size() / 16 * 15) return false;
  packed.resize(bytes);
  body = std::move(packed);
  return true;
}

Status unpack(std::span<const std::byte> packed, std::vector<std::byte>& to) {
  thread_local const std::unique_ptr<ZSTD_DCtx, Freed<&ZSTD_freeDCtx>> context(ZSTD_createDCtx());
  const size_t bytes =
      ZSTD_decompressDCtx(context.get(), to.data(), to.size(), packed.data(), packed.size());
  if (ZSTD_isError(bytes) == 0 && bytes == to.size()) return ok_status();
  return {Code::kInvalidArgument, "a message whose body can't be unpacked"};
}

}  // namespace convoy::trace
