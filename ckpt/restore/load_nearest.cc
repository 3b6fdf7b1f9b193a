// Which step all ranks load: they agree on a list of candidates first, and after each attempt.
#include <convoy/base/log.h>
#include <convoy/ckpt/client.h>
#include <convoy/ckpt/load_nearest.h>
#include <convoy/ckpt/peers.h>

#include <algorithm>
#include <array>
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

constexpr int kRemoteThreads = 16;
constexpr size_t kRemoteStagingBytes = size_t{384} << 20;

struct Folder {
  std::string place;  // a path or URI; empty: there is none
  Tier tier = Tier::kLocalDurable;
  std::unique_ptr<Store> store;  // null: not opened, or not there
  std::unique_ptr<Catalog> catalog;
};
Status open(Folder& folder) {
  if (folder.store != nullptr || folder.place.empty()) return ok_status();
  const bool remote = folder.tier == Tier::kRemoteDurable;
  if (!remote && !std::filesystem::exists(folder.place)) return ok_status();
  CONVOY_ASSIGN_OR_RETURN(folder.store, open_store(folder.place));
  folder.catalog = std::make_unique<Catalog>(*folder.store);
  return ok_status();
}

// A commit of one of the two folders.
struct Committed {
  size_t folder = 0;
  CommitKey key;
  uint64_t generation = 0;
};
// What can be tried, in this order.
struct Candidates {
  bool memory = false;  // first
  std::vector<Committed> committed;
};

// Damaged ones too, so that whoever passes over one says so; not those that never counted.
Result<std::vector<Committed>> list(Folder& folder, size_t index) {
  std::vector<Committed> out;
  CONVOY_RETURN_IF_ERROR(open(folder));
  if (folder.catalog == nullptr) return out;
  CONVOY_ASSIGN_OR_RETURN(const std::vector<StepInfo> steps, folder.catalog->steps());
  for (const StepInfo& info : steps) {
    if (info.status.code() == Code::kAborted) continue;
    const Result<Commit> commit = folder.catalog->load_commit(info.key);
    const uint64_t before = out.empty() ? UINT64_MAX : out.back().generation;
    out.push_back({index, info.key, commit.ok() ? commit->generation : before});
  }
  return out;
}

// Both lists are newest first; claims of two folders can't be compared, generations and steps can.
std::vector<Committed> merge(std::vector<Committed> near, std::vector<Committed> far) {
  std::vector<Committed> out;
  size_t n = 0;
  size_t f = 0;
  const auto rank_of = [](const Committed& c) { return std::pair(c.generation, c.key.step); };
  while (n < near.size() || f < far.size()) {
    const bool take_near =
        n < near.size() && (f == far.size() || rank_of(near[n]) >= rank_of(far[f]));
    out.push_back(take_near ? near[n++] : far[f++]);
  }
  return out;
}

Result<std::vector<Committed>> list_all(std::array<Folder, 2>& folders) {
  CONVOY_ASSIGN_OR_RETURN(std::vector<Committed> near, list(folders[0], 0));
  Result<std::vector<Committed>> far = list(folders[1], 1);
  if (far.ok()) return merge(std::move(near), std::move(far).value());
  // To begin anew because a store does not answer would be worse than to fail.
  if (near.empty()) return far.status();
  CONVOY_LOG(Warn) << "the steps in " << folders[1].place
                   << " are not looked at: " << far.status().message();
  return near;
}

// "1 STEP" (memory) or "0 0", then rank 0's commits.
Result<std::string> candidates_text(const Memory& memory, std::array<Folder, 2>& folders,
                                    bool lists, uint64_t step_max) {
  std::ostringstream text;
  text << (memory ? 1 : 0) << ' ' << memory.step();
  if (!lists) return text.str();
  CONVOY_ASSIGN_OR_RETURN(const std::vector<Committed> all, list_all(folders));
  for (const Committed& c : all) {
    if (c.key.step > step_max) continue;
    text << ' ' << c.folder << ' ' << c.key.step << ' ' << c.key.claim;
  }
  return text.str();
}

