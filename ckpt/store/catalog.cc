// Who has the folder and what is committed in it.
//
// Claims. Owner records are numbered; create_new() gives each number to one claimant, and the
// highest has the folder. A claimant that has got its number then lists the commits that count and
// seals its record with that list. An owner that commits looks for a higher number after it has
// written its commit record: if there is none, the record was there before the next claimant's list
// was made, so it is on it. If there is one, the commit reports failure, and counts only if it made
// it onto the list. A record written later by an owner that slept is on no list and never counts.
#include "ckpt/store/names.h"
#include <convoy/base/checksum.h>
#include <convoy/base/log.h>
#include <convoy/ckpt/catalog.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <tuple>
#include <unordered_map>

namespace convoy::ckpt {
namespace {

constexpr int kClaimTriesMax = 64;  // claimants that may come between before one gives up

int64_t system_wall_clock() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

// "2026-11-25 22:44:34 UTC"
std::string format_wall(int64_t wall_ns) {
  constexpr int64_t kSecond = 1'000'000'000;
  const auto seconds = static_cast<time_t>(wall_ns / kSecond);
  std::tm parts = {};
  char text[64] = {};
  if (::gmtime_r(&seconds, &parts) == nullptr ||
      std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &parts) == 0) {
    return std::to_string(wall_ns) + " ns";
  }
  return text;
}

std::string describe(const Owner& owner) {
  return "job '" + owner.job + "' generation " + std::to_string(owner.generation) + " (" +
         owner.who + ") since " + format_wall(owner.wall_ns);
}

// Whether a record of commit `key` counts under `owner`, the newest sealed one.
bool counts(const CommitKey& key, const std::optional<Owner>& owner) {
  return !owner || key.claim >= owner->claim ||
         std::ranges::find(owner->inherited, key) != owner->inherited.end();
}

bool same_commit(Commit a, const Commit& b) {
  a.wall_ns = b.wall_ns;  // a repeated commit is later, and still the same
  a.version = b.version;
  return a == b;
}

// A part that a commit record or its writer tells of, as the store has it.
Result<Part> read_part(Store& store, const PartRef& ref) {
  const Result<std::vector<std::byte>> bytes = store.get(ref.path, kRecordBytesMax);
  if (!bytes.ok()) return bytes.status();
  if (bytes->size() != ref.bytes || xxh3(*bytes) != ref.checksum) {
    return Status(Code::kDataLoss, "part " + ref.path + " in " + store.name() + " has " +
                                       std::to_string(bytes->size()) + " bytes that are not the " +
                                       std::to_string(ref.bytes) + " which its commit record saw.");
  }
  return decode_part(*bytes, ref.path);
}

// What is missing or wrong is data loss, whatever the store calls it.
Status missing(const std::string& what, uint64_t step) {
  return {Code::kDataLoss,
          "cannot commit step " + std::to_string(step) + ": " + what + ". Write the step again."};
}

bool holds(const TensorEntry& entry, uint32_t part) {
  return std::ranges::any_of(entry.holders, [&](const PartRun& run) {
    return part >= run.first && part - run.first < run.count;
  });
}

// Whether the commit record's index tells of everything that part number `i` holds.
Status check_index(const std::map<std::string_view, const TensorEntry*>& index, const Part& part,
                   uint32_t i) {
  for (const Stream& stream : part.streams) {
    for (const StoredPiece& piece : stream.pieces) {
      const TensorInfo& tensor = part.tensors[piece.tensor];
      const auto found = index.find(tensor.name);
      if (found == index.end() || !(found->second->info == tensor) || !holds(*found->second, i)) {
        return {Code::kInvalidArgument,
                "the commit record of step " + std::to_string(part.step) +
                    " does not tell that node " + std::to_string(part.node) + " holds tensor " +
                    tensor.name + " as its part does. Make it with CommitBuilder."};
      }
    }
  }
  return ok_status();
}

}  // namespace

