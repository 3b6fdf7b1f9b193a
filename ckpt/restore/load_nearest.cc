// Which step all ranks load: they agree on a list of candidates first, and after each attempt.
#include <convoy/base/log.h>
#include <convoy/ckpt/client.h>
#include <convoy/ckpt/load_nearest.h>
#include <convoy/ckpt/peers.h>

#include <charconv>
#include <filesystem>
#include <sstream>
#include <utility>
#include <vector>

namespace convoy::ckpt {
namespace {

using Bytes = Exchange::Bytes;

Bytes bytes_of(const std::string& text) {
  const auto* data = reinterpret_cast<const std::byte*>(text.data());
  return {data, data + text.size()};
}
std::string text_of(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// The step that memory has: the agent's, or that of all nodes' agents together.
struct Memory {
  std::optional<HeldStep> held;
  std::unique_ptr<StepSource> peers;
  explicit operator bool() const { return held || peers != nullptr; }
  uint64_t step() const { return peers != nullptr ? peers->commit().step : held ? held->step : 0; }
};

Memory in_memory(const LoadPlaces& places) {
  Memory out;
  if (!places.coordinator.empty()) {
    auto peers = open_in_peers({places.coordinator, places.generation, places.tls});
    if (peers.ok()) {
      out.peers = std::move(peers).value();
    } else if (peers.status().code() == Code::kNotFound) {
      CONVOY_LOG(Debug) << "nothing is loaded from memory: " << peers.status().message();
    } else {
      CONVOY_LOG(Warn) << "nothing is loaded from memory: " << peers.status().message();
    }
    return out;
  }
  if (places.agent.empty()) return out;
  Result<std::optional<HeldStep>> held = find_in_memory(places.agent);
  if (!held.ok()) {
    CONVOY_LOG(Debug) << "nothing is loaded from memory: " << held.status().message();
  } else if (*held && (*held)->ranks.size() == (*held)->world_size) {
    out.held = std::move(held).value();
  }
  return out;
}

struct Folder {
  std::unique_ptr<Store> store;
  std::unique_ptr<Catalog> catalog;
};
Result<Folder> open_folder(const std::string& path) {
  Folder out;
  if (path.empty() || !std::filesystem::exists(path)) return out;
  CONVOY_ASSIGN_OR_RETURN(out.store, open_local_store(path));
  out.catalog = std::make_unique<Catalog>(*out.store);
  return out;
}

// What can be tried, in this order.
struct Candidates {
  bool memory = false;  // first
  std::vector<CommitKey> committed;
};

// "1 STEP" (memory) or "0 0", then rank 0's commits.
Result<std::string> candidates_text(const Memory& memory, const Folder& folder, bool lists) {
  std::ostringstream text;
  text << (memory ? 1 : 0) << ' ' << memory.step();
  if (!lists || folder.catalog == nullptr) return text.str();
  CONVOY_ASSIGN_OR_RETURN(const std::vector<StepInfo> steps, folder.catalog->steps());
  for (const StepInfo& info : steps) {
    // Damaged ones too, so that whoever passes over one says so; not those that never counted.
    if (info.status.code() == Code::kAborted) continue;
    text << ' ' << info.key.step << ' ' << info.key.claim;
  }
  return text.str();
}

Result<Candidates> agree_on_candidates(const Memory& memory, const Folder& folder,
                                       Exchange& exchange) {
  const Result<std::string> mine = candidates_text(memory, folder, exchange.rank() == 0);
  CONVOY_RETURN_IF_ERROR(agree(exchange, mine.status()));
  CONVOY_ASSIGN_OR_RETURN(const auto all, exchange.all_gather(bytes_of(*mine)));
  Candidates out;
  std::istringstream first(text_of(all[0]));
  bool has = false;
  uint64_t step = 0;
  first >> has >> step;
  for (CommitKey key; first >> key.step >> key.claim;) out.committed.push_back(key);
  out.memory = has && (out.committed.empty() || step >= out.committed.front().step);
  for (const Bytes& bytes : all) {
    std::istringstream other(text_of(bytes));
    bool other_has = false;
    uint64_t other_step = 0;
    other >> other_has >> other_step;
    out.memory = out.memory && other_has && other_step == step;
  }
  return out;
}

Result<std::unique_ptr<StepSource>> memory_source(Memory memory) {
  if (memory.peers != nullptr) return std::move(memory.peers);
  const HeldStep& held = *memory.held;
  Commit head;
  head.step = held.step;
  head.world_size = held.world_size;
  std::vector<Snapshot> snapshots;
  for (const HeldSnapshot& rank : held.ranks) {
    snapshots.push_back({rank.part, {rank.stream}, rank.arena});
  }
  CONVOY_ASSIGN_OR_RETURN(auto source, ArenaSource::create("memory of this node", std::move(head),
                                                           std::move(snapshots)));
  return std::unique_ptr<StepSource>(std::move(source));
}

Result<std::unique_ptr<StepSource>> folder_source(const std::string& path, const Folder& folder,
                                                  const CommitKey& key,
                                                  const std::shared_ptr<DiskEngine>& engine) {
  if (folder.catalog == nullptr) {
    return Status(Code::kNotFound, "there is no checkpoint folder " + path +
                                       " here, but rank 0 sees one: all ranks need the same");
  }
  CONVOY_ASSIGN_OR_RETURN(Commit commit, folder.catalog->load_commit(key));
  CONVOY_ASSIGN_OR_RETURN(auto source, FolderSource::create(path, std::move(commit), engine));
  return std::unique_ptr<StepSource>(std::move(source));
}

// One attempt; a failure is the same on all ranks.
class Attempts {
 public:
  Attempts(const State& wanted, Exchange& exchange, const LoadOptions& options)
      : wanted_(wanted), exchange_(exchange), options_(options) {}

  // Whether the step was loaded. False: it is damaged, and the next one may be tried.
  Result<bool> load(const Result<std::unique_ptr<StepSource>>& source, const CommitKey& key,
                    const std::string& what, NearestStep& out) {
    Status status = agree(exchange_, source.status());
    if (status.ok()) {
      status = load_together(**source, wanted_, exchange_, options_, &out.report);
    }
    out.report.passed_over = passed_over_;
    if (status.ok()) {
      out.step = key.step;
      out.world_size = (*source)->commit().world_size;
      out.mesh = (*source)->commit().mesh;
      return true;
    }
    if (status.code() != Code::kDataLoss) return status;
    if (exchange_.rank() == 0) {
      CONVOY_LOG(Warn) << what
                       << " can't be loaded, the next older one is tried: " << status.message();
    }
    tried_ += "\n  " + what + ": " + status.message();
    passed_over_.emplace_back(key, status);
    return false;
  }
  Status none() const {
    return {Code::kDataLoss, "none of the saved steps can be loaded:" + tried_};
  }

 private:
  const State& wanted_;
  Exchange& exchange_;
  const LoadOptions& options_;
  std::vector<std::pair<CommitKey, Status>> passed_over_;
  std::string tried_;
};

}  // namespace

Status agree(Exchange& exchange, const Status& mine) {
  CONVOY_ASSIGN_OR_RETURN(
      const auto all, exchange.all_gather(bytes_of(mine.ok() ? std::string() : mine.to_string())));
  for (size_t r = 0; r < all.size(); ++r) {
    if (!all[r].empty()) {
      return status_of_text(text_of(all[r])).with_context("rank " + std::to_string(r));
    }
  }
  return ok_status();
}

Result<std::optional<NearestStep>> load_nearest(const LoadPlaces& places, const State& wanted,
                                                Exchange& exchange, const LoadOptions& options) {
  Memory memory = in_memory(places);
  const Result<Folder> folder = open_folder(places.folder);
  CONVOY_RETURN_IF_ERROR(agree(exchange, folder.status()));
  CONVOY_ASSIGN_OR_RETURN(const Candidates candidates,
                          agree_on_candidates(memory, *folder, exchange));
  if (!candidates.memory && candidates.committed.empty()) return std::optional<NearestStep>();
  Attempts attempts(wanted, exchange, options);
  NearestStep out;
  if (candidates.memory) {
    const uint64_t step = memory.step();
    if (memory.peers != nullptr) out.tier = Tier::kReplicated;
    CONVOY_ASSIGN_OR_RETURN(const bool loaded,
                            attempts.load(memory_source(std::move(memory)), {step, 0},
                                          "step " + std::to_string(step) + " in memory", out));
    if (loaded) return std::optional(std::move(out));
  }
  Result<std::shared_ptr<DiskEngine>> engine = DiskEngine::create({});
  CONVOY_RETURN_IF_ERROR(agree(exchange, engine.status()));
  out.tier = Tier::kLocalDurable;
  for (const CommitKey& key : candidates.committed) {
    CONVOY_ASSIGN_OR_RETURN(
        const bool loaded,
        attempts.load(folder_source(places.folder, *folder, key, *engine), key,
                      "step " + std::to_string(key.step) + " in " + places.folder, out));
    if (loaded) return std::optional(std::move(out));
  }
  return attempts.none();
}

}  // namespace convoy::ckpt
