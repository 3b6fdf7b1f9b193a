// Reads blocks where they are, and computes those that are not. A block of an image is a chunk, so
// the chunk's own checksum, which the trainer made, has the last word on whatever came from where.
#include "ckpt/replica/peer_source.h"

#include "ckpt/cluster/cluster.pb.h"
#include "ckpt/cluster/encode.h"
#include "ckpt/replica/erasure.h"
#include "ckpt/restore/verify.h"
#include <convoy/base/log.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <utility>

namespace convoy::ckpt {
namespace {

constexpr auto kCallTimeout = std::chrono::seconds(20);
constexpr int kNamedMax = 16;

using Block = std::unique_ptr<std::byte[]>;

Block new_block() {
  return std::make_unique_for_overwrite<std::byte[]>(kImageBlockBytes);
}

std::string node_list(const std::vector<uint32_t>& nodes) {
  std::string text;
  for (size_t i = 0; i < nodes.size() && i < kNamedMax; ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(nodes[i]);
  }
  return nodes.size() > kNamedMax ? text + " …" : text;
}

Status too_much_lost(const std::vector<OwnerLeft>& owners, const std::vector<AgentHas>& agents) {
  std::string lost;
  for (uint32_t node = 0; node < owners.size(); ++node) {
    const OwnerLeft& left = owners[node];
    if (left.recoverable()) continue;
    lost += "; node " + std::to_string(node) +
            "'s snapshot is lost: " + std::to_string(left.pieces.size()) +
            " of its pieces are left";
    if (left.scheme.m > 0) lost += ", " + std::to_string(left.scheme.k) + " are needed";
  }
  std::vector<uint32_t> silent, empty;
  for (uint32_t node = 0; node < agents.size(); ++node) {
    if (!agents[node].status.ok()) silent.push_back(node);
    if (agents[node].status.ok() && agents[node].images.empty()) empty.push_back(node);
  }
  if (!silent.empty()) lost += "; agents of nodes " + node_list(silent) + " don't answer";
  if (!empty.empty())
    lost += "; agents of nodes " + node_list(empty) + " have lost their own memory";
  return {Code::kDataLoss, "no step is whole in the memory of the peers (the newest is step " +
                               std::to_string(owners.empty() ? 0 : owners[0].image.step) + ")" +
                               lost};
}

}  // namespace

Result<std::vector<OwnerLeft>> choose_peer_step(const std::vector<AgentHas>& agents) {
  std::map<PieceStore::StepKey, std::vector<OwnerLeft>, std::greater<>> steps;
  const auto owner_of = [&](const PieceInfo& info) -> OwnerLeft* {
    if (info.image.nodes == 0 || info.image.node >= info.image.nodes ||
        info.image.nodes > kPartsMax || info.scheme.k < 1) {
      return nullptr;
    }
    auto& owners = steps[{info.image.generation, info.image.step}];
    if (owners.empty()) owners.resize(info.image.nodes);
    if (owners.size() != info.image.nodes) return nullptr;
    OwnerLeft& owner = owners[info.image.node];
    owner.image = info.image;
    owner.scheme = info.scheme;
    return &owner;
  };
  for (uint32_t agent = 0; agent < agents.size(); ++agent) {
    for (const PieceInfo& info : agents[agent].images) {
      if (OwnerLeft* owner = owner_of(info)) owner->whole = agent;
    }
    for (const PieceInfo& info : agents[agent].pieces) {
      if (OwnerLeft* owner = owner_of(info)) owner->pieces[info.piece] = agent;
    }
  }
  for (auto& [step, owners] : steps) {
    for (OwnerLeft& owner : owners) owner.image.step = step.second;
    if (std::ranges::all_of(owners, &OwnerLeft::recoverable)) return owners;
  }
  if (steps.empty()) {
    return Status(Code::kNotFound, "no agent has a step in memory");
  }
  return too_much_lost(steps.begin()->second, agents);
}

namespace {

std::vector<AgentHas> ask_all(const std::vector<std::shared_ptr<rpc::Channel>>& agents) {
  std::vector<AgentHas> out(agents.size());
  std::mutex mutex;
  std::condition_variable came;
  size_t open = agents.size();
  for (size_t i = 0; i < agents.size(); ++i) {
    agents[i]->call("inventory", {}, kCallTimeout, [&, i](const Result<rpc::Received>& answer) {
      proto::Inventory inventory;
      if (answer.ok() && inventory.ParseFromString(answer->header())) {
        for (const auto& info : inventory.pieces()) out[i].pieces.push_back(get_piece(info));
        for (const auto& info : inventory.images()) out[i].images.push_back(get_piece(info));
      }
      out[i].status = answer.status();
      const std::lock_guard lock(mutex);
      --open;
      came.notify_all();
    });
  }
  std::unique_lock lock(mutex);
  came.wait(lock, [&] { return open == 0; });
  return out;
}

}  // namespace

// Blocks that are being fetched: all questions go out, then all answers are waited for.
struct PeerSource::Fetch {
  explicit Fetch(const Places& places) : places(places) {}
  struct Answer {
    Block block = new_block();
    Status status;
  };
  const Places& places;
  std::mutex mutex;
  std::condition_variable came;
  size_t open = 0;