Catalog::Catalog(Store& store, std::function<int64_t()> wall_clock)
    : store_(store), wall_clock_(wall_clock ? std::move(wall_clock) : system_wall_clock) {}

// ---- who has the folder

// Descending.
Result<std::vector<uint64_t>> Catalog::owner_claims() {
  CONVOY_ASSIGN_OR_RETURN(const auto entries, store_.list(std::string(kOwnerFolder)));
  std::vector<uint64_t> claims;
  for (const StoreEntry& entry : entries) {
    if (const auto claim = parse_owner(entry.path)) claims.push_back(*claim);
  }
  std::ranges::sort(claims, std::greater<>());
  return claims;
}

// The newest owner record that can be read, or the newest sealed one. A damaged record is passed
// over: its claimant has not got as far as to be told that it has the folder, or its disk rots.
Result<std::optional<Owner>> Catalog::newest_owner(bool sealed) {
  CONVOY_ASSIGN_OR_RETURN(const std::vector<uint64_t> claims, owner_claims());
  for (const uint64_t claim : claims) {
    const std::string path = owner_name(claim);
    const Result<std::vector<std::byte>> bytes = store_.get(path, kRecordBytesMax);
    if (bytes.status().code() == Code::kNotFound) continue;  // a newer owner has tidied up
    if (!bytes.ok()) return bytes.status();
    Result<Owner> owner = decode_owner(*bytes, store_.name() + "/" + path);
    if (!owner.ok() && owner.status().code() != Code::kDataLoss) return owner.status();
    if (!owner.ok() || owner->claim != claim) {
      CONVOY_LOG(Warn) << "checkpoint folder " << store_.name() << ": " << path
                       << " is damaged and passed over";
      continue;
    }
    if (owner->sealed || !sealed) return std::optional<Owner>(std::move(owner).value());
  }
  return std::optional<Owner>();
}

Result<std::optional<Owner>> Catalog::owner() {
  return newest_owner(false);
}

Status Catalog::may_claim(const Claimant& claimant, bool force) {
  CONVOY_ASSIGN_OR_RETURN(const std::optional<Owner> current, newest_owner(false));
  if (!current || force) return ok_status();
  const bool same_job = current->job == claimant.job;
  // An old generation that wakes up is refused even if the newer one has ended.
  if (same_job ? current->generation <= claimant.generation : current->released) {
    return ok_status();
  }
  return {Code::kFailedPrecondition,
          "checkpoint folder " + store_.name() + " belongs to " + describe(*current) + ", " +
              (same_job ? "which is newer than generation " + std::to_string(claimant.generation) +
                              ": this process is of a generation that was replaced; end it."
                        : "not to job '" + claimant.job +
                              "': give another folder, or take it over by force if that job has "
                              "ended.")};
}

// Fails if a newer Convoy has written in the folder.
Status Catalog::check_versions() {
  std::map<std::string, Commit> commits;
  CONVOY_ASSIGN_OR_RETURN(const std::vector<StepInfo> steps, read_steps(commits));
  for (const StepInfo& step : steps) {
    if (step.status.code() == Code::kFailedPrecondition) return step.status;
  }
  return ok_status();
}

// False if another has got that number, or a higher one.
Result<bool> Catalog::try_claim(const Claimant& claimant, uint64_t claim) {
  Owner record;
  record.job = claimant.job;
  record.generation = claimant.generation;
  record.claim = claim;
  record.who = claimant.who;
  record.wall_ns = wall_clock_();
  CONVOY_ASSIGN_OR_RETURN(const auto bytes, encode(record));
  const Status created = store_.create_new(owner_name(record.claim), bytes);
  if (created.code() == Code::kAlreadyExists) return false;
  CONVOY_RETURN_IF_ERROR(created);
  // A claimant that slept since its list may have got a number that was used and tidied away.
  CONVOY_ASSIGN_OR_RETURN(const std::vector<uint64_t> now, owner_claims());
  if (now.empty() || now.front() != record.claim) return false;
  CONVOY_RETURN_IF_ERROR(seal(record));
  claimant_ = claimant;
  claim_ = record.claim;
  took_over_ = true;
  return true;
}

