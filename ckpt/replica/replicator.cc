#include "ckpt/replica/replicator.h"

#include "ckpt/cluster/cluster.pb.h"
#include "ckpt/cluster/encode.h"
#include "ckpt/replica/erasure.h"
#include <convoy/base/checksum.h>
#include <convoy/base/fault.h>
#include <convoy/base/log.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <unistd.h>
#include <utility>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;

constexpr auto kCallTimeout = 60s;
constexpr auto kPause = 100ms;

}  // namespace

Result<Roster> ask_roster(rpc::Channel& coordinator, uint64_t generation, Nanos timeout) {
  proto::AskRoster ask;
  ask.set_generation(generation);
  CONVOY_ASSIGN_OR_RETURN(const rpc::Received answer,
                          coordinator.call("roster", {ask.SerializeAsString()}, timeout));
  proto::Roster roster;
  if (!roster.ParseFromString(answer.header()) || roster.address_size() != roster.domain_size()) {
    return Status(Code::kInternal, "the coordinator speaks nonsense");
  }
  return Roster{{roster.address().begin(), roster.address().end()},
                {roster.domain().begin(), roster.domain().end()}};
}

// Blocks first … of all pieces, and the answers of those who get them.
struct Replicator::Batch {
  uint64_t blocks = 0;
  std::vector<std::unique_ptr<std::byte[]>> pieces;
  std::vector<std::vector<uint64_t>> sums;
  std::mutex mutex;
  std::condition_variable came;
  int open = 0;
  Status status;

  explicit Batch(uint32_t count) : sums(count) {
    for (uint32_t i = 0; i < count; ++i) {
      pieces.push_back(
          std::make_unique_for_overwrite<std::byte[]>(kPutBlocksMax * kImageBlockBytes));
    }
  }
  Status wait() {
    std::unique_lock lock(mutex);
    came.wait(lock, [&] { return open == 0; });
    return status;
  }
};

Replicator::Replicator(ReplicatorOptions options)
    : options_(std::move(options)), thread_([this] { main(); }) {}

Replicator::~Replicator() {
  {
    std::unique_lock lock(mutex_);
    ending_ = true;
    break_off(lock);
  }
  thread_.join();
}

// Ends what the thread waits for: a peer that is frozen must not hold up who cancels.
void Replicator::break_off(std::unique_lock<std::mutex>& lock) {
  cancelled_ = true;
  changed_.notify_all();
  const auto channels = std::exchange(channels_, {});
  lock.unlock();
  for (const auto& [address, channel] : channels) channel->close();
  lock.lock();
}

Result<std::shared_ptr<rpc::Channel>> Replicator::channel_to(const std::string& address) {
  const std::lock_guard lock(mutex_);
  if (cancelled_) return Status(Code::kAborted, "cancelled");
  if (const auto known = channels_.find(address); known != channels_.end()) return known->second;
  CONVOY_ASSIGN_OR_RETURN(std::shared_ptr<rpc::Channel> channel, options_.connect(address));
  channels_[address] = channel;
  return channel;
}

void Replicator::submit(std::shared_ptr<const NodeImage> image) {
  {
    const std::lock_guard lock(mutex_);
    queued_.push_back(std::move(image));
  }
  changed_.notify_all();
}

void Replicator::cancel(uint64_t step) {
  std::unique_lock lock(mutex_);
  std::erase_if(queued_, [&](const auto& image) { return image->info.step == step; });
  if (working_ == nullptr || working_->info.step != step) return;
  break_off(lock);
  changed_.wait(lock, [&] { return working_ == nullptr || working_->info.step != step; });
}

bool Replicator::stopped() {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

void Replicator::main() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || !queued_.empty(); });
    if (ending_) return;
    working_ = std::move(queued_.front());
    queued_.pop_front();
    cancelled_ = false;
    const std::shared_ptr<const NodeImage> image = working_;
    lock.unlock();
    const Status status = send(*image);
    const uint64_t step = image->info.step;
    lock.lock();
    const bool tell = !cancelled_;
    working_ = nullptr;
    changed_.notify_all();
    lock.unlock();
    if (tell) options_.done(step, status);
    lock.lock();
  }
}

// Which nodes get which piece, and a connection to each.
Status Replicator::prepare(const NodeImage& image) {
  Result<Roster> roster = options_.roster();
  while (roster.status().code() == Code::kUnavailable) {
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, kPause, [&] { return cancelled_; })) return roster.status();
    lock.unlock();
    roster = options_.roster();
  }
  if (!roster.ok()) return roster.status();
  CONVOY_ASSIGN_OR_RETURN(const Placement placement,
                          place_replicas(roster->domains, options_.scheme));
  if (options_.node == 0 && !placement.warnings.empty() && !std::exchange(warned_, true)) {
    CONVOY_LOG(Warn) << "peer memory: " << placement.warnings.front()
                     << (placement.warnings.size() > 1 ? " (and others alike)" : "");
  }
  holder_nodes_ = placement.holders[image.info.node];
  holders_.assign(1, nullptr);  // piece 0 stays here
  for (uint32_t piece = 1; piece < holder_nodes_.size(); ++piece) {
    CONVOY_ASSIGN_OR_RETURN(holders_.emplace_back(),
                            channel_to(roster->addresses[holder_nodes_[piece]]));
  }
  return ok_status();
}

