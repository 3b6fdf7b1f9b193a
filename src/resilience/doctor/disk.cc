// A folder that jobs will write to: can it be written, has it room, how fast is it, and how long
// does it take until bytes are safe. The file has no name where the file system allows that, and
// else loses it at once, so a check that is killed leaves nothing.
#include "src/resilience/doctor/checks.h"
#include <convoy/base/units.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

namespace convoy::resilience {
namespace {

constexpr size_t kBlock = 4096;
constexpr size_t kChunk = 1UL << 20;
constexpr uint64_t kWriteMax = 256UL << 20;  // more wears an SSD for nothing
constexpr int kSyncsMax = 64;
constexpr double kSyncMax = 0.1;          // seconds; a checkpoint has tens of files
constexpr double kWriteMin = 20UL << 20;  // bytes a second
constexpr uint64_t kSpaceKept = 4;        // writes use at most this part of the free space

struct Folder {
  const std::string& path;
  const DoctorOptions& options;
};

CheckResult in_folder(CheckResult result, const Folder& folder) {
  result.subject = folder.path;
  return result;
}

CheckResult broken(const char* name, const Folder& folder, int error, const char* expected) {
  CheckResult result = found(name, std::strerror(error));
  result = judged(result, false, Verdict::kFail, expected,
                  error == EROFS    ? "Mount it writable; if it was, look in `dmesg` for errors of "
                                      "the disk, after which file systems become read-only."
                  : error == ENOSPC ? "Free space: `df -h` and `df -i` tell what is used up."
                  : error == ENOENT || error == ENOTDIR
                      ? "Make the folder, or mount what should be there."
                  : error == EACCES || error == EPERM ? "Give this user the right to write there."
                  : error == EDQUOT                   ? "Raise this user's quota, or free space."
                                    : "Look in `dmesg` for errors of the disk or its server.");
  return in_folder(std::move(result), folder);
}

// A new empty file without a name, or -1 and errno.
UniqueFd open_unnamed(const std::string& folder) {
  UniqueFd fd(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return fd;
  std::string path = folder + "/.convoy-doctor-XXXXXX";  // no O_TMPFILE there, as on NFS
  fd.reset(::mkostemp(path.data(), O_CLOEXEC));
  if (fd) ::unlink(path.c_str());
  return fd;
}

int write_all(int fd, const char* data, size_t bytes, uint64_t offset) {
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd, data, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n == 0 ? EIO : errno;
    data += n, bytes -= static_cast<size_t>(n), offset += static_cast<uint64_t>(n);
  }
  return 0;
}

// Space for users without privileges, and whether it is enough.
CheckResult check_space(const Folder& folder, uint64_t* left) {
  struct statvfs stat {};
  if (::statvfs(folder.path.c_str(), &stat) != 0) {
    return broken("disk.space", folder, errno, "a folder");
  }
  *left = static_cast<uint64_t>(stat.f_bavail) * stat.f_frsize;
  CheckResult result =
      judged(measured("disk.space", static_cast<double>(*left), "B", Better::kNeither),
             *left >= folder.options.space_min, Verdict::kFail,
             "at least " + format_bytes(folder.options.space_min) + " free",
             "Free space (`convoy ckpt gc` removes old checkpoints), or use another folder.");
  // Many file systems have no fixed number of files; those say 0.
  if (result.verdict == Verdict::kOk && stat.f_files > 0 && stat.f_favail == 0) {
    result = broken("disk.space", folder, ENOSPC, "room for one more file");
  }
  return in_folder(std::move(result), folder);
}

// Overwrites one block and waits until it is safe, again and again; the median.
CheckResult check_sync(const Folder& folder, int fd, Nanos time) {
  const std::string block(kBlock, 'c');
  const Deadline deadline = Deadline::after(time);
  std::vector<double> seconds;
  while (seconds.size() < kSyncsMax && (seconds.empty() || !deadline.passed())) {
    const TimePoint begin = Clock::system().now();
    if (const int error = write_all(fd, block.data(), block.size(), 0)) {
      return broken("disk.fsync", folder, error, "a file that can be written");
    }
    if (::fsync(fd) != 0) return broken("disk.fsync", folder, errno, "an fsync that succeeds");
    seconds.push_back(seconds_since(begin));
  }
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  const double median = seconds[seconds.size() / 2];
  return in_folder(judged(measured("disk.fsync", median, "s", Better::kLower), median <= kSyncMax,
                          Verdict::kWarn, "at most " + format_value(kSyncMax, "s"),
                          "Look for other load on the disk (`iostat -x 1`) and for its errors "
                          "(`smartctl -a`, `dmesg`)."),
                   folder);
}

// Writes and syncs twice as much each time, until `time` is up or it was enough: a slow disk is
// asked for little. The last round counts.
CheckResult check_write(const Folder& folder, int fd, uint64_t most, Nanos time) {
  std::string chunk(kChunk, '\0');
  for (size_t i = 0; i < chunk.size(); ++i) chunk[i] = static_cast<char>(i * 2654435761U >> 13);
  const Deadline deadline = Deadline::after(time);
  double rate = 0;
  uint64_t offset = 0;
  for (uint64_t bytes = 4 * kChunk; offset + bytes <= most; bytes *= 2) {
    const TimePoint begin = Clock::system().now();
    for (const uint64_t end = offset + bytes; offset < end; offset += kChunk) {
      if (const int error = write_all(fd, chunk.data(), chunk.size(), offset)) {
        return broken("disk.write", folder, error, "a file that can be written");
      }
    }
    if (::fsync(fd) != 0) return broken("disk.write", folder, errno, "an fsync that succeeds");
    const double seconds = std::max(seconds_since(begin), 1e-9);
    rate = static_cast<double>(bytes) / seconds;
    const double left = std::chrono::duration<double>(deadline.left()).count();
    if (2 * seconds > left) break;  // what the next round would take
  }
  if (rate == 0) return in_folder(skipped("disk.write", "too little space to measure it"), folder);
  return in_folder(judged(measured("disk.write", rate, "B/s", Better::kHigher), rate >= kWriteMin,
                          Verdict::kWarn, "at least " + format_value(kWriteMin, "B/s"),
                          "Look for other load on the disk (`iostat -x 1`), for its errors, and "
                          "at the network if it is a remote one."),
                   folder);
}

}  // namespace

Results check_disk(const DoctorOptions& options, const std::string& path, Nanos time) {
  const Folder folder{path, options};
  uint64_t left = 0;
  Results results{check_space(folder, &left)};
  const UniqueFd fd = open_unnamed(path);
  if (!fd) {
    results.push_back(broken("disk.write", folder, errno, "a folder that can be written to"));
    return results;
  }
  results.push_back(check_sync(folder, fd.get(), time / 2));
  if (results.back().verdict == Verdict::kFail) return results;
  results.push_back(
      check_write(folder, fd.get(), std::min(kWriteMax, left / kSpaceKept), time / 2));
  return results;
}

}  // namespace convoy::resilience
