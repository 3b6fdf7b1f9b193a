// Fault points ckpt.client.{acquired,copied,written,staged}.kill: the process dies once it has
// room, the bytes are copied, the part lies behind them, the agent has taken them over.
//
// One question at a time to the agent. The layout is worked out anew at each save: it costs
// microseconds a tensor, and a remembered one could be of tensors that have moved.
#include "ckpt/service/messages.pb.h"
#include "ckpt/service/protocol.h"
#include <convoy/base/fault.h>
#include <convoy/base/packet.h>
#include <convoy/ckpt/client.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <utility>

namespace convoy::ckpt {
namespace {

constexpr uint64_t kAlign = 4096;
constexpr const char* kArenaFile = "snapshot";  // the staged part's only file: the stream itself

uint64_t aligned(uint64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

Status set_timeout(int socket, Nanos timeout) {
  // A little later than the agent's own deadline, which says more.
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(timeout).count() + 5000000;
  timeval time{us / 1000000, us % 1000000};
  if (::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0) return ok_status();
  return errno_status("setting the agent's deadline", errno);
}

Result<std::pair<proto::Answer, UniqueFd>> receive(int socket) {
  Result<Packet> packet = receive_packet(socket);
  if (!packet.ok()) return packet.status();
  if (packet->ended) return Status(Code::kUnavailable, "the node's agent has gone");
  if (packet->nothing) {
    return Status(Code::kDeadlineExceeded, "the node's agent does not answer");
  }
  proto::Answer answer;
  if (!answer.ParseFromString(packet->bytes)) {
    return Status(Code::kInternal, "the node's agent speaks nonsense");
  }
  if (answer.has_failure()) {
    return Status(static_cast<Code>(answer.failure().code()), answer.failure().text());
  }
  return std::pair(std::move(answer), std::move(packet->fd));
}

Result<std::pair<proto::Answer, UniqueFd>> request(int socket, const proto::Ask& ask) {
  CONVOY_RETURN_IF_ERROR(send_packet(socket, ask.SerializeAsString()));
  return receive(socket);
}

// What the agent finds behind the stream.
Part staged_part(const StreamLayout& layout, uint64_t step, const ClientOptions& options) {
  Part part;
  part.step = step;
  part.generation = options.generation;
  part.tensors = layout.tensors;
  part.streams = {layout.stream};
  Stream& stream = part.streams.front();
  stream.rank = options.rank;
  if (stream.bytes > 0) part.files = {{kArenaFile, stream.bytes}};
  stream.chunks.resize(chunk_count(stream.bytes));
  for (size_t i = 0; i < stream.chunks.size(); ++i) {
    stream.chunks[i] = {0, i * kChunkBytes, stream.chunk_size(i), Codec::kRaw, 0};
  }
  return part;
}

// Whether the agent that we were connected with has died since.
bool has_hung_up(int socket) {
  pollfd events{socket, POLLRDHUP, 0};
  return ::poll(&events, 1, 0) == 1;
}

// What an agent would find out only at the first save, or never.
Status check(const ClientOptions& o) {
  const uint64_t pieces = uint64_t{o.replica_k} + o.replica_m;
  if (o.replica_m > 0 && (o.replica_k < 1 || pieces > kReplicaPiecesMax || pieces > o.nodes)) {
    return {Code::kInvalidArgument,
            "peer memory of " + std::to_string(o.replica_k) + " + " + std::to_string(o.replica_m) +
                " pieces needs as many nodes, at most " + std::to_string(kReplicaPiecesMax) +
                "; there are " + std::to_string(o.nodes)};
  }
  if (o.nodes > 1 && !o.remote.empty() && o.folder.empty()) {
    return {Code::kInvalidArgument,
            "the store " + o.remote +
                " takes what the nodes have written to their folder, and there is no folder: give "
                "one that all of them see"};
  }
  return ok_status();
}

}  // namespace

Result<std::unique_ptr<SnapshotClient>> SnapshotClient::connect(ClientOptions options) {
  CONVOY_RETURN_IF_ERROR(check(options));
  std::unique_ptr<SnapshotClient> client(new SnapshotClient(std::move(options)));
  CONVOY_ASSIGN_OR_RETURN(client->pool_, CopyPool::create(client->options_.threads));
  CONVOY_RETURN_IF_ERROR(client->ensure_connected());
  return client;
}

Status SnapshotClient::ensure_connected() {
  if (socket_ && !has_hung_up(socket_.get())) return ok_status();
  socket_.reset();
  CONVOY_ASSIGN_OR_RETURN(UniqueFd socket, connect_packets(options_.agent));
  CONVOY_RETURN_IF_ERROR(set_timeout(socket.get(), options_.timeout));
  proto::Ask ask;
  proto::Hello& hello = *ask.mutable_hello();
  hello.set_version(kProtocolVersion);
  hello.set_job(options_.job);
  hello.set_generation(options_.generation);
  hello.set_rank(options_.rank);
  hello.set_world_size(options_.world_size);
  hello.set_local_size(options_.local_size);
  hello.set_mesh(options_.mesh);
  hello.set_folder(options_.folder);
  hello.set_keep_newest(options_.keep_newest);
  hello.set_keep_every(options_.keep_every);
  hello.set_disk_every(options_.disk_every);
  hello.set_bandwidth(options_.bandwidth);
  hello.set_incremental(options_.incremental);
  hello.set_compress(static_cast<uint32_t>(options_.compress));
  hello.set_remote(options_.remote);
  hello.set_remote_every(options_.remote_every);
  hello.set_remote_keep_newest(options_.remote_keep_newest);
  hello.set_remote_keep_every(options_.remote_keep_every);
  hello.set_remote_bandwidth(options_.remote_bandwidth);
  hello.set_remote_compress(static_cast<uint32_t>(options_.remote_compress));
  hello.set_node(options_.node);
  hello.set_nodes(options_.nodes);
  hello.set_coordinator(options_.coordinator);
  hello.set_domain(options_.domain);
  hello.set_replica_k(options_.replica_k);
  hello.set_replica_m(options_.replica_m);
  hello.set_replica_bandwidth(options_.replica_bandwidth);
  hello.set_step_timeout_ns(static_cast<uint64_t>(options_.step_timeout.count()));
  hello.set_peer_timeout_ns(static_cast<uint64_t>(options_.peer_timeout.count()));
  hello.set_take_over(options_.take_over);
  const auto answer = request(socket.get(), ask);
  if (!answer.ok()) return answer.status();
  socket_ = std::move(socket);
  arena_.reset();
  slot_bytes_ = 0;
  return ok_status();
}

Status SnapshotClient::reserve(uint64_t bytes) {
  if (arena_ != nullptr && slot_bytes_ >= bytes) return ok_status();
  proto::Ask ask;
  ask.mutable_reserve()->set_bytes(bytes);
  auto answer = request(socket_.get(), ask);
  if (!answer.ok()) return answer.status();
  const proto::Slots& slots = answer->first.slots();
  CONVOY_ASSIGN_OR_RETURN(arena_,
                          Arena::map(answer->second.get(), slots.arena_bytes(), /*writable=*/true));
  slot_bytes_ = slots.slot_bytes();
  return ok_status();
}

Status SnapshotClient::prepare(const State& state) {
  CONVOY_ASSIGN_OR_RETURN(const StreamLayout layout, lay_out(state));
  CONVOY_ASSIGN_OR_RETURN(const std::vector<std::byte> part,
                          encode(staged_part(layout, 0, options_)));
  CONVOY_RETURN_IF_ERROR(ensure_connected());
  // The step's number may need some bytes more.
  CONVOY_RETURN_IF_ERROR(reserve(aligned(layout.stream.bytes) + aligned(part.size() + 64)));
  return arena_->wait_touched();
}

Result<SaveOutcome> SnapshotClient::try_to_save(uint64_t step, const State& state,
                                                const std::map<std::string, std::string>& notes,
                                                bool everywhere) {
  CONVOY_ASSIGN_OR_RETURN(const StreamLayout layout, lay_out(state));
  Part part = staged_part(layout, step, options_);
  CONVOY_ASSIGN_OR_RETURN(const std::vector<std::byte> size, encode(part));
  const uint64_t part_offset = aligned(layout.stream.bytes);
  const Result<SaveOutcome> outcome = [&]() -> Result<SaveOutcome> {
    CONVOY_RETURN_IF_ERROR(ensure_connected());
    CONVOY_RETURN_IF_ERROR(reserve(part_offset + size.size()));
    proto::Ask ask;
    ask.mutable_acquire()->set_step(step);
    // The last step is worth any wait.
    const bool must = everywhere && options_.overtake == Overtake::kWaitBriefly;
    const Overtake overtake = must ? Overtake::kWait : options_.overtake;
    ask.mutable_acquire()->set_overtaking(static_cast<uint32_t>(overtake));
    ask.mutable_acquire()->set_timeout_ns(static_cast<uint64_t>(options_.timeout.count()));
    ask.mutable_acquire()->set_everywhere(everywhere);
    CONVOY_ASSIGN_OR_RETURN(const auto slot, request(socket_.get(), ask));
    if (slot.first.what_case() == proto::Answer::kSkipped) {
      return SaveOutcome{true, slot.first.skipped(), 0};
    }
    const auto memory = arena_->bytes().subspan(slot.first.slot().offset(), slot_bytes_);
    fault::die_at("ckpt.client.acquired.kill");
    std::vector<uint64_t> checksums(part.streams[0].chunks.size());
    CONVOY_RETURN_IF_ERROR(pool_->copy(layout.runs, memory.first(layout.stream.bytes), checksums));
    fault::die_at("ckpt.client.copied.kill");
    for (size_t i = 0; i < checksums.size(); ++i) part.streams[0].chunks[i].checksum = checksums[i];
    CONVOY_ASSIGN_OR_RETURN(const std::vector<std::byte> record, encode(part));
    std::memcpy(memory.data() + part_offset, record.data(), record.size());
    fault::die_at("ckpt.client.written.kill");
    proto::Ask staged;
    staged.mutable_staged()->set_step(step);
    staged.mutable_staged()->set_stream_bytes(layout.stream.bytes);
    staged.mutable_staged()->set_part_offset(part_offset);
    staged.mutable_staged()->set_part_bytes(record.size());
    for (const auto& [name, text] : notes) (*staged.mutable_staged()->mutable_notes())[name] = text;
    CONVOY_ASSIGN_OR_RETURN(const auto accepted, request(socket_.get(), staged));
    fault::die_at("ckpt.client.staged.kill");
    return SaveOutcome{false, "", layout.stream.bytes};
  }();
  if (!outcome.ok() && (outcome.status().code() == Code::kUnavailable ||
                        outcome.status().code() == Code::kDeadlineExceeded)) {
    socket_.reset();  // an answer may still be on its way there
  }
  return outcome;
}

Result<SaveOutcome> SnapshotClient::save(uint64_t step, const State& state,
                                         const std::map<std::string, std::string>& notes,
                                         bool everywhere) {
  const bool was_connected = static_cast<bool>(socket_);
  Result<SaveOutcome> outcome = try_to_save(step, state, notes, everywhere);
  // The agent has died, and `convoy run` has started a new one: the state is still the step's.
  if (outcome.status().code() == Code::kUnavailable && was_connected) {
    outcome = try_to_save(step, state, notes, everywhere);
  }
  return outcome;
}

Status SnapshotClient::wait(uint64_t step, Tier tier, Nanos timeout) {
  CONVOY_RETURN_IF_ERROR(ensure_connected());
  proto::Ask ask;
  ask.mutable_wait()->set_step(step);
  ask.mutable_wait()->set_tier(static_cast<uint32_t>(tier));
  ask.mutable_wait()->set_timeout_ns(static_cast<uint64_t>(timeout.count()));
  CONVOY_RETURN_IF_ERROR(set_timeout(socket_.get(), timeout));
  const auto answer = request(socket_.get(), ask);
  if (!answer.ok() && answer.status().code() == Code::kUnavailable) socket_.reset();
  if (socket_) CONVOY_RETURN_IF_ERROR(set_timeout(socket_.get(), options_.timeout));
  return answer.status();
}

Result<std::string> agent_address(const std::string& agent, Nanos timeout) {
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd socket, connect_packets(agent));
  CONVOY_RETURN_IF_ERROR(set_timeout(socket.get(), timeout));
  proto::Ask ask;
  ask.set_address(true);
  CONVOY_ASSIGN_OR_RETURN(const auto answer, request(socket.get(), ask));
  return answer.first.address();
}

Result<std::map<std::string, uint64_t>> agent_counters(const std::string& agent, Nanos timeout) {
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd socket, connect_packets(agent));
  CONVOY_RETURN_IF_ERROR(set_timeout(socket.get(), timeout));
  proto::Ask ask;
  ask.set_counters(true);
  CONVOY_ASSIGN_OR_RETURN(const auto answer, request(socket.get(), ask));
  const auto& values = answer.first.counters().values();
  return std::map<std::string, uint64_t>(values.begin(), values.end());
}

