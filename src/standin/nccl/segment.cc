// The memfd is sparse and zero, which is every field's beginning, so whoever opens it first needs
// no more set-up than the one who made it.
#include "src/standin/nccl/segment.h"

#include <cerrno>
#include <climits>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <iterator>
#include <linux/futex.h>
#include <mutex>
#include <random>
#include <set>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <type_traits>
#include <unistd.h>

namespace convoy::standin::nccl {
namespace {

constexpr uint64_t kMagic = 0x636f6e766f796964;

const char* const kFunctions[] = {"nothing", "AllGather", "AllReduce",     "AlltoAll",  "Broadcast",
                                  "Gather",  "Reduce",    "ReduceScatter", "Scatter",   "Send",
                                  "Recv",    "PutSignal", "Signal",        "WaitSignal"};
const char* const kTypes[] = {"int8",    "uint8",   "int32",   "uint32",   "int64",   "uint64",
                              "float16", "float32", "float64", "bfloat16", "fp8e4m3", "fp8e5m2"};
const char* const kOperators[] = {"sum", "prod", "max", "min", "avg", "premultiplied sum"};

std::mutex owned_mutex;
std::set<int> owned;  // descriptors

uint64_t inode_of(int fd) {
  struct stat file {};
  return ::fstat(fd, &file) == 0 ? file.st_ino : 0;
}

std::string error_text(const std::string& what) {
  return what + ": " + std::strerror(errno);
}

}  // namespace

const char* name_of(Function function) {
  const auto number = static_cast<size_t>(function);
  return number < std::size(kFunctions) ? kFunctions[number] : "an unknown operation";
}

std::string text_of(const OpRecord& op) {
  std::string text = name_of(op.function);
  // It may be a mixture of two.
  if (op.function >= Function::signal || op.dtype >= std::size(kTypes) ||
      op.redop >= std::size(kOperators))
    return text;
  text += " of " + std::to_string(op.count) + " " + kTypes[op.dtype];
  switch (op.function) {
    case Function::all_reduce:
    case Function::reduce:
    case Function::reduce_scatter:
      text += std::string(" (") + kOperators[op.redop] + ")";
      break;
    default:
      break;
  }
  switch (op.function) {
    case Function::broadcast:
    case Function::gather:
    case Function::reduce:
    case Function::scatter:
      return text + " with root " + std::to_string(op.root);
    case Function::send:
    case Function::put:
      return text + " to rank " + std::to_string(op.root);
    case Function::recv:
      return text + " from rank " + std::to_string(op.root);
    default:
      return text;
  }
}

OpRecord RankSlot::op() const {
  static_assert(std::is_trivially_copyable_v<OpRecord> && sizeof(OpRecord) % 8 == 0);
  std::array<uint64_t, sizeof(OpRecord) / 8> words;
  for (size_t i = 0; i < words.size(); ++i) words[i] = op_words[i].load(std::memory_order_relaxed);
  OpRecord op;
  std::memcpy(static_cast<void*>(&op), words.data(), sizeof op);
  return op;
}

void RankSlot::show(const OpRecord& op) {
  std::array<uint64_t, sizeof(OpRecord) / 8> words;
  std::memcpy(words.data(), &op, sizeof op);
  for (size_t i = 0; i < words.size(); ++i) op_words[i].store(words[i], std::memory_order_relaxed);
}

uint32_t Barrier::arrive(int members) {
  const auto n = static_cast<uint64_t>(members);
  const uint64_t place = arrived.fetch_add(1, std::memory_order_acq_rel);
  const auto target = static_cast<uint32_t>(place / n + 1);
  if (place % n == n - 1) {
    round.store(target, std::memory_order_release);
    futex_wake(round);
  }
  return target;
}

bool SegmentOwner::make(UniqueId& id, std::string& why) {
  const int fd = ::memfd_create("convoy-nccl", MFD_CLOEXEC);
  if (fd < 0 || ::ftruncate(fd, sizeof(Segment)) != 0) {
    why = error_text("can't make the communicator's shared memory");
    if (fd >= 0) ::close(fd);
    return false;
  }
  std::random_device random;
  id = {kMagic, ::getpid(), fd, inode_of(fd), (uint64_t{random()} << 32) | random()};
  if (::pwrite(fd, &id.magic, sizeof id.magic, offsetof(Segment, magic)) < 0 ||
      ::pwrite(fd, &id.nonce, sizeof id.nonce, offsetof(Segment, nonce)) < 0) {
    why = error_text("can't write the communicator's shared memory");
    ::close(fd);
    return false;
  }
  const std::lock_guard lock(owned_mutex);
  owned.insert(fd);
  return true;
}

void SegmentOwner::close(const UniqueId& id) {
  const std::lock_guard lock(owned_mutex);
  if (id.pid == ::getpid() && owned.erase(id.fd) != 0) ::close(id.fd);
}

std::shared_ptr<Segment> open_segment(const UniqueId& id, std::string& why) {
  if (id.magic != kMagic) {
    why = "the unique id isn't one of ncclGetUniqueId";
    return nullptr;
  }
  const std::string process = "process " + std::to_string(id.pid) + ", which made the unique id,";
  const std::string path = "/proc/" + std::to_string(id.pid) + "/fd/" + std::to_string(id.fd);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0 || inode_of(fd) != id.inode) {
    why = fd < 0 ? error_text("can't reach " + process)
                 : process + " has given it up: an id serves one communicator";
    if (fd >= 0) ::close(fd);
    return nullptr;
  }
  void* at =
      ::mmap(nullptr, sizeof(Segment), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (at == MAP_FAILED) why = error_text("can't map the communicator's shared memory");
  ::close(fd);
  if (at == MAP_FAILED) return nullptr;
  auto* segment = static_cast<Segment*>(at);
  if (segment->nonce != id.nonce) {
    why = "the unique id is damaged";
    ::munmap(at, sizeof(Segment));
    return nullptr;
  }
  return {segment, [](Segment* s) { ::munmap(s, sizeof(Segment)); }};
}

void futex_wait(std::atomic<uint32_t>& word, uint32_t seen, std::chrono::milliseconds limit) {
  const timespec time{limit.count() / 1000, limit.count() % 1000 * 1000000};
  ::syscall(SYS_futex, &word, FUTEX_WAIT, seen, &time, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace convoy::standin::nccl
