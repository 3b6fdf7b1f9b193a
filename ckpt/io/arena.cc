// Makes, maps and touches the shared memory of snapshots.
#include <convoy/base/log.h>
#include <convoy/base/memory.h>
#include <convoy/base/units.h>
#include <convoy/ckpt/arena.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <fcntl.h>
#include <limits>
#include <linux/magic.h>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <vector>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace convoy::ckpt {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// What a thread touches at once. Small, so that the destructor and other threads' page faults
// (which wait for the same lock) don't wait for long.
constexpr size_t kTouchBytes = size_t{8} << 20;
constexpr size_t kArenaBytesMax = size_t{1} << 46;
constexpr int kTouchThreadsMax = 64;

size_t page_size() {
  static const auto size = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

size_t round_up(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

struct Mapping {
  UniqueFd fd;
  std::byte* data = nullptr;
  size_t bytes = 0;
  bool reserved_huge = false;
};

// Maps ordinary pages at a multiple of the huge page's size, without which the processor can't use
// huge ones. (Reserved huge pages are aligned by the kernel.)
void* map_aligned(int fd, size_t bytes, int protection) {
  void* room = ::mmap(nullptr, bytes + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) return room;
  auto* begin = static_cast<std::byte*>(room);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(room) % kHugePage) % kHugePage;
  void* at = ::mmap(begin + before, bytes, protection, MAP_SHARED | MAP_FIXED, fd, 0);
  const int error = errno;
  // Of a failed MAP_FIXED the kernel leaves a gap, where another thread may have mapped something
  // by now: what lies there is not ours to unmap.
  if (before > 0) ::munmap(begin, before);
  const size_t used = round_up(before + bytes, page_size());
  if (used < bytes + kHugePage) ::munmap(begin + used, bytes + kHugePage - used);
  errno = error;
  return at;
}

void* map_memory(const Mapping& m, int protection) {
  if (!m.reserved_huge) return map_aligned(m.fd.get(), m.bytes, protection);
  return ::mmap(nullptr, m.bytes, protection, MAP_SHARED, m.fd.get(), 0);
}

Result<Mapping> make_memory(size_t bytes, unsigned extra_flags, size_t unit) {
  Mapping m;
  m.bytes = round_up(bytes, unit);
  m.reserved_huge = (extra_flags & MFD_HUGETLB) != 0;
  m.fd.reset(::memfd_create("convoy-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING | extra_flags));
  if (!m.fd || ::ftruncate(m.fd.get(), static_cast<off_t>(m.bytes)) != 0) {
    return errno_status("cannot make an arena of " + format_bytes(m.bytes), errno);
  }
  // Reserved huge pages are taken from the pool here, so a pool that is too small fails here.
  void* at = map_memory(m, PROT_READ | PROT_WRITE);
  if (at == MAP_FAILED) return errno_status("cannot map " + format_bytes(m.bytes), errno);
  m.data = static_cast<std::byte*>(at);
  if (::fcntl(m.fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    const int error = errno;
    ::munmap(at, m.bytes);
    return errno_status("cannot seal an arena of " + format_bytes(m.bytes), error);
  }
  return m;
}

void tell_about_ordinary_pages(int error) {
  static std::once_flag once;
  std::call_once(once, [error] {
    CONVOY_LOG(Info)
        << "snapshots use ordinary pages, so disk requests are about half as fast: no "
           "huge pages are reserved (vm.nr_hugepages), and the kernel makes no "
           "transparent ones (Linux 6.1 does, unless transparent_hugepage/shmem_enabled "
           "is deny): "
        << std::strerror(error);
  });
}

// Makes the pages of a range present, without changing what is in them.
int touch(std::byte* data, size_t bytes, bool writable) {
  if (::madvise(data, bytes, writable ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0) return 0;
  if (errno != EINVAL) return errno;
  // A kernel before 5.14. The owner may write at the same time, hence the atomic no-op.
  for (size_t at = 0; at < bytes; at += page_size()) {
    auto& byte = *reinterpret_cast<unsigned char*>(data + at);
    if (writable) {
      std::atomic_ref<unsigned char>(byte).fetch_or(0, std::memory_order_relaxed);
    } else {
      (void)*static_cast<volatile unsigned char*>(&byte);
    }
  }
  return 0;
}

// Makes huge pages of the whole ones in a range. MADV_COLLAPSE also works where the administrator
// has not switched transparent huge pages of shared memory on. It refuses a range without any page,
// hence the touch of one. Returns 0, or the error for which it should not be tried again. Memory
// too scattered for a huge page here is none.
int collapse(std::byte* data, size_t bytes, bool writable) {
  for (size_t at = 0; at + kHugePage <= bytes; at += kHugePage) {
    if (const int error = touch(data + at, page_size(), writable); error != 0) return error;
    if (::madvise(data + at, kHugePage, MADV_COLLAPSE) == 0) continue;
    if (errno != EAGAIN && errno != EBUSY && errno != ENOMEM) return errno;
  }
  return 0;
}

Status check_memory_left(size_t bytes) {
  const uint64_t left = available_memory();
  if (bytes <= left) return ok_status();
  return {Code::kResourceExhausted,
          "an arena for snapshots of " + format_bytes(bytes) +
              " does not fit: " + format_bytes(left) +
              " of memory are left; keep fewer snapshots in memory or use more nodes"};
}

bool on_reserved_huge_pages(int fd) {
  struct statfs info {};
  return ::fstatfs(fd, &info) == 0 &&
         info.f_type == static_cast<decltype(info.f_type)>(HUGETLBFS_MAGIC);
}

Status check_size(size_t bytes) {
  if (bytes > 0 && bytes <= kArenaBytesMax) return ok_status();
  return {Code::kInvalidArgument, "an arena of " + std::to_string(bytes) +
                                      " bytes; between 1 byte and 64 TiB are possible"};
}

}  // namespace

struct Arena::Impl {
  Mapping map;
  bool writable = true;

  std::atomic<size_t> next{0};
  std::atomic<bool> stop{false};
  std::atomic<bool> try_collapse{false};
  std::mutex mutex;
  std::condition_variable touched;
  int touching = 0;
  int error = 0;
  std::vector<std::thread> threads;

  ~Impl() {
    stop = true;
    for (std::thread& t : threads) t.join();
    if (map.data != nullptr) ::munmap(map.data, map.bytes);
  }

  void touch_some() {
    int failed = 0;
    while (!stop && failed == 0) {
      const size_t at = next.fetch_add(kTouchBytes);
      if (at >= map.bytes) break;
      if (try_collapse) {
        const int error = collapse(map.data + at, std::min(kTouchBytes, map.bytes - at), writable);
        if (error != 0 && try_collapse.exchange(false)) tell_about_ordinary_pages(error);
      }
      failed = touch(map.data + at, std::min(kTouchBytes, map.bytes - at), writable);
    }
    if (failed != 0) stop = true;
    const std::lock_guard lock(mutex);
    if (failed != 0) error = failed;
    --touching;
    touched.notify_all();
  }

  // Without threads the pages are made when used: slower once, nothing worse.
  void start_touching(int count) {
    count = std::clamp(count, 0, kTouchThreadsMax);
    count = static_cast<int>(std::min<size_t>(count, (map.bytes + kTouchBytes - 1) / kTouchBytes));
    for (int i = 0; i < count; ++i) {
      {
        const std::lock_guard lock(mutex);
        ++touching;
      }
      try {
        threads.emplace_back([this] { touch_some(); });
      } catch (const std::system_error&) {
        const std::lock_guard lock(mutex);
        --touching;
        return;
      }
    }
  }
};

Arena::Arena(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Arena::~Arena() = default;

Result<std::shared_ptr<Arena>> Arena::create(size_t bytes, const Options& options) {
  CONVOY_RETURN_IF_ERROR(check_size(bytes));
  if (const uint64_t left = available_memory(); bytes > left) {
    return Status(Code::kResourceExhausted,
                  "an arena for snapshots of " + format_bytes(bytes) +
                      " does not fit: " + format_bytes(left) +
                      " of memory are left; keep fewer snapshots in memory or use more nodes");
  }
  auto impl = std::make_unique<Impl>();
  Result<Mapping> map = Status(Code::kResourceExhausted, "no huge pages");
  if (options.huge_pages && bytes >= kHugePage) map = make_memory(bytes, MFD_HUGETLB, kHugePage);
  if (!map.ok()) {
    CONVOY_RETURN_IF_ERROR(check_memory_left(bytes));
    map = make_memory(bytes, 0, page_size());
  }
  if (!map.ok()) return map.status();
  impl->map = std::move(map).value();
  impl->try_collapse = options.huge_pages && !impl->map.reserved_huge;
  if (impl->try_collapse) ::madvise(impl->map.data, impl->map.bytes, MADV_HUGEPAGE);
  impl->start_touching(options.touch_threads);
  return std::shared_ptr<Arena>(new Arena(std::move(impl)));
}

Result<std::shared_ptr<Arena>> Arena::map(int fd, size_t bytes, bool writable,
                                          const Options& options) {
  CONVOY_RETURN_IF_ERROR(check_size(bytes));
  const int seals = ::fcntl(fd, F_GET_SEALS);
  struct stat info {};
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || ::fstat(fd, &info) != 0) {
    return Status(Code::kInvalidArgument, "descriptor " + std::to_string(fd) +
                                              " is no arena: a sealed memfd was expected, as "
                                              "Arena::create makes it");
  }
  if (static_cast<uint64_t>(info.st_size) < bytes) {
    return Status(Code::kInvalidArgument, "an arena of " + std::to_string(info.st_size) +
                                              " bytes can't be mapped as " + std::to_string(bytes) +
                                              "; both sides must use the same size");
  }
  auto impl = std::make_unique<Impl>();
  impl->writable = writable;
  // A map of reserved huge pages has whole ones; the file has, too.
  impl->map.reserved_huge = on_reserved_huge_pages(fd);
  impl->map.bytes = round_up(bytes, impl->map.reserved_huge ? kHugePage : page_size());
  impl->map.fd.reset(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!impl->map.fd) return errno_status("cannot duplicate the descriptor of an arena", errno);
  void* at = map_memory(impl->map, PROT_READ | (writable ? PROT_WRITE : 0));
  if (at == MAP_FAILED) return errno_status("cannot map an arena", errno);
  impl->map.data = static_cast<std::byte*>(at);
  impl->try_collapse = writable && options.huge_pages && !impl->map.reserved_huge;
  if (impl->try_collapse) ::madvise(impl->map.data, impl->map.bytes, MADV_HUGEPAGE);
  impl->start_touching(writable ? options.touch_threads : 0);
  return std::shared_ptr<Arena>(new Arena(std::move(impl)));
}

std::span<std::byte> Arena::bytes() const {
  return {impl_->map.data, impl_->map.bytes};
}

int Arena::fd() const {
  return impl_->map.fd.get();
}

bool Arena::writable() const {
  return impl_->writable;
}

bool Arena::reserved_huge_pages() const {
  return impl_->map.reserved_huge;
}

Status Arena::wait_touched() {
  std::unique_lock lock(impl_->mutex);
  impl_->touched.wait(lock, [&] { return impl_->touching == 0; });
  if (impl_->error == 0) return ok_status();
  return errno_status("memory for snapshots of " + format_bytes(impl_->map.bytes) +
                          " ran out while its pages were made; keep fewer snapshots in memory",
                      ENOMEM);
}

}  // namespace convoy::ckpt