  // `piece` absent: of the owner's image.
  void ask(uint32_t owner, uint32_t agent, bool image, uint64_t block, Answer& to) {
    const ImageInfo& info = places.owners[owner].image;
    proto::ReadBlock ask;
    ask.set_generation(info.generation);
    ask.set_step(info.step);
    ask.set_owner(owner);
    ask.set_image(image);
    ask.set_block(block);
    {
      const std::lock_guard lock(mutex);
      ++open;
    }
    places.agents[agent]->call("read", {ask.SerializeAsString()}, kCallTimeout,
                               [this, &to](const Result<rpc::Received>& answer) {
                                 to.status = answer.status();
                                 if (answer.ok() && answer->body_bytes() == kImageBlockBytes) {
                                   answer->copy_body(to.block.get());
                                 } else if (answer.ok()) {
                                   to.status = {Code::kInternal, "a block of another size"};
                                 }
                                 const std::lock_guard lock(mutex);
                                 --open;
                                 came.notify_all();
                               });
  }
  void wait() {
    std::unique_lock lock(mutex);
    came.wait(lock, [&] { return open == 0; });
  }

  // Where a block is asked for first: the owner, or the piece that it lies in.
  void ask_nearest(uint32_t owner, uint64_t block, Answer& to) {
    const OwnerLeft& left = places.owners[owner];
    if (left.whole) return ask(owner, *left.whole, true, block, to);
    const auto piece = left.pieces.find(static_cast<uint32_t>(block % left.scheme.k));
    if (piece != left.pieces.end()) {
      return ask(owner, piece->second, false, block / left.scheme.k, to);
    }
    to.status = {Code::kNotFound, "its piece is lost"};
  }

