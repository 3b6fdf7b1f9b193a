#include "ckpt/restore/staging.h"

#include <convoy/base/check.h>
#include <convoy/ckpt/disk_file.h>

#include <algorithm>
#include <cstdlib>
#include <sys/mman.h>

namespace convoy::ckpt {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

Staging::Staging(size_t bytes) {
  const size_t unit = bytes >= kHugePage ? kHugePage : kDiskAlign;
  const size_t size = round_up(std::max<size_t>(bytes, 1), unit);
  memory_ = static_cast<std::byte*>(std::aligned_alloc(unit, size));
  CONVOY_CHECK(memory_ != nullptr, "out of memory for staging a load");
  if (unit == kHugePage) ::madvise(memory_, size, MADV_HUGEPAGE);
}

Staging::~Staging() {
  std::free(memory_);
}

}  // namespace convoy::ckpt
