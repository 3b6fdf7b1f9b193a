#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

// What recording_profiler.cc wrote.
namespace convoy::standin::nccl {

struct RecordedCall {
  int thread = 0;
  std::string call;  // init, start, stop, state, finalize
  uint64_t handle = 0, parent = 0;
  int type = 0, state = 0;
  std::map<std::string, std::string> fields;
  const std::string& operator[](const std::string& name) const;
};

class Recording {
 public:
  explicit Recording(const std::string& path);
  const std::vector<RecordedCall>& calls() const { return calls_; }
  // Starts of the type, in order.
  std::vector<RecordedCall> starts(int type) const;
  // Everything told about the handle, in order: "start 8 10 12 stop".
  std::string life(uint64_t handle) const;
  // "GroupApi< CollApi< CollApi>": starts, stops and states (numbers) of these types in order.
  std::string order(int types) const;

 private:
  std::vector<RecordedCall> calls_;
};

}  // namespace convoy::standin::nccl
