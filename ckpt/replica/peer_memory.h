#pragma once

#include "ckpt/replica/piece_store.h"
#include <convoy/rpc/server.h>

#include <map>
#include <memory>
#include <mutex>

namespace convoy::ckpt {

// What an agent's memory has for its peers: pieces of their snapshots, and its own node's images
// that they may read. Thread-safe; the server's calls share it.
class PeerMemory : public std::enable_shared_from_this<PeerMemory> {
 public:
  using StepKey = PieceStore::StepKey;
  // Adds the methods begin, put, seal, inventory and read.
  void serve(rpc::Handlers& handlers);

  void hold(std::shared_ptr<const NodeImage> image, const ReplicaScheme& scheme);
  void release(const StepKey& step);
  // Older images and pieces go.
  void settle(const StepKey& step);

 private:
  void put(const std::shared_ptr<rpc::Call>& call);
  void inventory(const std::shared_ptr<rpc::Call>& call);
  void read(const std::shared_ptr<rpc::Call>& call);

  struct Image {
    std::shared_ptr<const NodeImage> image;
    ReplicaScheme scheme;
  };
  PieceStore pieces_;
  std::mutex mutex_;
  std::map<StepKey, Image> images_;  // guarded by mutex_
};

}  // namespace convoy::ckpt