Result<Candidates> agree_on_candidates(const Memory& memory, std::array<Folder, 2>& folders,
                                       Exchange& exchange, uint64_t step_max) {
  const Result<std::string> mine = candidates_text(memory, folders, exchange.rank() == 0, step_max);
  CONVOY_RETURN_IF_ERROR(agree(exchange, mine.status()));
  CONVOY_ASSIGN_OR_RETURN(const auto all, exchange.all_gather(bytes_of(*mine)));
  Candidates out;
  std::istringstream first(text_of(all[0]));
  bool has = false;
  uint64_t step = 0;
  first >> has >> step;
  for (Committed c; first >> c.folder >> c.key.step >> c.key.claim;) out.committed.push_back(c);
  out.memory = has && (out.committed.empty() || step >= out.committed.front().key.step);
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

Result<std::unique_ptr<StepSource>> folder_source(Folder& folder, const CommitKey& key,
                                                  const std::shared_ptr<DiskEngine>& engine) {
  CONVOY_RETURN_IF_ERROR(open(folder));
  if (folder.catalog == nullptr) {
    return Status(Code::kNotFound, "there is no checkpoint folder " + folder.place +
                                       " here, but rank 0 sees one: all ranks need the same");
  }
  CONVOY_ASSIGN_OR_RETURN(Commit commit, folder.catalog->load_commit(key));
  if (folder.tier == Tier::kRemoteDurable) {
    return std::unique_ptr<StepSource>(
        std::make_unique<StoreSource>(*folder.store, std::move(commit)));
  }
  CONVOY_ASSIGN_OR_RETURN(auto source,
                          FolderSource::create(folder.place, std::move(commit), engine));
  return std::unique_ptr<StepSource>(std::move(source));
}

// The commit of the same step in the store.
const Committed* find_twin(const Candidates& candidates, const Committed& near) {
  const auto at = std::ranges::find_if(candidates.committed, [&](const Committed& c) {
    return c.folder != near.folder && c.key.step == near.key.step;
  });
  return at == candidates.committed.end() ? nullptr : &*at;
}

// One attempt; a failure is the same on all ranks.
class Attempts {
 public:
  Attempts(const State& wanted, Exchange& exchange) : wanted_(wanted), exchange_(exchange) {}

  // Whether the step was loaded. False: it is damaged, and the next one may be tried.
  Result<bool> load(const Result<std::unique_ptr<StepSource>>& source, const CommitKey& key,
                    const std::string& what, const LoadOptions& options, NearestStep& out) {
    Status status = agree(exchange_, source.status());
    if (status.ok()) {
      status = load_together(**source, wanted_, exchange_, options, &out.report);
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
  std::vector<std::pair<CommitKey, Status>> passed_over_;
  std::string tried_;
};

}  // namespace

LoadOptions load_options_for(Tier tier, LoadOptions options) {
  if (tier != Tier::kRemoteDurable) return options;
  options.threads = std::max(options.threads, kRemoteThreads);
  options.staging_bytes_max = std::max(options.staging_bytes_max, kRemoteStagingBytes);
  return options;
}

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
  if (memory.step() > places.step_max) memory = {};
  std::array<Folder, 2> folders;
  folders[0].place = places.folder;
  folders[1].place = places.remote;
  folders[1].tier = Tier::kRemoteDurable;
  CONVOY_ASSIGN_OR_RETURN(const Candidates candidates,
                          agree_on_candidates(memory, folders, exchange, places.step_max));
  if (!candidates.memory && candidates.committed.empty()) return std::optional<NearestStep>();
  Attempts attempts(wanted, exchange);
  NearestStep out;
  if (candidates.memory) {
    const uint64_t step = memory.step();
    if (memory.peers != nullptr) out.tier = Tier::kReplicated;
    CONVOY_ASSIGN_OR_RETURN(
        const bool loaded,
        attempts.load(memory_source(std::move(memory)), {step, 0},
                      "step " + std::to_string(step) + " in memory", options, out));
    if (loaded) return std::optional(std::move(out));
  }
  Result<std::shared_ptr<DiskEngine>> engine = DiskEngine::create({});
  CONVOY_RETURN_IF_ERROR(agree(exchange, engine.status()));
  for (const Committed& c : candidates.committed) {
    Folder& folder = folders[c.folder];
    const std::string what = "step " + std::to_string(c.key.step) + " in " + folder.place;
    out.tier = folder.tier;
    LoadOptions with = load_options_for(folder.tier, options);
    const auto source = folder_source(folder, c.key, *engine);
    CONVOY_ASSIGN_OR_RETURN(bool loaded, attempts.load(source, c.key, what, with, out));
    if (loaded) return std::optional(std::move(out));
    // Something in the folder is damaged: the store has the same step, and mends it.
    const Committed* const twin = c.folder == 0 ? find_twin(candidates, c) : nullptr;
    if (twin == nullptr) continue;
    const auto other = folder_source(folders[1], twin->key, *engine);
    if (other.ok()) with.other_sources.push_back(other->get());
    CONVOY_ASSIGN_OR_RETURN(
        loaded,
        attempts.load(source, c.key, what + ", mended from " + folders[1].place, with, out));
    if (loaded) return std::optional(std::move(out));
  }
  return attempts.none();
}

}  // namespace convoy::ckpt
