// Removes old steps. Commit records go first and durably; what is then garbage is worked out from
// the records that stay, never from what was just removed, so a crash anywhere leaves garbage only.
#include "ckpt/store/names.h"
#include <convoy/base/log.h>
#include <convoy/ckpt/catalog.h>

#include <algorithm>

namespace convoy::ckpt {
namespace {

bool is_fenced(const StepInfo& info) {
  return info.status.code() == Code::kAborted;
}

}  // namespace

// The paths of the commit records that the policy keeps.
std::set<std::string> Catalog::choose(const std::vector<StepInfo>& steps,
                                      const KeepPolicy& policy) const {
  std::set<std::string> keep;
  uint64_t seen = 0;
  for (const StepInfo& info : steps) {
    if (!info.status.ok()) continue;
    const bool is_new = seen++ < std::max<uint64_t>(policy.newest, 1);
    const bool is_kth = policy.every != 0 && info.key.step % policy.every == 0;
    if (is_new || is_kth || policy.pins.contains(info.key.step)) keep.insert(info.path);
  }
  return keep;
}

void Catalog::choose_commits(const std::vector<StepInfo>& steps, const std::set<std::string>& keep,
                             Garbage& out) const {
  for (const StepInfo& info : steps) {
    if (!info.status.ok() && !is_fenced(info)) {
      out.sums.damaged.push_back(info.path);
    } else if (!keep.contains(info.path)) {
      out.commits.push_back(info.path);
      if (info.status.ok()) out.sums.steps.push_back(info.key.step);
    }
  }
}

// Adds what the commit needs: whole folders of steps, or single files in older steps' folders.
void Catalog::refer(const Commit& commit, std::set<uint64_t>& steps, std::set<std::string>& files) {
  steps.insert(commit.step);
  const bool incremental =
      std::ranges::any_of(commit.steps, [&](uint64_t step) { return !steps.contains(step); });
  if (!incremental) return;
  for (const PartRef& ref : commit.parts) {
    const Result<Part> part = load_part(ref);
    if (!part.ok()) {
      // Which files it names can't be told: nothing of these steps goes.
      CONVOY_LOG(Warn) << "steps that step " << commit.step
                       << " refers to are kept whole: " << part.status().message();
      steps.insert(commit.steps.begin(), commit.steps.end());
      return;
    }
    for (const File& file : part->files) files.insert(file.path);
  }
}

Status Catalog::choose_files(const KeepPolicy& policy, uint64_t claim,
                             const std::vector<StepInfo>& steps,
                             const std::map<std::string, Commit>& kept, Garbage& out) {
  std::set<uint64_t> whole = policy.writing;  // steps whose folders stay as they are
  std::set<std::string> files;
  uint64_t newest = 0;  // step that this claim has committed
  bool has_newest = false;
  for (const StepInfo& info : steps) {
    if (!info.status.ok() && !is_fenced(info)) whole.insert(info.key.step);
    if (info.status.ok() && info.key.claim == claim) {
      newest = std::max(newest, info.key.step);
      has_newest = true;
    }
  }
  for (const auto& [path, commit] : kept) refer(commit, whole, files);
  CONVOY_ASSIGN_OR_RETURN(const auto entries, store_.list(std::string(kDataFolder)));
  for (const StoreEntry& entry : entries) {
    const auto key = parse_data(entry.path);
    if (!key || whole.contains(key->step) || files.contains(entry.path)) continue;
    const bool may_be_written =
        key->claim > claim || (key->claim == claim && (!has_newest || key->step > newest));
    if (may_be_written) continue;
    out.files.push_back(entry);
    ++out.sums.files;
    out.sums.bytes += entry.bytes;
  }
  return ok_status();
}

// What would go, worked out from one look at the folder under `claim`.
Result<Catalog::Garbage> Catalog::garbage(const KeepPolicy& policy, uint64_t claim) {
  std::map<std::string, Commit> commits;
  CONVOY_ASSIGN_OR_RETURN(const std::vector<StepInfo> steps, read_steps(commits));
  for (const StepInfo& info : steps) {
    // Damaged is one thing, unreadable for the moment another: then nothing may be concluded.
    if (info.status.ok() || is_fenced(info) || info.status.code() == Code::kDataLoss) continue;
    return info.status.with_context("nothing was removed");
  }
  const std::set<std::string> keep = choose(steps, policy);
  std::erase_if(commits, [&](const auto& entry) { return !keep.contains(entry.first); });
  Garbage out;
  choose_commits(steps, keep, out);
  CONVOY_RETURN_IF_ERROR(choose_files(policy, claim, steps, commits, out));
  return out;
}

Result<Collected> Catalog::preview(const KeepPolicy& policy) {
  CONVOY_ASSIGN_OR_RETURN(const std::vector<uint64_t> claims, owner_claims());
  const uint64_t next = claims.empty() ? 1 : claims.front() + 1;
  CONVOY_ASSIGN_OR_RETURN(Garbage found, garbage(policy, took_over_ ? claim_ : next));
  return std::move(found.sums);
}

Result<Collected> Catalog::collect(const KeepPolicy& policy) {
  CONVOY_RETURN_IF_ERROR(require_owner());
  CONVOY_ASSIGN_OR_RETURN(Garbage found, garbage(policy, claim_));
  for (const std::string& path : found.commits) CONVOY_RETURN_IF_ERROR(store_.remove(path));
  CONVOY_RETURN_IF_ERROR(store_.sync());
  CONVOY_RETURN_IF_ERROR(require_owner());
  for (const StoreEntry& file : found.files) CONVOY_RETURN_IF_ERROR(store_.remove(file.path));
  CONVOY_RETURN_IF_ERROR(store_.sync());
  // Of writers that have lost the folder: those can't finish a step any more.
  const uint64_t claim = claim_;
  CONVOY_RETURN_IF_ERROR(store_
                             .drop_unfinished([claim](const std::string& path) {
                               const auto key = parse_data(path);
                               return key && key->claim < claim;
                             })
                             .status());
  return std::move(found.sums);
}

}  // namespace convoy::ckpt
