#include "src/standin/core/shared_event.h"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

namespace convoy::standin {
namespace {

constexpr size_t kPage = 4096;
constexpr auto kLook = std::chrono::microseconds(200);
constexpr int kLooksBetween = 500;  // before the maker is looked for

}  // namespace

struct SharedEvent::Counters {
  std::atomic<uint64_t> recorded{0}, reached{0};
};

std::shared_ptr<SharedEvent> SharedEvent::make(std::string& why) {
  const int fd = ::memfd_create("convoy-event", MFD_CLOEXEC);
  struct stat file {};
  void* at = MAP_FAILED;
  if (fd >= 0 && ::ftruncate(fd, kPage) == 0 && ::fstat(fd, &file) == 0) {
    at = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  }
  if (at == MAP_FAILED) {
    why = std::string("can't make an event for several processes: ") + std::strerror(errno);
    if (fd >= 0) ::close(fd);
    return nullptr;
  }
  const SharedEventName name{::getpid(), fd, file.st_ino};
  return std::shared_ptr<SharedEvent>(new SharedEvent(name, static_cast<Counters*>(at), fd));
}

std::shared_ptr<SharedEvent> SharedEvent::open(const SharedEventName& name, std::string& why) {
  const std::string path = "/proc/" + std::to_string(name.pid) + "/fd/" + std::to_string(name.fd);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  struct stat file {};
  const bool right = fd >= 0 && ::fstat(fd, &file) == 0 && file.st_ino == name.inode;
  void* at = right ? ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  if (fd >= 0) ::close(fd);
  if (at == MAP_FAILED) {
    why =
        "process " + std::to_string(name.pid) + ", which made the event, has gone or destroyed it";
    return nullptr;
  }
  return std::shared_ptr<SharedEvent>(new SharedEvent(name, static_cast<Counters*>(at), -1));
}

SharedEvent::~SharedEvent() {
  ::munmap(counters_, kPage);
  if (fd_ >= 0) ::close(fd_);
}

uint64_t SharedEvent::begin() {
  return counters_->recorded.fetch_add(1, std::memory_order_acq_rel) + 1;
}

void SharedEvent::finish(uint64_t number) {
  uint64_t before = counters_->reached.load(std::memory_order_relaxed);
  while (before < number && !counters_->reached.compare_exchange_weak(before, number)) {
  }
}

uint64_t SharedEvent::recorded() const {
  return counters_->recorded.load(std::memory_order_acquire);
}

bool SharedEvent::is_reached(uint64_t number) const {
  return counters_->reached.load(std::memory_order_acquire) >= number;
}

bool SharedEvent::await(uint64_t number) const {
  for (int look = 1; !is_reached(number); ++look) {
    std::this_thread::sleep_for(kLook);
    if (look % kLooksBetween == 0 && ::kill(name_.pid, 0) != 0) return is_reached(number);
  }
  return true;
}

}  // namespace convoy::standin
