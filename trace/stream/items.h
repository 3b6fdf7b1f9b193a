#pragma once

#include "trace/stream/bytes.h"
#include <convoy/base/status.h>
#include <convoy/trace/stream.h>

#include <map>
#include <memory>
#include <string>

// A stream: jobs, batches and clock samples one behind the other, as files and messages hold them.
namespace convoy::trace {

enum class Item : uint8_t { kJob = 1, kBatch = 2, kClock = 3 };

class ItemWriter {
 public:
  explicit ItemWriter(const Registry& registry) : registry_(registry) {}
  void job(const JobInfo& job, std::string& to);
  void batch(const Batch& batch, std::string& to);
  void clock(const ClockSample& sample, std::string& to);
  // From here on as if nothing had been written.
  void restart() { encoders_.clear(); }

 private:
  void put(Item kind, std::string& to);

  const Registry& registry_;
  std::map<uint32_t, std::unique_ptr<BatchEncoder>> encoders_;  // by rank
  std::string item_;
};

class ItemReader {
 public:
  explicit ItemReader(Registry& registry) : decoder_(registry) {}
  // Gives all that `bytes` holds to `to`. kDataLoss: damaged; what was before that has been given.
  // `received`: for batches that carry no time of arrival.
  Status read(std::span<const std::byte> bytes, Sink& to, int64_t received = 0);

 private:
  BatchDecoder decoder_;
  Batch batch_;
};

}  // namespace convoy::trace
