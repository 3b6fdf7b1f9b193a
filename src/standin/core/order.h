#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

// Finds accesses to the same bytes that nothing orders, whether or not it went well this time.
//
// Every stream and the host have a vector clock, one component for each of them (Lamport/Mattern
// clocks as in FastTrack, Flanagan and Freund 2009, on byte ranges). A task ticks its stream's own
// component; stream waits, host synchronisation and launches join clocks. An access is ordered
// after an earlier one if the earlier one's tick is known in its clock.
namespace convoy::standin {

class OrderChecker {
 public:
  using Actor = uint32_t;  // 0 is the host, others are streams
  using Clock = std::vector<uint64_t>;
  static constexpr Actor kHost = 0;
  // `clock` knows from then on what `other` knows.
  static void merge_clock(Clock& clock, const Clock& other);

  struct Access {
    const void* data = nullptr;
    size_t bytes = 0;
    bool writes = false;
  };

  Actor add(std::string name);  // "stream 7 of device 0"

  // The actor performs a task after all that `after` knows. Returns the actor's clock behind it;
  // what is wrong is appended to `findings`, one text for each earlier task that is not ordered.
  Clock perform(Actor actor, const std::string& task, const std::vector<Access>& accesses,
                const Clock& after, std::vector<std::string>& findings);
  // The actor knows from now on what `clock` knows.
  void join(Actor actor, const Clock& clock);
  Clock clock(Actor actor) const;
  // The bytes begin a new life: nothing that happened to them before counts.
  void forget(const void* data, size_t bytes);

 private:
  struct Event {
    Actor actor = 0;
    uint64_t tick = 0;
    std::string task;
  };
  struct Segment {  // of bytes with one history
    uintptr_t end = 0;
    Event writer;                // tick 0: none
    std::vector<Event> readers;  // since then, the last of each actor
  };
  using Segments = std::map<uintptr_t, Segment>;

  bool knows(const Clock& clock, const Event& event) const;
  void split(uintptr_t at);
  void cover(uintptr_t begin, uintptr_t end);
  void merge(uintptr_t begin, uintptr_t end);
  std::string text(const Event& before, const Event& now, bool was_write, bool is_write,
                   uintptr_t begin, uintptr_t end) const;

  mutable std::mutex mutex_;
  std::vector<std::string> names_{"the host"};
  std::vector<Clock> clocks_{Clock(1, 1)};
  Segments segments_;
};

}  // namespace convoy::standin