Status Replicator::ask_holders(const NodeImage& image, const std::string& method,
                               const std::function<std::string(uint32_t piece)>& message) {
  for (uint32_t piece = 1; piece < holders_.size(); ++piece) {
    if (stopped()) return {Code::kAborted, "cancelled"};
    const Status status = holders_[piece]->call(method, {message(piece)}, kCallTimeout).status();
    if (!status.ok()) {
      return status.with_context("peer memory of node " + std::to_string(holder_nodes_[piece]));
    }
  }
  return ok_status();
}

// The last stripe is filled up with zeros.
void Replicator::gather(const NodeImage& image, uint64_t first, Batch& batch) const {
  const ReplicaScheme& scheme = options_.scheme;
  for (uint64_t s = 0; s < batch.blocks; ++s) {
    for (uint32_t piece = 0; piece < scheme.k; ++piece) {
      image.copy_block((first + s) * scheme.k + piece,
                       batch.pieces[piece].get() + s * kImageBlockBytes);
    }
  }
  std::vector<const std::byte*> data;
  std::vector<std::byte*> parity;
  for (uint32_t piece = 0; piece < scheme.pieces(); ++piece) {
    if (piece < scheme.k) {
      data.push_back(batch.pieces[piece].get());
    } else {
      parity.push_back(batch.pieces[piece].get());
    }
  }
  ErasureCode(scheme).encode(data, parity, batch.blocks * kImageBlockBytes);
  for (uint32_t piece = 1; piece < scheme.pieces(); ++piece) {
    batch.sums[piece].clear();
    for (uint64_t s = 0; s < batch.blocks; ++s) {
      batch.sums[piece].push_back(
          xxh3({batch.pieces[piece].get() + s * kImageBlockBytes, kImageBlockBytes}));
    }
  }
}

void Replicator::put(const NodeImage& image, uint64_t first, const std::shared_ptr<Batch>& batch) {
  batch->open = static_cast<int>(holders_.size()) - 1;
  batch->status = {};
  for (uint32_t piece = 1; piece < holders_.size(); ++piece) {
    proto::PutBlocks put;
    put.set_generation(image.info.generation);
    put.set_step(image.info.step);
    put.set_owner(image.info.node);
    put.set_first(first);
    for (const uint64_t sum : batch->sums[piece]) put.add_sums(sum);
    rpc::Message message{put.SerializeAsString(),
                         {{batch->pieces[piece].get(), batch->blocks * kImageBlockBytes}},
                         batch};
    holders_[piece]->call(
        "put", std::move(message), kCallTimeout,
        [batch, node = holder_nodes_[piece]](const Result<rpc::Received>& answer) {
          const std::lock_guard lock(batch->mutex);
          if (!answer.ok() && batch->status.ok()) {
            batch->status =
                answer.status().with_context("peer memory of node " + std::to_string(node));
          }
          --batch->open;
          batch->came.notify_all();
        });
  }
}

// Waits until the bytes may go. False: cancelled.
bool Replicator::pay(uint64_t bytes) {
  if (options_.bandwidth == 0) return true;
  const TimePoint now = Clock::system().now();
  paid_ =
      std::max(paid_, now) + Nanos(static_cast<int64_t>(static_cast<double>(bytes) * 1e9 /
                                                        static_cast<double>(options_.bandwidth)));
  std::unique_lock lock(mutex_);
  return !changed_.wait_until(lock, paid_, [&] { return cancelled_; });
}

Status Replicator::send(const NodeImage& image) {
  CONVOY_RETURN_IF_ERROR(prepare(image));
  const ReplicaScheme& scheme = options_.scheme;
  CONVOY_RETURN_IF_ERROR(ask_holders(image, "begin", [&](uint32_t piece) {
    proto::PieceInfo info;
    set_piece(info, {image.info, scheme, piece});
    return info.SerializeAsString();
  }));
  // While one batch is on its way the next one is computed.
  std::array<std::shared_ptr<Batch>, 2> batches;
  for (auto& batch : batches) batch = std::make_shared<Batch>(scheme.pieces());
  const uint64_t blocks = PieceInfo{image.info, scheme, 0}.blocks();
  Status status;
  for (uint64_t first = 0; first < blocks && status.ok(); first += kPutBlocksMax) {
    const std::shared_ptr<Batch>& batch = batches[first / kPutBlocksMax % 2];
    status = batch->wait();
    if (!status.ok()) break;
    batch->blocks = std::min(kPutBlocksMax, blocks - first);
    if (!pay(batch->blocks * kImageBlockBytes * (scheme.pieces() - 1)) || stopped()) {
      status = {Code::kAborted, "cancelled"};
      break;
    }
    gather(image, first, *batch);
    fault::die_at("ckpt.replica.put.kill");
    put(image, first, batch);
  }
  for (const auto& batch : batches) {
    const Status last = batch->wait();
    if (status.ok()) status = last;
  }
  CONVOY_RETURN_IF_ERROR(status);
  return ask_holders(image, "seal", [&](uint32_t) {
    proto::Seal seal;
    seal.set_generation(image.info.generation);
    seal.set_step(image.info.step);
    seal.set_owner(image.info.node);
    return seal.SerializeAsString();
  });
}

}  // namespace convoy::ckpt
