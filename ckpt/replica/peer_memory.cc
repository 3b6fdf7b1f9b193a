#include "ckpt/replica/peer_memory.h"

#include "ckpt/cluster/cluster.pb.h"
#include "ckpt/cluster/encode.h"
#include <convoy/base/fault.h>

#include <utility>

namespace convoy::ckpt {
namespace {

Status nonsense() {
  return {Code::kInvalidArgument, "a message that this agent does not understand"};
}

Result<rpc::Message> empty_or(const Status& status) {
  if (!status.ok()) return status;
  return rpc::Message{};
}

}  // namespace

void PeerMemory::serve(rpc::Handlers& handlers) {
  const auto self = shared_from_this();
  handlers["begin"] = [self](const std::shared_ptr<rpc::Call>& call) {
    proto::PieceInfo info;
    if (!info.ParseFromString(call->request().header())) return call->finish(nonsense());
    call->finish(empty_or(self->pieces_.begin(get_piece(info))));
  };
  handlers["put"] = [self](const std::shared_ptr<rpc::Call>& call) { self->put(call); };
  handlers["seal"] = [self](const std::shared_ptr<rpc::Call>& call) {
    proto::Seal seal;
    if (!seal.ParseFromString(call->request().header())) return call->finish(nonsense());
    call->finish(empty_or(self->pieces_.seal({seal.generation(), seal.step()}, seal.owner())));
  };
  handlers["inventory"] = [self](const std::shared_ptr<rpc::Call>& call) { self->inventory(call); };
  handlers["read"] = [self](const std::shared_ptr<rpc::Call>& call) { self->read(call); };
}

void PeerMemory::put(const std::shared_ptr<rpc::Call>& call) {
  proto::PutBlocks put;
  const rpc::Received& request = call->request();
  if (!put.ParseFromString(request.header()) ||
      request.body_bytes() != static_cast<size_t>(put.sums_size()) * kImageBlockBytes) {
    return call->finish(nonsense());
  }
  const std::vector<uint64_t> sums(put.sums().begin(), put.sums().end());
  call->finish(empty_or(pieces_.put({put.generation(), put.step()}, put.owner(), put.first(), sums,
                                    [&](std::byte* to) { request.copy_body(to); })));
}

void PeerMemory::inventory(const std::shared_ptr<rpc::Call>& call) {
  proto::Inventory inventory;
  for (const PieceInfo& piece : pieces_.sealed()) set_piece(*inventory.add_pieces(), piece);
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [step, held] : images_) {
      set_piece(*inventory.add_images(), {held.image->info, held.scheme, 0});
    }
  }
  call->finish(rpc::Message{inventory.SerializeAsString()});
}

void PeerMemory::read(const std::shared_ptr<rpc::Call>& call) {
  proto::ReadBlock ask;
  if (!ask.ParseFromString(call->request().header())) return call->finish(nonsense());
  const StepKey step{ask.generation(), ask.step()};
  const std::shared_ptr<std::byte[]> block =
      std::make_shared_for_overwrite<std::byte[]>(kImageBlockBytes);
  if (ask.image()) {
    std::shared_ptr<const NodeImage> image;
    {
      const std::lock_guard lock(mutex_);
      const auto at = images_.find(step);
      if (at != images_.end() && at->second.image->info.node == ask.owner()) {
        image = at->second.image;
      }
    }
    if (image == nullptr || ask.block() >= image->info.blocks) {
      return call->finish(Status(Code::kNotFound, "this image is not here"));
    }
    image->copy_block(ask.block(), block.get());
  } else {
    // For tests: what is in memory changes by itself.
    if (fault::strikes("ckpt.replica.flip")) pieces_.damage(ask.owner(), ask.block());
    const Status status = pieces_.read(step, ask.owner(), ask.block(), block.get());
    if (!status.ok()) return call->finish(status);
  }
  call->finish(rpc::Message{"", {{block.get(), kImageBlockBytes}}, block});
}

void PeerMemory::hold(std::shared_ptr<const NodeImage> image, const ReplicaScheme& scheme) {
  const std::lock_guard lock(mutex_);
  const StepKey step{image->info.generation, image->info.step};
  images_[step] = {std::move(image), scheme};
}

void PeerMemory::release(const StepKey& step) {
  const std::lock_guard lock(mutex_);
  images_.erase(step);
}

void PeerMemory::settle(const StepKey& step) {
  pieces_.settle(step);
  const std::lock_guard lock(mutex_);
  std::erase_if(images_, [&](const auto& at) { return at.first < step; });
}

}  // namespace convoy::ckpt