Status Catalog::take_over(const Claimant& claimant, bool force) {
  claim_ = 0;
  took_over_ = false;
  CONVOY_RETURN_IF_ERROR(check_versions());
  for (int i = 0; i < kClaimTriesMax; ++i) {
    // The list first: whoever claims after it and before our create_new() takes the number we try.
    CONVOY_ASSIGN_OR_RETURN(const std::vector<uint64_t> claims, owner_claims());
    CONVOY_RETURN_IF_ERROR(may_claim(claimant, force));
    CONVOY_ASSIGN_OR_RETURN(const bool claimed,
                            try_claim(claimant, claims.empty() ? 1 : claims.front() + 1));
    if (claimed) return ok_status();
  }
  return {Code::kUnavailable, "checkpoint folder " + store_.name() +
                                  " is being taken over by others all the time: find out which "
                                  "jobs were given it."};
}

Status Catalog::follow(const Owner& owner, const std::string& who) {
  claim_ = 0;
  took_over_ = false;
  CONVOY_RETURN_IF_ERROR(check_versions());
  CONVOY_ASSIGN_OR_RETURN(const std::vector<uint64_t> claims, owner_claims());
  const bool is_newest = claims.empty() || claims.front() == owner.claim;
  if (is_newest) {
    CONVOY_ASSIGN_OR_RETURN(const bool claimed,
                            try_claim({owner.job, owner.generation, who}, owner.claim + 1));
    if (claimed) return ok_status();
  }
  return {Code::kUnavailable, "checkpoint folder " + store_.name() +
                                  " was taken over by another just now; see who has it."};
}

// Writes the list of commits that count into our own owner record, which ends the takeover.
Status Catalog::seal(Owner record) {
  CONVOY_ASSIGN_OR_RETURN(const std::vector<StepInfo> steps, list_steps());
  for (const StepInfo& step : steps) {
    if (step.status.ok()) record.inherited.push_back(step.key);
  }
  record.sealed = true;
  CONVOY_ASSIGN_OR_RETURN(const auto bytes, encode(record));
  CONVOY_RETURN_IF_ERROR(store_.put(owner_name(record.claim), bytes));
  CONVOY_ASSIGN_OR_RETURN(const std::vector<uint64_t> claims, owner_claims());
  for (const uint64_t claim : claims) {
    // Of no more use; what can't be removed now is the next owner's to remove.
    if (claim < record.claim) (void)store_.remove(owner_name(claim)).ok();
  }
  return ok_status();
}

Status Catalog::join(const Claimant& claimant) {
  claim_ = 0;
  took_over_ = false;
  CONVOY_ASSIGN_OR_RETURN(const std::optional<Owner> current, newest_owner(false));
  if (!current) {
    return {Code::kFailedPrecondition, "checkpoint folder " + store_.name() +
                                           " belongs to nobody yet: job '" + claimant.job +
                                           "' must take it over before its nodes write."};
  }
  if (current->job != claimant.job || current->generation != claimant.generation) {
    return {Code::kFailedPrecondition, "checkpoint folder " + store_.name() + " belongs to " +
                                           describe(*current) + ", not to job '" + claimant.job +
                                           "' generation " + std::to_string(claimant.generation) +
                                           "."};
  }
  claimant_ = claimant;
  claim_ = current->claim;
  return ok_status();
}

