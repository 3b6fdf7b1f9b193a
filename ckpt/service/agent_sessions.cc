// Sessions: who is connected, what they asked for, and what waits for an answer. Fault points
// ckpt.agent.{hello,acquire,staged,answer,wait}.kill: the process dies when it was asked that, and
// once it has taken a snapshot over, before it says so.
#include "ckpt/service/agent_server.h"
#include "ckpt/service/protocol.h"
#include <convoy/base/fault.h>
#include <convoy/base/log.h>
#include <convoy/base/packet.h>

#include <algorithm>
#include <sys/epoll.h>
#include <sys/socket.h>

namespace convoy::ckpt {
namespace {

constexpr size_t kSessionsMax = 4096;
constexpr Nanos kPatience = std::chrono::seconds(1);  // of Overtake::kWaitBriefly

proto::Answer done() {
  proto::Answer answer;
  answer.set_done(true);
  return answer;
}

Workers workers_of(const proto::Hello& hello) {
  Workers w;
  w.job = hello.job();
  w.generation = hello.generation();
  w.world_size = hello.world_size();
  w.local_size = hello.local_size();
  w.mesh = hello.mesh();
  w.folder = hello.folder();
  w.keep_newest = hello.keep_newest();
  w.keep_every = hello.keep_every();
  w.disk_every = hello.disk_every();
  w.bandwidth = hello.bandwidth();
  w.incremental = hello.incremental();
  w.take_over = hello.take_over();
  w.compress = static_cast<int>(hello.compress());
  w.remote = hello.remote();
  w.remote_every = hello.remote_every();
  w.remote_keep_newest = hello.remote_keep_newest();
  w.remote_keep_every = hello.remote_keep_every();
  w.remote_bandwidth = hello.remote_bandwidth();
  w.remote_compress = static_cast<int>(hello.remote_compress());
  w.node = hello.node();
  w.nodes = std::max<uint32_t>(1, hello.nodes());
  w.coordinator = hello.coordinator();
  w.domain = hello.domain();
  w.step_timeout = Nanos(hello.step_timeout_ns());
  w.peer_timeout = Nanos(hello.peer_timeout_ns());
  w.replica_k = std::max<uint32_t>(1, hello.replica_k());
  w.replica_m = hello.replica_m();
  w.replica_bandwidth = hello.replica_bandwidth();
  return w;
}

}  // namespace

void Agent::on_connect() {
  UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd) return;
  if (!is_own_peer(fd.get()) || sessions_.size() >= kSessionsMax || ending_) {
    CONVOY_LOG(Warn) << "a connection was refused";
    return;
  }
  loop_->cancel(idle_);
  Session& session = sessions_.emplace_back();
  session.fd = std::move(fd);
  const Status watched = loop_->watch(session.fd.get(), EPOLLIN | EPOLLRDHUP,
                                      [this, &session](uint32_t) { on_packet(session); });
  if (!watched.ok()) close(session);
}

void Agent::on_packet(Session& session) {
  Result<Packet> packet = receive_packet(session.fd.get());
  if (!packet.ok() || packet->ended) {
    close(session);
    return sweep();
  }
  if (packet->nothing) return;
  proto::Ask ask;
  // Nonsense, or a question before the last one was answered: such a client can't be served.
  if (!ask.ParseFromString(packet->bytes) || session.waiting) {
    CONVOY_LOG(Warn) << "a client that speaks nonsense is dropped";
    close(session);
    return sweep();
  }
  const Status status = handle(session, ask);
  if (!status.ok()) fail(session, status);
  sweep();
}

void Agent::close(Session& session) {
  if (session.gone) return;
  session.gone = true;
  if (session.has_deadline) loop_->cancel(session.deadline);
  loop_->unwatch(session.fd.get());
  session.waiting = nullptr;
  session.fd.reset();
  if (session.job != nullptr) session.job->lose(session.rank);
}

// Not within a session's own call.
void Agent::sweep() {
  sessions_.remove_if([](const Session& s) { return s.gone; });
  rest();
}

