// Shared memory: what ranks of one machine exchange data through.
#include "src/resilience/doctor/checks.h"
#include "src/resilience/doctor/kernel_files.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace convoy::resilience {
namespace {

constexpr size_t kProbe = 2UL << 20;
constexpr uint64_t kDevShmMin = 1ULL << 30;

// 0, or the errno of what did not work.
int try_memfd() {
  const UniqueFd fd(::memfd_create("convoy-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ::ftruncate(fd.get(), kProbe) != 0) return errno;
  void* at = ::mmap(nullptr, kProbe, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return errno;
  std::memset(at, 1, kProbe);
  ::munmap(at, kProbe);
  return 0;
}

CheckResult check_memfd() {
  const int error = try_memfd();
  return judged(found("shared_memory.memfd", error == 0 ? "works" : std::strerror(error)),
                error == 0, Verdict::kFail, "an anonymous file that can be mapped",
                "Allow memfd_create in the container's seccomp profile, and check `ulimit -f` and "
                "the memory limit.");
}

// Convoy itself needs none of it, but PyTorch's data loaders do.
CheckResult check_dev_shm() {
  struct statvfs stat {};
  if (::statvfs("/dev/shm", &stat) != 0) {
    return judged(found("shared_memory.dev_shm", std::strerror(errno)), false, Verdict::kWarn,
                  "a tmpfs on /dev/shm", "Mount a tmpfs there; data loaders of PyTorch need it.");
  }
  const uint64_t bytes = static_cast<uint64_t>(stat.f_blocks) * stat.f_frsize;
  return judged(
      measured("shared_memory.dev_shm", static_cast<double>(bytes), "B", Better::kNeither),
      bytes >= kDevShmMin, Verdict::kWarn, "at least " + format_bytes(kDevShmMin),
      "Start the container with a larger one (docker run --shm-size 8g), if data loaders "
      "of PyTorch run in it.");
}

CheckResult check_huge_pages(const DoctorOptions& options) {
  const std::string memory = read_small_file(options.proc + "/meminfo").value_or("");
  const uint64_t reserved = number_behind(memory, "HugePages_Total:").value_or(0);
  const uint64_t free = number_behind(memory, "HugePages_Free:").value_or(0);
  const std::string mode =
      read_small_file(options.sys + "/kernel/mm/transparent_hugepage/enabled").value_or("");
  std::string text = std::to_string(reserved) + " reserved, " + std::to_string(free) + " free";
  if (!mode.empty()) text += "; transparent: " + mode;  // "always [madvise] never"
  return judged(found("shared_memory.huge_pages", text),
                reserved > 0 || mode.find("[never]") == std::string::npos, Verdict::kWarn,
                "transparent ones on madvise or always",
                "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: without, large copies "
                "are slower.");
}

}  // namespace

Results check_shared_memory(const DoctorOptions& options) {
  return {check_memfd(), check_dev_shm(), check_huge_pages(options)};
}

}  // namespace convoy::resilience
