#pragma once

#include "ckpt/cluster/cluster.pb.h"
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
  // `address`: of this node's own agent.
  Link(NodeIdentity self, std::string address, std::unique_ptr<rpc::Channel> coordinator,
       std::function<void(const StepEvent&)> on_event);
  ~Link() override;
  void has_rank(uint32_t rank) override;
  void want(uint64_t step, Overtake policy) override;
  void staged(uint64_t step) override;
  void wrote(uint64_t step, const Result<PartSummary>& part,
             const std::map<std::string, std::string>& notes) override;
  void lost(uint64_t step, const Status& why) override;
  void replicated(uint64_t step, const Status& status) override;

 private:
  void report(proto::Item item);
  void follow_events();
  Status join();
  Status follow_once();
  void send_reports();
  bool pause(Nanos time);
  void tell(StepEvent::Kind kind, const Status& status);

  const NodeIdentity self_;
  const std::string address_;
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
};

}  // namespace convoy::ckpt