Result<std::optional<HeldStep>> find_in_memory(const std::string& agent, Nanos timeout) {
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd socket, connect_packets(agent));
  CONVOY_RETURN_IF_ERROR(set_timeout(socket.get(), timeout));
  proto::Ask ask;
  ask.mutable_find();
  CONVOY_ASSIGN_OR_RETURN(const auto first, request(socket.get(), ask));
  const proto::Found& found = first.first.found();
  if (!found.any()) return std::optional<HeldStep>();
  HeldStep held{found.step(), found.world_size(), {}};
  for (uint32_t i = 0; i < found.held(); ++i) {
    CONVOY_ASSIGN_OR_RETURN(const auto next, receive(socket.get()));
    const proto::HeldSnapshot& s = next.first.snapshot();
    HeldSnapshot snapshot;
    snapshot.rank = s.rank();
    CONVOY_ASSIGN_OR_RETURN(snapshot.arena,
                            Arena::map(next.second.get(), s.arena_bytes(), /*writable=*/false));
    const std::span<const std::byte> bytes = snapshot.arena->bytes();
    snapshot.stream = bytes.subspan(s.offset(), s.stream_bytes());
    CONVOY_ASSIGN_OR_RETURN(snapshot.part,
                            decode_part(bytes.subspan(s.offset() + s.part_offset(), s.part_bytes()),
                                        "snapshot of rank " + std::to_string(s.rank())));
    held.ranks.push_back(std::move(snapshot));
  }
  return std::optional<HeldStep>(std::move(held));
}

}  // namespace convoy::ckpt
