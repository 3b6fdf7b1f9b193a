// All that a client says is checked here before it reaches a sink. A client that breaks the rules
// is ended, and only that one; a batch that comes too late or twice is counted and left out.
#include "trace/aggregator/intake.h"

#include <algorithm>
#include <utility>

namespace convoy::trace {
namespace {

// A later generation makes the job its own; one that is further away is no such thing.
constexpr uint64_t kGenerationsAhead = 1 << 16;
constexpr size_t kHostsMax = 1 << 16;
constexpr size_t kNamesMax = 1 << 16, kGroupsMax = 1 << 18, kSignaturesMax = 1 << 22;
constexpr size_t kTextMax = 255;
constexpr int kClocksMax = 64;

Status bad(std::string text) {
  return {Code::kInvalidArgument, std::move(text)};
}

bool knows(const Registry& registry, const Batch& batch) {
  const size_t signatures = registry.signatures().size(), names = registry.names().size();
  const auto known_operation = [&](const Operation& o) { return o.signature < signatures; };
  const auto known_name = [&](const auto& e) { return e.name < names; };
  return std::ranges::all_of(batch.operations, known_operation) &&
         std::ranges::all_of(batch.spans, known_name) &&
         std::ranges::all_of(batch.counters, known_name);
}

}  // namespace

Intake::Intake(const AggregatorOptions& options, std::vector<Sink*> sinks)
    : registry_(*options.registry), sinks_(std::move(sinks)) {
  if (options.job.world_size > 0 || !options.job.job.empty()) set_job(options.job);
}

void Intake::set_job(const JobInfo& job) {
  is_given_ = true;
  if (job == job_) return;
  job_ = stats_.job = job;
  for (Sink* sink : sinks_) sink->job(job_);
}

Status Intake::hello(Client& client, const wire::Hello& hello) {
  if (hello.version() != kWireVersion) {
    return {Code::kMismatch, "this aggregator speaks version " + std::to_string(kWireVersion) +
                                 " of the trace's protocol, the client version " +
                                 std::to_string(hello.version())};
  }
  if (hello.client() == 0 || hello.host().size() > kTextMax) return bad("a hello without a client");
  CONVOY_ASSIGN_OR_RETURN(const JobInfo job, from_wire(hello.job()));
  CONVOY_RETURN_IF_ERROR(follow(job));
  client.id = hello.client();
  client.host = hello.host();
  return ok_status();
}

// The job as a client sees it.
Status Intake::follow(const JobInfo& job) {
  if (!job_.job.empty() && !job.job.empty() && job.job != job_.job) {
    return {Code::kFailedPrecondition,
            "this aggregator is of the job '" + job_.job + "', the client of '" + job.job + "'"};
  }
  if (job.world_size == 0) return ok_status();  // knows nothing yet
  const bool is_first = job_.world_size == 0;
  if (!is_first && job.generation < job_.generation) {
    return {Code::kFailedPrecondition, "generation " + std::to_string(job.generation) +
                                           " is over: the job is at generation " +
                                           std::to_string(job_.generation)};
  }
  if (!is_first && job.generation > job_.generation + kGenerationsAhead) {
    return bad("generation " + std::to_string(job.generation) + " can't follow on " +
               std::to_string(job_.generation));
  }
  const bool learns_mesh = job.generation == job_.generation && job_.mesh.empty() &&
                           !job.mesh.empty() && job.world_size == job_.world_size;
  if (!is_first && job.generation == job_.generation && !learns_mesh) return ok_status();
  JobInfo next = job;
  if (next.job.empty()) next.job = job_.job;
  if (next.mesh.empty() && next.world_size == job_.world_size) next.mesh = job_.mesh;
  job_ = stats_.job = next;
  for (Sink* sink : sinks_) sink->job(job_);
  return ok_status();
}

Status Intake::message(Client& client, const wire::Upward& up, const rpc::Received& received,
                       int64_t now) {
  if (up.number() != client.messages + 1) return bad("a message out of its turn");
  ++client.messages;
  stats_.bytes += received.header().size() + received.body_bytes();
  if (up.has_job()) {
    CONVOY_ASSIGN_OR_RETURN(const JobInfo job, from_wire(up.job()));
    CONVOY_RETURN_IF_ERROR(follow(job));
  }
  CONVOY_RETURN_IF_ERROR(take_clocks(up));
  if (up.rank_size() != up.bytes_size()) return bad("a message whose lists don't fit together");
  CONVOY_RETURN_IF_ERROR(unpack_body(up, received));
  std::span<const std::byte> rest(body_);
  for (int i = 0; i < up.rank_size(); ++i) {
    if (up.bytes(i) > rest.size()) return bad("a batch that is longer than its message");
    CONVOY_RETURN_IF_ERROR(take_batch(client, up.rank(i), rest.first(up.bytes(i)), now));
    rest = rest.subspan(up.bytes(i));
  }
  return rest.empty() ? ok_status() : bad("a message with something behind its batches");
}

Status Intake::unpack_body(const wire::Upward& up, const rpc::Received& received) {
  if (up.raw_bytes() > kRawBytesMax) return bad("a message whose body is too large");
  if (up.raw_bytes() == 0) {
    body_.resize(received.body_bytes());
    received.copy_body(body_.data());
    return ok_status();
  }
  packed_.resize(received.body_bytes());
  received.copy_body(packed_.data());
  body_.resize(up.raw_bytes());
  return unpack(packed_, body_);
}

Status Intake::take_clocks(const wire::Upward& up) {
  if (up.clock_size() > kClocksMax) return bad("a message with too many clocks");
  for (const wire::Clock& clock : up.clock()) {
    if (clock.host().size() > kTextMax || clock.error() > INT64_MAX / 4) {
      return bad("a clock that can't be");
    }
    if (!hosts_.contains(clock.host())) {
      if (hosts_.size() >= kHostsMax) return bad("clocks of too many hosts");
      hosts_.insert(clock.host());
    }
    const ClockSample sample{clock.host(), static_cast<int64_t>(clock.host_time()),
                             static_cast<int64_t>(clock.root_time()),
                             static_cast<int64_t>(clock.error())};
    for (Sink* sink : sinks_) sink->clock(sample);
  }
  return ok_status();
}

Status Intake::take_batch(Client& client, uint32_t number, std::span<const std::byte> bytes,
                          int64_t now) {
  if (number >= job_.world_size) {
    return bad("a batch of rank " + std::to_string(number) + " of " +
               std::to_string(job_.world_size));
  }
  CONVOY_RETURN_IF_ERROR(client.decoder.decode(bytes, batch_));
  CONVOY_RETURN_IF_ERROR(check_registry());
  if (batch_.rank != number || batch_.host.size() > kTextMax || !knows(registry_, batch_)) {
    return bad("a batch that is not what its message says");
  }
  if (batch_.generation < job_.generation) {
    ++stats_.stale;
    return ok_status();
  }
  if (batch_.generation > job_.generation) {
    return bad("a batch of generation " + std::to_string(batch_.generation) +
               ", which the client did not announce");
  }
  Rank& rank = ranks_[number];
  CONVOY_RETURN_IF_ERROR(claim(client, rank, number, batch_.generation));
  if (batch_.number <= rank.last) {
    ++stats_.duplicates;
    return ok_status();
  }
  // Gaps are kept, whoever counts.
  rank.told += batch_.number - rank.last;
  rank.last = batch_.number;
  batch_.number = rank.told;
  batch_.received = now;
  ++stats_.batches;
  stats_.events += batch_.operations.size() + batch_.spans.size() + batch_.counters.size();
  for (Sink* sink : sinks_) sink->batch(batch_);
  return ok_status();
}

// A rank has one client at a time. Another one gets it when that has gone, or with a later
// generation.
Status Intake::claim(Client& client, Rank& rank, uint32_t number, uint64_t generation) {
  const bool is_free =
      rank.owner == nullptr || rank.owner->id == client.id || generation > rank.generation;
  if (!is_free) {
    return {Code::kFailedPrecondition,
            "rank " + std::to_string(number) + " is already told by " + rank.owner->host};
  }
  if (rank.owner != &client) client.ranks.push_back(number);
  rank.owner = &client;
  rank.generation = generation;
  if (rank.client != client.id) {
    rank.client = client.id;
    rank.last = batch_.number > 0 ? batch_.number - 1 : 0;
  }
  stats_.ranks = static_cast<uint32_t>(ranks_.size());
  return ok_status();
}

void Intake::leave(Client& client) {
  for (const uint32_t number : client.ranks) {
    Rank& rank = ranks_[number];
    if (rank.owner == &client) rank.owner = nullptr;
  }
  client.ranks.clear();
}

// Clients together may name so many things.
Status Intake::check_registry() const {
  if (registry_.names().size() <= kNamesMax && registry_.groups().size() <= kGroupsMax &&
      registry_.signatures().size() <= kSignaturesMax) {
    return ok_status();
  }
  return {Code::kResourceExhausted, "the trace has too many names, groups or signatures"};
}

}  // namespace convoy::trace