Status Agent::handle(Session& session, const proto::Ask& ask) {
  if (ask.has_hello()) return hello(session, ask.hello());
  if (ask.has_find()) return find(session);  // also for who only wants to read
  if (ask.has_address()) {
    CONVOY_RETURN_IF_ERROR(ensure_cluster());
    proto::Answer out;
    out.set_address(cluster_->address());
    answer(session, out);
    return ok_status();
  }
  if (ask.has_counters()) {
    proto::Answer out;
    out.mutable_counters();
    if (scrubber_ != nullptr) {
      for (const auto& [name, value] : scrubber_->counters()) {
        (*out.mutable_counters()->mutable_values())["scrub." + name] = value;
      }
    }
    answer(session, out);
    return ok_status();
  }
  if (ask.has_ping()) {
    answer(session, done());
    return ok_status();
  }
  if (session.job == nullptr) return {Code::kFailedPrecondition, "Hello comes first"};
  if (ask.has_reserve()) return reserve(session, ask.reserve());
  if (ask.has_acquire()) return acquire(session, ask.acquire());
  if (ask.has_staged()) return staged(session, ask.staged());
  if (ask.has_wait()) return wait(session, ask.wait());
  return {Code::kInvalidArgument, "a question that this agent does not know"};
}

Status Agent::hello(Session& session, const proto::Hello& hello) {
  fault::die_at("ckpt.agent.hello.kill");
  if (hello.version() != kProtocolVersion) {
    return {Code::kFailedPrecondition,
            "the agent and the trainer are of different Convoys: start both from one installation"};
  }
  const Workers workers = workers_of(hello);
  if (workers.local_size < 1 || workers.world_size < workers.local_size ||
      hello.rank() >= workers.world_size) {
    return {Code::kInvalidArgument, "rank " + std::to_string(hello.rank()) + " of " +
                                        std::to_string(workers.world_size) + " with " +
                                        std::to_string(workers.local_size) + " on this node"};
  }
  if (workers.nodes == 1 && workers.world_size != workers.local_size) {
    return {Code::kFailedPrecondition,
            "this job has ranks on other machines: its ranks must say so (ClientOptions::node, "
            "nodes, and the coordinator that agent_address() of node 0's agent gives)"};
  }
  if (workers.nodes > 1 && (workers.node >= workers.nodes || workers.coordinator.empty() ||
                            workers.nodes > workers.world_size)) {
    return {Code::kInvalidArgument, "node " + std::to_string(workers.node) + " of " +
                                        std::to_string(workers.nodes) + " with coordinator '" +
                                        workers.coordinator + "'"};
  }
  CONVOY_ASSIGN_OR_RETURN(session.job, job_for(workers));
  session.rank = hello.rank();
  session.job->has_rank(session.rank);
  answer(session, done());
  return ok_status();
}

Status Agent::reserve(Session& session, const proto::Reserve& reserve) {
  CONVOY_ASSIGN_OR_RETURN(const std::shared_ptr<Arena> arena,
                          session.job->reserve(session.rank, reserve.bytes()));
  proto::Answer slots;
  slots.mutable_slots()->set_arena_bytes(arena->size());
  slots.mutable_slots()->set_slot_bytes(session.job->slot_bytes(session.rank));
  answer(session, slots, arena->fd());
  return ok_status();
}

Status Agent::acquire(Session& session, const proto::Acquire& acquire) {
  fault::die_at("ckpt.agent.acquire.kill");
  if (ending_) return {Code::kUnavailable, "the agent is ending"};
  const auto policy = static_cast<Overtake>(std::min<uint32_t>(acquire.overtaking(), 3));
  const uint64_t step = acquire.step();
  const TimePoint began = Clock::system().now();
  const auto attempt = [this, &session, step, policy, began, everywhere = acquire.everywhere()] {
    const Nanos waited = Clock::system().now() - began;
    const bool skips = policy == Overtake::kWaitBriefly &&
                       std::max(waited, session.job->disk_busy_for()) >= kPatience;
    const Result<AgentJob::Slot> slot =
        session.job->acquire(session.rank, step, skips ? Overtake::kSkip : policy, everywhere);
    if (!slot.ok()) {
      fail(session, slot.status());
      return true;
    }
    proto::Answer out;
    switch (slot->decision.verdict) {
      case SnapshotTable::Verdict::kBusy:
        return false;
      case SnapshotTable::Verdict::kSkipped:
        out.set_skipped(slot->decision.why);
        break;
      case SnapshotTable::Verdict::kGranted:
        out.mutable_slot()->set_offset(slot->offset);
    }
    answer(session, out);
    return true;
  };
  const Status late(Code::kDeadlineExceeded,
                    "no room for step " + std::to_string(step) +
                        ": two earlier saves are still being written. Save less often, or let the "
                        "policy skip");
  when_possible(session, acquire.timeout_ns(), attempt, late,
                [&session, step, late] { session.job->give_up(step, late); });
  if (policy == Overtake::kWaitBriefly && session.waiting) {
    loop_->after(kPatience, [this] { retry_waiting(); });
  }
  return ok_status();
}

