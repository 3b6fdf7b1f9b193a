#pragma once

#include "ckpt/service/agent_job.h"
#include <convoy/base/clock.h>
#include <convoy/ckpt/disk_file.h>
#include <convoy/ckpt/scrub.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace convoy::ckpt {

// What the agent's memory holds of a step.
struct HeldCopy {
  uint64_t generation = 0;
  AgentJob::Found step;
};

struct ScrubberOptions {
  std::string folder;
  Nanos every{0};          // between the beginnings of two passes
  uint64_t bandwidth = 0;  // bytes/s; 0: no limit
  std::string remote;      // the remote tier's URI, "": none. Opened when something is damaged
  // Asked on the scrubber's thread. A slot may be written anew meanwhile: checksums tell.
  std::function<std::optional<HeldCopy>()> held;
};

// Reads all committed steps of the folder again and again, on a thread of the lowest priority, and
// mends what is damaged from the agent's memory, as long as that has the step, and from the remote
// tier. Tells of damage in the log.
class Scrubber {
 public:
  explicit Scrubber(ScrubberOptions options);
  // Stops at the next batch.
  ~Scrubber();

  // "passes", "chunks", "bytes" read; "bad" (chunks, parts), "healed" (files), "left" (files that
  // stayed damaged, each pass anew). Any thread.
  std::map<std::string, uint64_t> counters() const;

 private:
  void main();
  Status pass();
  Status scrub_step(Store& store, Catalog& catalog, const StepInfo& info,
                    const std::set<uint64_t>& older);
  void count(const std::string& name, uint64_t more);

  const ScrubberOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;  // guarded by mutex_, as what follows
  std::map<std::string, uint64_t> counters_;
  std::shared_ptr<DiskEngine> engine_;  // set once, by the thread
  std::thread thread_;
};

}  // namespace convoy::ckpt
