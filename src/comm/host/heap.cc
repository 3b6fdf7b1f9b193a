// Decides where in the shared descriptor each block lies, and when pages go back to the system. All
// book-keeping is private memory: a peer that writes where it should not can spoil data, not the
// allocator.
#include "src/comm/host/heap.h"

#include <convoy/base/check.h>
#include <convoy/base/log.h>
#include <convoy/base/memory.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <pthread.h>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

namespace convoy::host {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kPage = 4096;
constexpr size_t kSmallMax = 32 * 1024;       // larger blocks are runs of pages
constexpr size_t kSlabBytes = 128 * 1024;     // what a size class takes at once
constexpr size_t kShardListMax = 4096;        // offsets a shard's class keeps before it is trimmed
constexpr size_t kGiveBackMin = 1024 * 1024;  // smaller free blocks keep their pages
constexpr size_t kGrowStep = 128 * 1024 * 1024;
constexpr size_t kHeapMin = 64 * 1024 * 1024;        // a smaller heap, forced by a limit, is no use
constexpr size_t kSystemReserve = 64 * 1024 * 1024;  // memory that we leave to the system

// Size classes: multiples of 64 up to 1 KiB, then four to each doubling.
constexpr size_t class_of(size_t bytes) {
  const size_t units = (bytes + kAlign - 1) / kAlign;
  if (units <= 16) return units - 1;
  const size_t k = std::bit_width(units - 1) - 1;
  return 16 + (k - 4) * 4 + ((units - 1 - (size_t{1} << k)) >> (k - 2));
}

constexpr size_t class_bytes(size_t index) {
  if (index < 16) return (index + 1) * kAlign;
  const size_t k = 4 + (index - 16) / 4, sub = (index - 16) % 4;
  return ((size_t{1} << k) + ((sub + 1) << (k - 2))) * kAlign;
}
static_assert(class_of(kSmallMax) == 35 && class_bytes(35) == kSmallMax);
static_assert(class_of(1025) == 16 && class_bytes(16) == 1280);

// Kept up to date across fork(), because getpid() is a system call.
std::atomic<int> current_pid{0};

int cached_pid() {
  static const bool registered = [] {
    current_pid = getpid();
    pthread_atfork(nullptr, nullptr, [] { current_pid = getpid(); });
    return true;
  }();
  (void)registered;
  return current_pid.load(std::memory_order_relaxed);
}

size_t machine_memory() {
  return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGE_SIZE));
}

// A limit on file sizes (`ulimit -f`) holds for memory files too; beyond it the kernel would kill
// the process with SIGXFSZ.
Result<size_t> within_file_limit(size_t bytes) {
  rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
  getrlimit(RLIMIT_FSIZE, &limit);
  if (limit.rlim_cur >= bytes) return bytes;
  if (limit.rlim_cur < kHeapMin) {
    return Status(Code::kResourceExhausted,
                  "the limit on file sizes, " + std::to_string(limit.rlim_cur >> 10) +
                      " KiB (`ulimit -f`), leaves no room for the shared memory in which ranks "
                      "exchange data: it needs at least " +
                      std::to_string(kHeapMin >> 20) +
                      " MiB. Start the job with `ulimit -f unlimited`");
  }
  return limit.rlim_cur / kSlabBytes * kSlabBytes;
}

size_t shard_of_thread(size_t shards) {
  static std::atomic<size_t> next{0};
  thread_local const size_t mine = next.fetch_add(1, std::memory_order_relaxed);
  return mine % shards;
}

}  // namespace

Result<std::shared_ptr<HeapMapping>> HeapMapping::map(int fd, size_t bytes) {
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (base == MAP_FAILED) {
    return errno_status("mapping a shared heap of " + std::to_string(bytes >> 20) +
                            " MiB of address space (is there a limit, `ulimit -v`?)",
                        errno);
  }
  return std::make_shared<HeapMapping>(static_cast<char*>(base), bytes);
}

HeapMapping::~HeapMapping() {
  munmap(base_, bytes_);
}

