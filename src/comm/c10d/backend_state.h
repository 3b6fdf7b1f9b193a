#pragma once

#include "src/comm/c10d/work.h"
#include <convoy/comm/backend.h>
#include <convoy/comm/host/group.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace convoy::comm {

// What one thread started between startCoalescing() and endCoalescing().
struct Batch {
  std::thread::id owner;
  std::optional<Operation> collectives;
  std::vector<TransferWork::Message> messages;
};

struct Backend::State {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<Options> options;
  std::string handle;  // names this instance in reconfigure()
  std::shared_ptr<Lane> lane = std::make_shared<Lane>();
  std::shared_ptr<HookTable> hooks = std::make_shared<HookTable>();
  std::atomic<uint64_t> sequence = 0;  // collectives that were called

  mutable std::mutex mutex;            // guards what follows
  std::shared_ptr<host::Group> group;  // null before the first reconfigure() and after shutdown()
  std::string name;                    // of the present membership
  std::string why_no_group;
  std::set<int64_t> used_uuids;
  std::optional<Batch> batch;
};

}  // namespace convoy::comm
