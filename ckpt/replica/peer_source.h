#pragma once

#include "ckpt/replica/piece_store.h"
#include <convoy/ckpt/step_source.h>
#include <convoy/rpc/channel.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace convoy::ckpt {

// What is left of one node's snapshot of a step.
struct OwnerLeft {
  ImageInfo image;
  ReplicaScheme scheme;
  std::optional<uint32_t> whole;        // agent that has the image
  std::map<uint32_t, uint32_t> pieces;  // piece → agent
  bool recoverable() const { return whole || pieces.size() >= scheme.k; }
};
// What an agent has told; pure input of choose_peer_step().
struct AgentHas {
  Status status;  // not ok: it did not answer
  std::vector<PieceInfo> pieces, images;
};
// The newest step that all its nodes' snapshots can be had of, by node. Errors as open_in_peers().
Result<std::vector<OwnerLeft>> choose_peer_step(const std::vector<AgentHas>& agents);

// A step in the memory of several agents; see open_in_peers().
class PeerSource final : public StepSource {
 public:
  static Result<std::unique_ptr<PeerSource>> create(
      std::vector<std::shared_ptr<rpc::Channel>> agents);
  void read(std::span<ChunkRead> reads, const std::shared_ptr<const void>& owner) override;
  std::string place(const ChunkId& id) const override;

 private:
  struct Fetch;
  struct Places {
    std::vector<std::shared_ptr<rpc::Channel>> agents;
    std::vector<OwnerLeft> owners;
    std::vector<std::pair<uint32_t, uint32_t>> ranks;  // by part: owner, index into its ranks
  };
  PeerSource(Commit commit, Places places, std::vector<Part> parts);
  Result<Part> load_part(uint32_t index) override;
  const Places places_;
  const std::vector<Part> parts_;
};

}  // namespace convoy::ckpt
