#pragma once

#include "ckpt/cluster/cluster.pb.h"
#include "ckpt/replica/peer_memory.h"
#include "ckpt/replica/replicator.h"
#include "ckpt/service/cluster.h"
#include <convoy/rpc/channel.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

namespace convoy::ckpt {

// A node's line to its coordinator: one thread joins and follows the events, one sends what is
// reported. A coordinator that is away is looked for until the link ends.
class Link final : public NodeLink {
 public:
  // What it needs of its agent, which outlives it.
  struct Agent {
    std::string address;
    std::function<Result<std::unique_ptr<rpc::Channel>>(const std::string& address)> connect;
    std::shared_ptr<PeerMemory> memory;  // shared with the server's calls
  };
  Link(NodeIdentity self, Agent agent, std::unique_ptr<rpc::Channel> coordinator,
       const ReplicaOptions& replicas, std::function<void(const StepEvent&)> on_event);
  ~Link() override;
  void has_rank(uint32_t rank) override;
  void want(uint64_t step, Overtake policy, bool everywhere) override;
  void staged(uint64_t step) override;
  void wrote(uint64_t step, const Result<PartSummary>& part,
             const std::map<std::string, std::string>& notes) override;
  void lost(uint64_t step, const Status& why) override;
  void replicated(uint64_t step, const Status& status) override;
  void replicate(std::shared_ptr<const NodeImage> image) override;
  void settle(uint64_t step) override;
  void forget_image(uint64_t step) override;

 private:
  void report(proto::Item item);
  void follow_events();
  Status join();
  Status follow_once();
  void send_reports();
  bool pause(Nanos time);
  void tell(StepEvent::Kind kind, const Status& status);

  const NodeIdentity self_;
  const Agent agent_;
  const std::unique_ptr<rpc::Channel> channel_;
  const std::function<void(const StepEvent&)> on_event_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<proto::Item> items_;
  std::set<uint32_t> ranks_;
  bool joined_ = false, ending_ = false;
  uint64_t incarnation_ = 0, next_ = 0;
  Nanos hold_{}, silence_{};
  std::thread follower_, reporter_;
  std::unique_ptr<Replicator> replicator_;  // if there are replicas
};

}  // namespace convoy::ckpt