  // From any k pieces; those that can't be read are passed over.
  Status rebuild(uint32_t owner, uint64_t block, std::byte* to) {
    const OwnerLeft& left = places.owners[owner];
    std::vector<uint32_t> pieces;
    std::vector<Answer> answers;
    std::string why;
    for (const auto& [piece, agent] : left.pieces) {
      if (pieces.size() == left.scheme.k) break;
      Answer answer;
      ask(owner, agent, false, block / left.scheme.k, answer);
      wait();
      if (answer.status.ok()) {
        pieces.push_back(piece);
        answers.push_back(std::move(answer));
      } else {
        why += "; node " + std::to_string(agent) + ": " + answer.status.message();
      }
    }
    if (pieces.size() < left.scheme.k) {
      return {Code::kDataLoss, "node " + std::to_string(owner) + "'s snapshot of step " +
                                   std::to_string(left.image.step) + ": " +
                                   std::to_string(pieces.size()) + " pieces of block " +
                                   std::to_string(block) + " can be read, " +
                                   std::to_string(left.scheme.k) + " are needed" + why};
    }
    std::vector<const std::byte*> have;
    for (const Answer& answer : answers) have.push_back(answer.block.get());
    ErasureCode(left.scheme)
        .rebuild(pieces, have, static_cast<uint32_t>(block % left.scheme.k), to, kImageBlockBytes);
    return ok_status();
  }
};

Result<std::unique_ptr<PeerSource>> PeerSource::create(
    std::vector<std::shared_ptr<rpc::Channel>> agents) {
  Places places;
  places.agents = std::move(agents);
  CONVOY_ASSIGN_OR_RETURN(places.owners, choose_peer_step(ask_all(places.agents)));
  Commit head;
  head.step = places.owners[0].image.step;
  head.world_size = places.owners[0].image.world_size;
  head.generation = places.owners[0].image.generation;
  CommitBuilder builder(std::move(head));
  std::vector<Part> parts;
  Fetch fetch(places);
  for (uint32_t owner = 0; owner < places.owners.size(); ++owner) {
    const std::vector<ImageRank>& ranks = places.owners[owner].image.ranks;
    for (uint32_t i = 0; i < ranks.size(); ++i) {
      const std::string name = "memory of node " + std::to_string(owner) + " and its peers";
      const uint64_t blocks = (ranks[i].part_bytes + kImageBlockBytes - 1) / kImageBlockBytes;
      std::vector<std::byte> bytes(blocks * kImageBlockBytes);
      const auto decode = [&] {
        return decode_part(std::span(bytes).first(ranks[i].part_bytes), name);
      };
      std::vector<Fetch::Answer> answers(blocks);
      for (uint64_t b = 0; b < blocks; ++b) {
        fetch.ask_nearest(owner, ranks[i].part_block + b, answers[b]);
      }
      fetch.wait();
      Status status;
      for (uint64_t b = 0; b < blocks; ++b) {
        std::byte* const to = bytes.data() + b * kImageBlockBytes;
        if (answers[b].status.ok()) {
          std::memcpy(to, answers[b].block.get(), kImageBlockBytes);
        } else {
          CONVOY_RETURN_IF_ERROR(fetch.rebuild(owner, ranks[i].part_block + b, to));
        }
      }
      Result<Part> part = decode();
      if (!part.ok()) {  // the owner's memory has changed
        for (uint64_t b = 0; b < blocks; ++b) {
          CONVOY_RETURN_IF_ERROR(
              fetch.rebuild(owner, ranks[i].part_block + b, bytes.data() + b * kImageBlockBytes));
        }
        part = decode();
      }
      if (!part.ok()) return part.status();
      if (part->streams.size() != 1 || part->streams[0].bytes != ranks[i].stream_bytes ||
          part->streams[0].chunk_bytes != kImageBlockBytes) {
        return Status(Code::kDataLoss, name + " holds another part than it says");
      }
      PartSummary summary;
      summary.step = part->step;
      summary.ref = {"memory of node " + std::to_string(owner), 0, 0, owner};
      summary.tensors = part->tensors;
      summary.held.assign(part->tensors.size(), true);
      CONVOY_RETURN_IF_ERROR(builder.add(summary));
      places.ranks.emplace_back(owner, i);
      parts.push_back(std::move(part).value());
    }
  }
  return std::unique_ptr<PeerSource>(
      new PeerSource(std::move(builder).finish(), std::move(places), std::move(parts)));
}

PeerSource::PeerSource(Commit commit, Places places, std::vector<Part> parts)
    : StepSource("the memory of the peers", std::move(commit)),
      places_(std::move(places)),
      parts_(std::move(parts)) {}

Result<Part> PeerSource::load_part(uint32_t index) {
  return parts_[index];
}

std::string PeerSource::place(const ChunkId& id) const {
  const auto [owner, rank] = places_.ranks[id.part];
  return "memory of node " + std::to_string(owner) + " and its peers, block " +
         std::to_string(places_.owners[owner].image.ranks[rank].stream_block + id.chunk);
}

void PeerSource::read(std::span<ChunkRead> reads, const std::shared_ptr<const void>& /*owner*/) {
  Fetch fetch(places_);
  std::vector<Fetch::Answer> answers(reads.size());
  const auto block_of = [&](const ChunkRead& read) {
    const auto [owner, rank] = places_.ranks[read.id.part];
    return std::pair(owner, places_.owners[owner].image.ranks[rank].stream_block + read.id.chunk);
  };
  for (size_t i = 0; i < reads.size(); ++i) {
    const auto [owner, block] = block_of(reads[i]);
    fetch.ask_nearest(owner, block, answers[i]);
  }
  fetch.wait();
  for (size_t i = 0; i < reads.size(); ++i) {
    ChunkRead& read = reads[i];
    const Stream& stream = parts_[read.id.part].streams[read.id.stream];
    read.status = answers[i].status;
    if (read.status.ok()) {
      read.status = verify_chunk(*this, read.id, stream, answers[i].block.get());
    }
    if (!read.status.ok()) {
      const auto [owner, block] = block_of(read);
      read.status = fetch.rebuild(owner, block, answers[i].block.get());
      if (read.status.ok()) {
        read.status = verify_chunk(*this, read.id, stream, answers[i].block.get());
      }
    }
    if (read.status.ok()) {
      std::memcpy(read.to, answers[i].block.get(), stream.chunk_size(read.id.chunk));
    }
  }
}

}  // namespace convoy::ckpt
