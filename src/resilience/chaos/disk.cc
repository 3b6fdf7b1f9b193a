#include "src/resilience/chaos/disk.h"

#include "src/resilience/chaos/helper.h"
#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/memory.h>
#include <convoy/base/units.h>

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace convoy::resilience::chaos {
namespace {

constexpr off_t kPage = 4096;
constexpr off_t kLargestPiece = off_t{64} << 20;
constexpr int64_t kMiB = 1 << 20;
constexpr long kRefillMs = 5;  // the job deletes old steps now and then
constexpr long kFrozenMs = 180, kFreeMs = 20;
constexpr double kSeenS = 10;
// A page that is on disk later than this has waited for the disk.
constexpr double kSlowS = 0.05;

UniqueFd open_nameless(const std::string& folder) {
  return UniqueFd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
}

// From `end` on, in ever smaller pieces.
off_t fill(int file, off_t end) {
  for (off_t piece = kLargestPiece; piece >= kPage;) {
    if (::fallocate(file, 0, end, piece) == 0) {
      end += piece;
    } else {
      piece /= 2;
    }
  }
  return end;
}

template <class Look>
Status await(const std::string& folder, Look is_so, const char* what_not) {
  const TimePoint began = Clock::system().now();
  while (seconds_since(began) < kSeenS) {
    if (is_so()) return ok_status();
    ::usleep(kPage);
  }
  return {Code::kDeadlineExceeded, folder + what_not};
}

// Writes a page to the disk; 0, or the error.
int write_page(const std::string& folder) {
  const std::array<char, kPage> page{'c'};
  const UniqueFd file = open_nameless(folder);
  if (!file || ::pwrite(file.get(), page.data(), page.size(), 0) < 0) return errno;
  return ::fsync(file.get()) == 0 ? 0 : errno;
}

}  // namespace

OwnDisk own_disk(const std::string& folder) {
  struct stat here {
  }, above{};
  struct statfs system {};
  if (::stat(folder.c_str(), &here) != 0 || ::stat((folder + "/..").c_str(), &above) != 0 ||
      ::statfs(folder.c_str(), &system) != 0 || here.st_dev == above.st_dev) {
    return {};
  }
  return {.is_own = true, .can_freeze = system.f_type != TMPFS_MAGIC && ::geteuid() == 0};
}

void keep_full(const std::string& folder) {
  block_sigterm();
  const UniqueFd file = open_nameless(folder);
  off_t end = 0;
  do {
    end = fill(file.get(), end);
  } while (file && !is_told_to_end(kRefillMs));
}

void keep_slow(const std::string& folder) {
  block_sigterm();
  const UniqueFd root(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  bool is_over = false;
  while (root && !is_over) {
    const bool is_frozen = ::ioctl(root.get(), FIFREEZE, 0) == 0;
    is_over = !is_frozen || is_told_to_end(kFrozenMs);
    if (is_frozen) ::ioctl(root.get(), FITHAW, 0);
    is_over = is_over || is_told_to_end(kFreeMs);
  }
}

Status await_full(const std::string& folder) {
  return await(
      folder, [&] { return write_page(folder) == ENOSPC; }, " did not become full");
}

Status await_slow(const std::string& folder) {
  return await(
      folder,
      [&] {
        const TimePoint began = Clock::system().now();
        return write_page(folder) == 0 && seconds_since(began) > kSlowS;
      },
      " could not be frozen: that takes root, and a file system that can be (ext4, xfs)");
}

Status may_hold(int64_t mib) {
  const auto available = static_cast<int64_t>(available_memory() / uint64_t{kMiB});
  if (mib <= available / 2) return ok_status();
  return {Code::kFailedPrecondition, std::to_string(mib) + " MiB are more than half of " +
                                         std::to_string(available) +
                                         " MiB that are free: this machine has others"};
}

Status may_fill(const std::string& folder) {
  struct statfs system {};
  if (::statfs(folder.c_str(), &system) != 0) return errno_status("looking at " + folder, errno);
  if (system.f_type != TMPFS_MAGIC) return ok_status();
  const auto bytes = static_cast<int64_t>(system.f_bfree) * system.f_bsize;
  return may_hold(bytes / kMiB).with_context(folder + " lies in memory");
}

}  // namespace convoy::resilience::chaos
