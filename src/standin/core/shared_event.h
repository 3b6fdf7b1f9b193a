#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

// An event that several processes of this machine record and wait for: cudaEventInterprocess.
namespace convoy::standin {

// How another process reaches it. Plain bytes.
struct SharedEventName {
  int32_t pid = 0, fd = -1;
  uint64_t inode = 0;
};

// Two counters in a memfd: records so far, and how many of them a stream has come to.
class SharedEvent {
 public:
  // Null and `why` when the system refuses, or the process that made it has gone.
  static std::shared_ptr<SharedEvent> make(std::string& why);
  static std::shared_ptr<SharedEvent> open(const SharedEventName& name, std::string& why);
  ~SharedEvent();
  SharedEvent(const SharedEvent&) = delete;
  SharedEvent& operator=(const SharedEvent&) = delete;

  const SharedEventName& name() const { return name_; }
  // A record: its number now, and finish() with it when the stream has come there.
  uint64_t begin();
  void finish(uint64_t number);
  uint64_t recorded() const;
  bool is_reached(uint64_t number) const;
  // Blocks until record `number` is reached. False: the maker has ended, and nobody will reach it.
  bool await(uint64_t number) const;

 private:
  struct Counters;
  SharedEvent(SharedEventName name, Counters* counters, int fd)
      : name_(name), counters_(counters), fd_(fd) {}

  const SharedEventName name_;
  Counters* const counters_;
  const int fd_;  // kept open by the maker, so that others find it
};

}  // namespace convoy::standin