Status Agent::staged(Session& session, const proto::Staged& staged) {
  fault::die_at("ckpt.agent.staged.kill");
  StagedSnapshot where;
  where.stream_bytes = staged.stream_bytes();
  where.part_offset = staged.part_offset();
  where.part_bytes = staged.part_bytes();
  std::map<std::string, std::string> notes(staged.notes().begin(), staged.notes().end());
  CONVOY_RETURN_IF_ERROR(session.job->stage(session.rank, staged.step(), where, std::move(notes)));
  tell_what_is_owed();
  fault::die_at("ckpt.agent.answer.kill");
  answer(session, done());
  if (session.job == job_ && job_->newest()) before_.reset();
  return ok_status();
}

Status Agent::wait(Session& session, const proto::Wait& wait) {
  fault::die_at("ckpt.agent.wait.kill");
  if (wait.tier() >= kTiers) return {Code::kInvalidArgument, "there is no such tier"};
  const auto tier = static_cast<Tier>(wait.tier());
  const uint64_t step = wait.step();
  const auto attempt = [this, &session, step, tier] {
    const Result<bool> reached = session.job->reached(session.rank, step, tier);
    if (reached.ok() && !reached.value()) return false;
    reached.ok() ? answer(session, done()) : fail(session, reached.status());
    return true;
  };
  when_possible(session, wait.timeout_ns(), attempt,
                {Code::kDeadlineExceeded, "step " + std::to_string(step) + " is not " +
                                              std::string(tier_name(tier)) + " yet"});
  return ok_status();
}

Status Agent::find(Session& session) {
  std::optional<AgentJob::Found> found;
  if (job_ != nullptr) found = job_->newest();
  if (!found && before_ != nullptr) found = before_->newest();
  proto::Answer out;
  proto::Found& text = *out.mutable_found();
  text.set_any(found.has_value());
  if (found) {
    text.set_step(found->step);
    text.set_world_size(found->world_size);
    text.set_held(static_cast<uint32_t>(found->ranks.size()));
  }
  answer(session, out);
  if (!found) return ok_status();
  for (const auto& [rank, where] : found->ranks) {
    proto::Answer held;
    proto::HeldSnapshot& snapshot = *held.mutable_snapshot();
    snapshot.set_rank(rank);
    snapshot.set_arena_bytes(where.arena->size());
    snapshot.set_offset(where.offset);
    snapshot.set_stream_bytes(where.stream_bytes);
    snapshot.set_part_offset(where.part_offset);
    snapshot.set_part_bytes(where.part_bytes);
    answer(session, held, where.arena->fd());
  }
  return ok_status();
}

// The socket does not block: a client that doesn't read its answers is dropped.
void Agent::answer(Session& session, const proto::Answer& answer, int fd) {
  if (session.gone) return;
  const Status sent = send_packet(session.fd.get(), answer.SerializeAsString(), fd);
  if (!sent.ok()) close(session);
}

void Agent::fail(Session& session, const Status& status) {
  proto::Answer out;
  out.mutable_failure()->set_code(static_cast<uint32_t>(status.code()));
  out.mutable_failure()->set_text(status.message());
  answer(session, out);
}

void Agent::when_possible(Session& session, uint64_t timeout_ns, std::function<bool()> attempt,
                          Status late, std::function<void()> gave_up) {
  if (attempt()) return;
  session.waiting = std::move(attempt);
  session.has_deadline = true;
  session.deadline = loop_->after(
      Nanos(timeout_ns), [this, &session, late = std::move(late), gave_up = std::move(gave_up)] {
        session.waiting = nullptr;
        session.has_deadline = false;
        if (gave_up) gave_up();
        fail(session, late);
      });
}

// A session's answer may change what others wait for, so once more as long as one got through.
void Agent::retry_waiting() {
  if (retrying_) return;
  retrying_ = true;
  post([this] {
    retrying_ = false;
    for (Session& session : sessions_) {
      if (session.gone || !session.waiting) continue;
      const auto attempt = std::move(session.waiting);
      session.waiting = nullptr;
      if (!attempt()) {
        session.waiting = attempt;
        continue;
      }
      if (session.has_deadline) loop_->cancel(session.deadline);
      session.has_deadline = false;
    }
    sweep();
  });
}

}  // namespace convoy::ckpt