Result<std::shared_ptr<Heap>> Heap::create(size_t bytes) {
  if (bytes == 0) bytes = machine_memory();
  bytes = std::max((bytes + kSlabBytes - 1) / kSlabBytes * kSlabBytes, 2 * kSlabBytes);
  CONVOY_ASSIGN_OR_RETURN(bytes, within_file_limit(bytes));
  UniqueFd fd(memfd_create("convoy-heap", MFD_CLOEXEC));
  if (!fd) return errno_status("making the shared heap (memfd_create)", errno);
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return errno_status("sizing the shared heap to " + std::to_string(bytes >> 20) + " MiB", errno);
  }
  CONVOY_ASSIGN_OR_RETURN(auto mapping, HeapMapping::map(fd.get(), bytes));
  return std::make_shared<Heap>(std::move(fd), std::move(mapping));
}

Heap::Heap(UniqueFd fd, std::shared_ptr<HeapMapping> mapping)
    : fd_(std::move(fd)),
      mapping_(std::move(mapping)),
      owner_(cached_pid()),
      kept_max_(std::max(machine_memory() / 32, size_t{64} << 20)) {
  void* map = mmap(nullptr, mapping_->bytes() / kPage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CONVOY_CHECK(map != MAP_FAILED,
               std::string("no address space for the heap's page map: ") + std::strerror(errno));
  page_class_ = static_cast<uint8_t*>(map);
}

Heap::~Heap() {
  munmap(page_class_, mapping_->bytes() / kPage);
}

bool Heap::foreign() const {
  return cached_pid() != owner_;
}

void* Heap::allocate(size_t bytes) {
  if (bytes == 0 || bytes > mapping_->bytes() || foreign()) return nullptr;
  return bytes <= kSmallMax ? allocate_small(class_of(bytes)) : allocate_large(bytes);
}

void Heap::deallocate(void* data) {
  if (data == nullptr || foreign()) return;
  CONVOY_CHECK(contains(data, 1), "this block is not of this heap");
  const uint64_t offset = offset_of(data);
  const uint8_t marked = page_class_[offset / kPage];
  if (marked == 0) return deallocate_large(offset);
  const size_t size_class = marked - 1;
  in_use_.fetch_sub(class_bytes(size_class), std::memory_order_relaxed);
  Shard& shard = shards_[shard_of_thread(kShards)];
  std::vector<uint64_t> surplus;
  {
    const std::lock_guard lock(shard.mutex);
    auto& list = shard.free[size_class];
    list.push_back(offset);
    if (list.size() <= kShardListMax) return;
    surplus.assign(list.end() - kShardListMax / 2, list.end());
    list.resize(list.size() - kShardListMax / 2);
  }
  // A thread that only frees would hoard what the others need: hand half of it on.
  Shard& next = shards_[(shard_of_thread(kShards) + 1) % kShards];
  const std::lock_guard lock(next.mutex);
  auto& list = next.free[size_class];
  list.insert(list.end(), surplus.begin(), surplus.end());
}

void* Heap::allocate_small(size_t size_class) {
  const size_t own = shard_of_thread(kShards);
  Shard& shard = shards_[own];
  const std::lock_guard lock(shard.mutex);
  auto& list = shard.free[size_class];
  if (list.empty()) {
    for (size_t i = 1; i < kShards && list.empty(); ++i) {
      Shard& other = shards_[(own + i) % kShards];
      const std::unique_lock stolen(other.mutex, std::try_to_lock);
      if (stolen.owns_lock()) list.swap(other.free[size_class]);
    }
    if (list.empty() && !refill(shard, size_class)) return nullptr;
  }
  const uint64_t offset = list.back();
  list.pop_back();
  in_use_.fetch_add(class_bytes(size_class), std::memory_order_relaxed);
  return mapping_->base() + offset;
}

bool Heap::refill(Shard& shard, size_t size_class) {
  void* slab = allocate_large(kSlabBytes);
  if (slab == nullptr) return false;
  const uint64_t offset = offset_of(slab);
  {
    const std::lock_guard lock(mutex_);
    large_.erase(offset);  // slabs stay with their class
  }
  in_use_.fetch_sub(kSlabBytes, std::memory_order_relaxed);
  std::memset(page_class_ + offset / kPage, static_cast<int>(size_class + 1), kSlabBytes / kPage);
  const size_t bytes = class_bytes(size_class);
  auto& list = shard.free[size_class];
  for (size_t i = kSlabBytes / bytes; i-- > 0;) list.push_back(offset + i * bytes);
  return true;
}

void* Heap::allocate_large(size_t bytes) {
  bytes = (bytes + kPage - 1) / kPage * kPage;
  const std::lock_guard lock(mutex_);
  uint64_t offset = 0;
  if (auto fit = free_by_size_.lower_bound({bytes, 0}); fit != free_by_size_.end()) {
    offset = fit->second;
    FreeBlock block = take_free(offset);
    const size_t rest = block.bytes - bytes;
    // Blocks are cut from their beginning, so that is where pages are.
    const size_t resident = block.resident > bytes ? block.resident - bytes : 0;
    if (rest > 0) put_free(offset + bytes, {rest, std::min(rest, resident)});
  } else {
    // A free block at the frontier is a beginning.
    offset = frontier_;
    if (!free_by_offset_.empty()) {
      const auto& [last, block] = *free_by_offset_.rbegin();
      if (last + block.bytes == frontier_) offset = last;
    }
    const size_t fresh = bytes - (frontier_ - offset);
    if (fresh > mapping_->bytes() - frontier_ || !may_grow(fresh)) return nullptr;
    if (offset != frontier_) take_free(offset);
    frontier_ += fresh;
  }
  large_.emplace(offset, bytes);
  in_use_.fetch_add(bytes, std::memory_order_relaxed);
  return mapping_->base() + offset;
}

void Heap::deallocate_large(uint64_t offset) {
  const std::lock_guard lock(mutex_);
  const auto found = large_.find(offset);
  CONVOY_CHECK(found != large_.end(), "this block is not live: freed twice, or not its beginning");
  FreeBlock block{found->second, found->second};
  large_.erase(found);
  in_use_.fetch_sub(block.bytes, std::memory_order_relaxed);
  const auto next = free_by_offset_.lower_bound(offset);
  if (next != free_by_offset_.end() && next->first == offset + block.bytes) {
    const FreeBlock taken = take_free(next->first);
    block.bytes += taken.bytes;
    block.resident += taken.resident;
  }
  if (const auto after = free_by_offset_.lower_bound(offset); after != free_by_offset_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second.bytes == offset) {
      offset = before->first;
      const FreeBlock taken = take_free(offset);
      block.bytes += taken.bytes;
      block.resident += taken.resident;
    }
  }
  if (block.bytes >= kGiveBackMin && free_resident_ + block.resident > kept_max_) {
    give_back_pages(offset, block);
  }
  put_free(offset, block);
}