Status Catalog::release() {
  CONVOY_RETURN_IF_ERROR(require_owner());
  const std::string path = owner_name(claim_);
  CONVOY_ASSIGN_OR_RETURN(const auto bytes, store_.get(path, kRecordBytesMax));
  CONVOY_ASSIGN_OR_RETURN(Owner record, decode_owner(bytes, store_.name() + "/" + path));
  record.released = true;
  CONVOY_ASSIGN_OR_RETURN(const auto released, encode(record));
  CONVOY_RETURN_IF_ERROR(store_.put(path, released));
  claim_ = 0;
  took_over_ = false;
  return ok_status();
}

Status Catalog::lost(const std::string& what) {
  const Result<std::optional<Owner>> now = newest_owner(false);
  const bool known = now.ok() && now->has_value() && (*now)->claim != claim_;
  return {Code::kFailedPrecondition,
          "cannot " + what + " in checkpoint folder " + store_.name() + ": it was taken over by " +
              (known ? describe(**now) : "another process") + "; job '" + claimant_.job +
              "' generation " + std::to_string(claimant_.generation) + " has lost it."};
}

Status Catalog::require_owner() {
  CONVOY_CHECK(took_over_, "committing and collecting need Catalog::take_over()");
  CONVOY_ASSIGN_OR_RETURN(const std::vector<uint64_t> claims, owner_claims());
  if (!claims.empty() && claims.front() == claim_) return ok_status();
  return lost("commit or collect");
}

// ---- writing

std::string Catalog::part_path(uint64_t step, uint32_t node) const {
  CONVOY_CHECK(claim_ != 0, "writing needs Catalog::take_over() or join()");
  return part_name({step, claim_}, claimant_.generation, node);
}

std::string Catalog::data_path(uint64_t step, uint32_t node, uint32_t index) const {
  CONVOY_CHECK(claim_ != 0, "writing needs Catalog::take_over() or join()");
  return data_name({step, claim_}, claimant_.generation, node, index);
}

Result<PartRef> Catalog::write_part(const Part& part) {
  const std::string path = part_path(part.step, part.node);
  CONVOY_ASSIGN_OR_RETURN(const auto bytes, encode(part));
  CONVOY_RETURN_IF_ERROR(store_.put(path, bytes));
  return PartRef{path, bytes.size(), xxh3(bytes), part.node};
}

Status Catalog::check_complete(const Commit& commit) {
  if (commit.parts.empty()) return missing("it has no parts", commit.step);
  std::map<std::string, uint64_t> sizes;
  for (const uint64_t step : commit.steps) {
    CONVOY_ASSIGN_OR_RETURN(const auto entries, store_.list(step_folder(step)));
    for (const StoreEntry& entry : entries) sizes.emplace(entry.path, entry.bytes);
  }
  std::map<std::string_view, const TensorEntry*> index;
  for (const TensorEntry& entry : commit.tensors) index.emplace(entry.info.name, &entry);
  for (uint32_t i = 0; i < commit.parts.size(); ++i) {
    const PartRef& ref = commit.parts[i];
    const auto key = parse_data(ref.path);
    if (!key || key->step != commit.step) {
      return missing("part " + ref.path + " does not lie in its folder", commit.step);
    }
    const Result<Part> part = read_part(store_, ref);
    if (part.status().code() == Code::kNotFound) {
      return missing("part " + ref.path + " is not there", commit.step);
    }
    if (!part.ok()) return part.status();
    if (part->step != commit.step || part->node != ref.node) {
      return missing("part " + ref.path + " is another step's or node's", commit.step);
    }
    for (const File& file : part->files) {
      const auto found = sizes.find(file.path);
      if (found == sizes.end() || found->second != file.bytes || !parse_data(file.path)) {
        return missing(
            "file " + file.path + ", which part " + ref.path + " names, " +
                (found == sizes.end() ? "is not there"
                                      : "has " + std::to_string(found->second) +
                                            " bytes in place of " + std::to_string(file.bytes)),
            commit.step);
      }
    }
    CONVOY_RETURN_IF_ERROR(check_index(index, *part, i));
  }
  return ok_status();
}

