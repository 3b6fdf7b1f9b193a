#pragma once

#include "ckpt/service/agent_job.h"
#include "ckpt/service/messages.pb.h"
#include "ckpt/service/scrubber.h"
#include <convoy/base/event_loop.h>
#include <convoy/base/fd.h>
#include <convoy/ckpt/agent.h>

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

// run_agent()'s object. One thread, but for post(). agent.cc: its life; agent_sessions.cc: who is
// connected, what they ask for and what waits for an answer; agent_tiers.cc: which job and tiers it
// serves. What a step is and how far it has come is agent_job.cc's.
namespace convoy::ckpt {

class Agent {
 public:
  explicit Agent(AgentOptions options) : options_(std::move(options)) {}
  Status run();

 private:
  struct Session {
    UniqueFd fd;
    std::shared_ptr<AgentJob> job;  // once it has said Hello; shared with its other ranks
    uint32_t rank = 0;
    std::function<bool()> waiting;  // tries to answer; true: it has
    EventLoop::TimerId deadline{};
    bool has_deadline = false;
    bool gone = false;
  };

  Status watch();
  Status watch_signals();
  void on_connect();
  void on_packet(Session& session);
  void close(Session& session);
  void sweep();

  Status handle(Session& session, const proto::Ask& ask);
  Status hello(Session& session, const proto::Hello& hello);
  Result<std::shared_ptr<AgentJob>> job_for(const Workers& workers);
  void open_remote(const Workers& workers);
  Status reserve(Session& session, const proto::Reserve& reserve);
  Status acquire(Session& session, const proto::Acquire& acquire);
  Status staged(Session& session, const proto::Staged& staged);
  Status wait(Session& session, const proto::Wait& wait);
  Status find(Session& session);
  Status ensure_cluster();
  void start_scrubber(const std::string& remote_uri);
  std::optional<HeldCopy> held_copy();

  void answer(Session& session, const proto::Answer& answer, int fd = -1);
  void fail(Session& session, const Status& status);
  // Answers when `attempt` can, or with `late` after the time.
  void when_possible(Session& session, uint64_t timeout_ns, std::function<bool()> attempt,
                     Status late, std::function<void()> gave_up = {});
  void retry_waiting();

  void post(std::function<void()> what);  // any thread
  void run_posted();
  void rest();
  void end();
  bool is_writing() const;
  void drain();
  void tell_launcher(const std::string& text);
  void tell_what_is_owed();
  void tell_tiers();

  const AgentOptions options_;
  std::unique_ptr<EventLoop> loop_;
  UniqueFd listener_, signals_, wake_;
  std::list<Session> sessions_;
  std::unique_ptr<Cluster> cluster_;  // once there are other nodes
  std::shared_ptr<DiskTier> disk_;
  std::unique_ptr<Scrubber> scrubber_;
  std::string folder_;
  std::shared_ptr<RemoteTier> remote_;
  std::string remote_place_;
  // Of the newest generation, and of the last one before it that has a whole step.
  std::shared_ptr<AgentJob> job_, before_;
  bool ending_ = false, retrying_ = false;
  std::optional<uint64_t> told_owed_;  // to the launcher
  std::array<std::optional<uint64_t>, kTiers> told_tiers_;
  EventLoop::TimerId idle_{};
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // guarded by mutex_
};

}  // namespace convoy::ckpt
