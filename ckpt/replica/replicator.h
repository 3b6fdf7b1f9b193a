#pragma once

#include "ckpt/replica/placement.h"
#include "ckpt/service/node_image.h"
#include <convoy/base/clock.h>
#include <convoy/rpc/channel.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace convoy::ckpt {

// All nodes of a generation, by node.
struct Roster {
  std::vector<std::string> addresses, domains;
};

// From the coordinator; kUnavailable until all nodes of the generation are there, naming those that
// are not. Blocks.
Result<Roster> ask_roster(rpc::Channel& coordinator, uint64_t generation, Nanos timeout);

struct ReplicatorOptions {
  uint32_t node = 0;
  ReplicaScheme scheme;
  uint64_t bandwidth = 0;  // bytes/s that this node sends; 0: no limit
  // Both may block; called on the replicator's thread.
  std::function<Result<Roster>()> roster;
  std::function<Result<std::unique_ptr<rpc::Channel>>(const std::string& address)> connect;
  std::function<void(uint64_t step, const Status& status)> done;
};

// Blocks of a piece in one message, at most.
inline constexpr uint64_t kPutBlocksMax = 16;

// Cuts this node's snapshots into pieces and sends them to the nodes that keep them, one step after
// the other, on a thread of its own. Memory: two batches of kPutBlocksMax blocks for each of the
// k + m pieces (8 MiB × (k + m)). Thread-safe.
class Replicator {
 public:
  explicit Replicator(ReplicatorOptions options);
  ~Replicator();  // breaks off
  // `done` is called for each, unless it is cancelled.
  void submit(std::shared_ptr<const NodeImage> image);
  const ReplicaScheme& scheme() const { return options_.scheme; }
  // When it returns, the step's bytes are no longer read.
  void cancel(uint64_t step);

 private:
  struct Batch;
  void main();
  Status send(const NodeImage& image);
  Status ask_holders(const NodeImage& image, const std::string& method,
                     const std::function<std::string(uint32_t piece)>& message);
  Status prepare(const NodeImage& image);
  void gather(const NodeImage& image, uint64_t first, Batch& batch) const;
  void put(const NodeImage& image, uint64_t first, const std::shared_ptr<Batch>& batch);
  bool pay(uint64_t bytes);
  bool stopped();
  void break_off(std::unique_lock<std::mutex>& lock);
  Result<std::shared_ptr<rpc::Channel>> channel_to(const std::string& address);

  const ReplicatorOptions options_;
  std::vector<std::shared_ptr<rpc::Channel>> holders_;  // the thread's, by piece
  std::vector<uint32_t> holder_nodes_;
  TimePoint paid_{};
  bool warned_ = false;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  // By address; shared with who breaks off what waits for a peer.
  std::map<std::string, std::shared_ptr<rpc::Channel>> channels_;
  std::deque<std::shared_ptr<const NodeImage>> queued_;
  std::shared_ptr<const NodeImage> working_;
  bool cancelled_ = false, ending_ = false;
  std::thread thread_;
};

}  // namespace convoy::ckpt