// Writes the record, or finds it written.
Status Catalog::write_commit(const Commit& commit) {
  const std::string path = commit_name({commit.step, commit.claim});
  CONVOY_ASSIGN_OR_RETURN(const auto bytes, encode(commit));
  const Status created = store_.create_new(path, bytes);
  if (created.code() != Code::kAlreadyExists) return created;
  CONVOY_ASSIGN_OR_RETURN(const auto existing, store_.get(path, kRecordBytesMax));
  const Result<Commit> there = decode_commit(existing, store_.name() + "/" + path);
  // Ours by its claim, so a damaged one is ours to mend.
  if (there.status().code() == Code::kDataLoss) return store_.put(path, bytes);
  if (!there.ok()) return there.status();
  if (same_commit(*there, commit)) return ok_status();
  return {Code::kAlreadyExists, "step " + std::to_string(commit.step) + " is committed in " +
                                    store_.name() +
                                    " with other content: a step can be committed only once."};
}

// What the nodes have told lies in the folder.
Status Catalog::check_listed(const Commit& commit, std::span<const File> files) {
  if (commit.parts.empty()) return missing("it has no parts", commit.step);
  CONVOY_ASSIGN_OR_RETURN(const auto entries, store_.list(step_folder(commit.step)));
  std::unordered_map<std::string_view, uint64_t> sizes;
  for (const StoreEntry& entry : entries) sizes.emplace(entry.path, entry.bytes);
  const auto check = [&](const std::string& path, uint64_t bytes, uint32_t node) {
    const auto found = sizes.find(path);
    if (found != sizes.end() && found->second == bytes) return ok_status();
    return missing(path + ", which node " + std::to_string(node) + " says that it wrote, " +
                       (found == sizes.end() ? "is not there"
                                             : "has " + std::to_string(found->second) +
                                                   " bytes in place of " + std::to_string(bytes)),
                   commit.step);
  };
  for (const PartRef& ref : commit.parts) {
    const auto key = parse_data(ref.path);
    if (!key || *key != CommitKey{commit.step, claim_}) {
      return missing("part " + ref.path + " does not lie in its folder", commit.step);
    }
    CONVOY_RETURN_IF_ERROR(check(ref.path, ref.bytes, ref.node));
  }
  for (const File& file : files) {
    if (const auto found = sizes.find(file.path);
        found == sizes.end() || found->second != file.bytes) {
      return missing(
          "file " + file.path + " is not there with its " + std::to_string(file.bytes) + " bytes",
          commit.step);
    }
  }
  return ok_status();
}

Status Catalog::commit_after(Commit commit, const std::function<Status(const Commit&)>& check) {
  CONVOY_RETURN_IF_ERROR(require_owner());
  commit.claim = claim_;
  commit.job = claimant_.job;
  commit.generation = claimant_.generation;
  if (commit.wall_ns == 0) commit.wall_ns = wall_clock_();
  CONVOY_RETURN_IF_ERROR(check(commit));
  CONVOY_RETURN_IF_ERROR(require_owner());
  CONVOY_RETURN_IF_ERROR(write_commit(commit));
  // After the record is there: see the top of this file.
  return require_owner().with_context("the commit of step " + std::to_string(commit.step) +
                                      " may not count");
}

Status Catalog::commit(Commit commit) {
  return commit_after(std::move(commit), [this](const Commit& c) { return check_complete(c); });
}

Status Catalog::commit_vouched(Commit commit, std::span<const File> files) {
  return commit_after(std::move(commit), [&](const Commit& c) { return check_listed(c, files); });
}

// ---- reading

