#pragma once

#include "src/resilience/etcd/etcd.h"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

namespace convoy::resilience {

// Which of a job's machines leads it: the one that holds a key in etcd, for as long as it keeps the
// key's lease alive. Each machine contends; what the leader writes it can only write while it
// leads.
class Leadership {
 public:
  struct Self {
    std::string job;
    std::string address;  // HOST:PORT where others reach this machine's supervisor, if it leads
    std::string name;     // of this launcher: its next supervisor takes the key over at once
  };
  struct Leader {
    bool is_self = false;
    std::string address;
  };

  Leadership(std::unique_ptr<Etcd> etcd, Self self);
  // Gives the lead back.
  ~Leadership();

  // One attempt to lead; tells who does. Blocks for seconds. kUnavailable, kDeadlineExceeded: etcd.
  Result<Leader> claim();
  // After claim(): from now on somebody looks. `on_change` is called once, by another thread, when
  // this process leads no more, or the one that led then does not.
  void watch(std::function<void(const std::string& why)> on_change);

  // The job's control state; empty: nobody has written any, or only so long ago that it is of an
  // earlier run of the job.
  Result<std::string> load();
  // kAborted: this process leads no more.
  Status save(const std::string& state);

 private:
  void keep();
  void look();
  std::string leader_key() const { return "/convoy/" + self_.job + "/leader"; }
  std::string state_key() const { return "/convoy/" + self_.job + "/state"; }

  const std::unique_ptr<Etcd> etcd_;
  const Self self_;
  const std::string own_;    // value of the key
  int64_t lease_ = 0;        // of the lead
  int64_t state_lease_ = 0;  // outlives it for a while
  TimePoint kept_at_{};
  int64_t revision_ = 0;  // when claim() looked
  std::string leader_;    // value of the key then
  std::function<void(const std::string& why)> on_change_;
  std::atomic<bool> is_ending_{false};
  std::thread thread_;
};

}  // namespace convoy::resilience
