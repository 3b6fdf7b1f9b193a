#pragma once

#include "ckpt/cluster/cluster.pb.h"
#include "ckpt/cluster/step_board.h"
#include <convoy/rpc/server.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

namespace convoy::ckpt {

// The coordinator of one generation: receives reports, lets the board decide, and hands its events
// to all nodes. Calls may come from any thread and don't block. One thread of its own watches the
// clock and builds commit records.
//
// Cost of a step: 2 reports and 3 events a node (want or granted, staged and whole, wrote, write
// and committed), and the summary of each part (some 100 bytes a tensor); no part is read.
class Coordinator : public std::enable_shared_from_this<Coordinator> {
 public:
  static std::shared_ptr<Coordinator> create(CoordinatorOptions options);
  ~Coordinator();

  void join(const std::shared_ptr<rpc::Call>& call);
  void report(const std::shared_ptr<rpc::Call>& call);
  void follow(const std::shared_ptr<rpc::Call>& call);
  void roster(const std::shared_ptr<rpc::Call>& call);
  // Answers all who wait. No `done` of the disk does anything afterwards.
  void end();

  const NodeIdentity& self() const { return options_.self; }
  struct Counts {
    uint64_t calls = 0, bytes_in = 0, bytes_out = 0;
    double build_s = 0;  // spent on commit records
  };
  Counts counts() const;

 private:
  struct Node {
    bool joined = false;
    uint64_t incarnation = 0;
    std::string address, domain;
    TimePoint seen;
    std::shared_ptr<rpc::Call> waiting;  // its Follow
    uint64_t next = 0;                   // that it asks for
  };
  explicit Coordinator(CoordinatorOptions options);
  Status check(const NodeIdentity& node) const;
  Status check_member(uint64_t generation, uint32_t node, uint64_t incarnation) const;
  void take(const proto::Item& item, uint32_t node, std::unique_ptr<PartSummary> part);
  void pump(std::unique_lock<std::mutex>& lock);
  std::string events_from(uint64_t next) const;
  void main();
  void watch();
  Commit commit_head(uint64_t step) const;
  void commit(uint64_t step, std::unique_lock<std::mutex>& lock);
  void finish(const std::shared_ptr<rpc::Call>& call, Result<rpc::Message> answer);

  const CoordinatorOptions options_;
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  StepBoard board_;
  std::vector<Node> nodes_;
  std::deque<std::string> log_;  // events, encoded
  uint64_t log_begin_ = 0;       // number of the first
  // Parts are merged as they come: what is kept of them is what the commit record will say.
  struct Written {
    CommitBuilder builder;
    std::vector<File> files;
    std::map<std::string, std::string> notes;
    Status status;
  };
  std::map<uint64_t, Written> written_;
  std::optional<uint64_t> to_commit_;
  bool ending_ = false;
  Counts counts_;
  std::thread thread_;
};

}  // namespace convoy::ckpt