// Names only, newest first; a status that is not ok if the record does not count by its claim.
Result<std::vector<StepInfo>> Catalog::list_steps() {
  // The list of records first: one that is written by an owner that has lost the folder after the
  // owner record was read must not be taken for good.
  CONVOY_ASSIGN_OR_RETURN(const auto entries, store_.list(std::string(kCommitFolder)));
  CONVOY_ASSIGN_OR_RETURN(const std::optional<Owner> sealed, newest_owner(true));
  std::vector<StepInfo> steps;
  for (const StoreEntry& entry : entries) {
    const auto key = parse_commit(entry.path);
    if (!key) continue;
    StepInfo info{*key, entry.path, ok_status()};
    if (!counts(*key, sealed)) {
      info.status = Status(Code::kAborted, entry.path +
                                               " was written by a process that had lost the "
                                               "folder to " +
                                               describe(*sealed) + "; it does not count.");
    }
    steps.push_back(std::move(info));
  }
  std::ranges::sort(steps, [](const StepInfo& a, const StepInfo& b) {
    return std::tie(a.key.claim, a.key.step) > std::tie(b.key.claim, b.key.step);
  });
  return steps;
}

// The record of `info`, whose status takes the failure.
Result<Commit> Catalog::read_commit(StepInfo& info) {
  if (!info.status.ok()) return info.status;
  const std::string path = store_.name() + "/" + info.path;
  const Result<std::vector<std::byte>> bytes = store_.get(info.path, kRecordBytesMax);
  Result<Commit> commit = bytes.ok() ? decode_commit(*bytes, path) : Result<Commit>(bytes.status());
  if (commit.ok() && (commit->step != info.key.step || commit->claim != info.key.claim)) {
    commit =
        Status(Code::kDataLoss, path + " holds the commit record of step " +
                                    std::to_string(commit->step) + ": somebody has renamed it.");
  }
  info.status = commit.status();
  return commit;
}

Result<std::vector<StepInfo>> Catalog::read_steps(std::map<std::string, Commit>& commits) {
  CONVOY_ASSIGN_OR_RETURN(std::vector<StepInfo> steps, list_steps());
  for (StepInfo& info : steps) {
    Result<Commit> commit = read_commit(info);
    if (commit.ok()) commits.emplace(info.path, std::move(commit).value());
  }
  return steps;
}

Result<std::vector<StepInfo>> Catalog::steps() {
  std::map<std::string, Commit> commits;
  return read_steps(commits);
}

Result<Commit> Catalog::latest() {
  CONVOY_ASSIGN_OR_RETURN(std::vector<StepInfo> steps, list_steps());
  std::string others;
  for (StepInfo& info : steps) {
    Result<Commit> commit = read_commit(info);
    if (commit.ok()) return commit;
    others += "\n  " + info.status.message();
  }
  return Status(Code::kNotFound,
                "checkpoint folder " + store_.name() + " has no committed step" +
                    (others.empty() ? "." : "; what is there does not count:" + others));
}

Result<Commit> Catalog::load_commit(uint64_t step) {
  CONVOY_ASSIGN_OR_RETURN(std::vector<StepInfo> steps, list_steps());
  Status failure(Code::kNotFound, "checkpoint folder " + store_.name() + " has no committed step " +
                                      std::to_string(step) + ".");
  bool first = true;
  for (StepInfo& info : steps) {
    if (info.key.step != step) continue;
    Result<Commit> commit = read_commit(info);
    if (commit.ok()) return commit;
    if (std::exchange(first, false)) failure = info.status;
  }
  return failure;
}

Result<Commit> Catalog::load_commit(const CommitKey& key) {
  CONVOY_ASSIGN_OR_RETURN(std::vector<StepInfo> steps, list_steps());
  for (StepInfo& info : steps) {
    if (info.key == key) return read_commit(info);
  }
  return Status(Code::kNotFound, "checkpoint folder " + store_.name() + " has no committed step " +
                                     std::to_string(key.step) + " of claim " +
                                     std::to_string(key.claim) + ".");
}

Result<Part> Catalog::load_part(const PartRef& ref) {
  return read_part(store_, ref);
}

}  // namespace convoy::ckpt