// Whether the system can stand `bytes` more. Asks it only once in a while: pages are taken when
// they are touched, and then it is too late for an error.
bool Heap::may_grow(size_t bytes) {
  if (bytes > grow_budget_) {
    const size_t available = available_memory();
    if (available < kSystemReserve || bytes > available - kSystemReserve) {
      CONVOY_LOG(Error) << "the shared heap can't grow by " << (bytes >> 20)
                        << " MiB: the machine (or its control group) has " << (available >> 20)
                        << " MiB left. Use fewer ranks a machine, smaller "
                        << "batches, or recompute activations";
      return false;
    }
    grow_budget_ = std::max(bytes, std::min(kGrowStep, (available - kSystemReserve) / 4));
  }
  grow_budget_ -= bytes;
  return true;
}

Heap::FreeBlock Heap::take_free(uint64_t offset) {
  const auto found = free_by_offset_.find(offset);
  const FreeBlock block = found->second;
  free_by_size_.erase({block.bytes, offset});
  free_by_offset_.erase(found);
  free_resident_ -= block.resident;
  return block;
}

void Heap::put_free(uint64_t offset, FreeBlock block) {
  free_by_offset_.emplace(offset, block);
  free_by_size_.emplace(block.bytes, offset);
  free_resident_ += block.resident;
}

void Heap::give_back_pages(uint64_t offset, FreeBlock& block) {
  if (fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(block.bytes)) == 0) {
    block.resident = 0;
  }
}

size_t Heap::bytes_in_use() const {
  return in_use_.load(std::memory_order_relaxed);
}

size_t Heap::bytes_reserved() const {
  const std::lock_guard lock(mutex_);
  return frontier_;
}

}  // namespace convoy::host
