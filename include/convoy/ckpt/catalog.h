#pragma once

#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

// The rules of a checkpoint folder, on top of a Store: who may commit, what counts as committed,
// what may go. docs/format/checkpoint.md has the folder's layout.
namespace convoy::ckpt {

// Who asks for a folder.
struct Claimant {
  std::string job;
  uint64_t generation = 0;  // of the job's workers; a restart has a higher one
  std::string who;          // host and process, for messages
};

// A commit record in the folder and what is wrong with it, if anything is.
struct StepInfo {
  CommitKey key;
  std::string path;
  // ok: committed. Else why this record does not count: damaged, from a newer Convoy, or written by
  // a job that had lost the folder.
  Status status;
};

// Which committed steps stay. A step stays if any of the rules keeps it; the newest always does.
struct KeepPolicy {
  uint64_t newest = 1;      // that many, newest first
  uint64_t every = 0;       // and each whose number is a multiple of it; 0: none
  std::set<uint64_t> pins;  // and these; pin the base of an incremental save while it runs
  // Steps that are being written: their uncommitted files stay too. (Files of steps above this
  // claim's newest commit stay without being named.)
  std::set<uint64_t> writing;
};

struct Collected {
  std::vector<uint64_t> steps;  // whose commit records were removed
  uint64_t files = 0;           // removed, commit records not counted
  uint64_t bytes = 0;
  // Damaged commit records, which are left for people or a scrubber to mend, with their own data.
  std::vector<std::string> damaged;
};

// A chunk that can't be read or is not what was written.
struct BadChunk {
  std::string part;  // path
  uint32_t rank = 0;
  uint64_t chunk = 0;
  std::string file;
  uint64_t offset = 0;
  Status status;
  std::vector<std::string> tensors;  // with bytes in it
};

struct VerifyProgress {
  uint64_t chunks = 0;
  uint64_t chunks_total = 0;  // of the parts read so far
  uint64_t bytes = 0;         // raw
  uint64_t parts = 0;
  uint64_t parts_total = 0;
};

struct VerifyReport {
  VerifyProgress done;
  std::vector<BadChunk> bad;
  std::vector<Status> bad_parts;  // parts that can't be read at all: their chunks are not in `bad`
  bool ok() const { return bad.empty() && bad_parts.empty(); }
};

// What the commit record needs to know of a node's part: some 100 bytes a tensor, whatever the
// number of chunks and pieces.
struct PartSummary {
  uint64_t step = 0;
  PartRef ref;
  std::vector<TensorInfo> tensors;
  std::vector<bool> held;       // by tensor: whether the part has pieces of it
  std::vector<File> files;      // of the step's own folder
  std::vector<uint64_t> steps;  // ascending: in whose folders its files lie

  bool operator==(const PartSummary&) const = default;
};
// kInvalidArgument if a file of the part lies in no step's folder.
Result<PartSummary> summarise(const PartRef& ref, const Part& part);

// Builds the commit record from the parts of all nodes, one at a time, in any order; what it makes
// depends on the set only. Plain data, one thread at a time.
class CommitBuilder {
 public:
  // `head` has all but parts, tensors and steps.
  explicit CommitBuilder(Commit head) : commit_(std::move(head)) {}
  // kInvalidArgument if the part is of another step or a file of it lies in no step's folder;
  // kMismatch, naming both nodes, if a tensor has another dtype or shape than an earlier part said.
  Status add(const PartRef& ref, const Part& part);
  Status add(const PartSummary& part);
  Commit finish() &&;

 private:
  struct Known {
    TensorInfo info;
    uint32_t node = 0;            // who told of it first
    std::vector<uint32_t> parts;  // that hold pieces, as added
  };
  Commit commit_;
  std::map<std::string, Known> tensors_;
  std::set<uint64_t> steps_;
};

// A checkpoint folder. Reading needs no claim; writing parts needs one (take_over or join), and
// committing and collecting are for the one that took over. A claim is a number: the folder's
// highest has it, every file's name holds its writer's, so no two writers share a name. The store
// must outlive the catalog. One thread at a time; every call may block on the store.
//
// What a crash can leave: files that no commit record names, which the next collect() removes,
// empty folders, and (only on a file system without O_TMPFILE, or where an owner record is
// replaced) hidden files.
class Catalog {
 public:
  // `wall_clock` (ns since 1970) only fills records for people; the default is the system's.
  explicit Catalog(Store& store, std::function<int64_t()> wall_clock = {});

  // ---- who has the folder

  // Claims the folder: from now on nobody else's commit succeeds. kFailedPrecondition, naming who
  // has it and since when, if another job has it and has not released it, or a newer generation of
  // this one, unless `force`; and always if a newer Convoy has written there. What was committed
  // until now stays; what an earlier owner commits after this does not count.
  Status take_over(const Claimant& claimant, bool force = false);
  // Claims the folder in place of `owner` (as owner() gave it), as the same job and generation, so
  // that the job's next start is not kept out. For tools: a job that still runs under that claim
  // loses the folder, so look at owner.released first. kUnavailable if another has claimed since.
  Status follow(const Owner& owner, const std::string& who);
  // What take_over() would say now; claims nothing.
  Status may_claim(const Claimant& claimant, bool force = false);
  // For the other nodes of the job that took over: takes its claim to write parts under.
  // kFailedPrecondition if the folder is another job's or generation's, or nobody's.
  Status join(const Claimant& claimant);
  // Who has the folder now; nothing if nobody ever took it.
  Result<std::optional<Owner>> owner();
  // Says in the owner record that this claim writes nothing more, so that tools (`convoy ckpt gc`)
  // may follow it; a process that is killed can't say it. The catalog has no claim any more. Needs
  // take_over(); kFailedPrecondition if another has the folder already.
  Status release();
  // This catalog's claim; 0 before take_over() or join().
  uint64_t claim() const { return claim_; }

  // ---- writing

  // "data/s000000000120/c00000007-g3/n00012.part". Needs a claim.
  std::string part_path(uint64_t step, uint32_t node) const;
  // "data/s000000000120/c00000007-g3/n00012-000.chunks": the node's file number `index`.
  std::string data_path(uint64_t step, uint32_t node, uint32_t index = 0) const;
  // Writes a part of this claim under its part_path(), durably, and may be repeated.
  Result<PartRef> write_part(const Part& part);
  // Makes the step exist. Checks first that this claim still has the folder (kFailedPrecondition),
  // and that every part is there with its checksum and every file it names with its size and in a
  // step that commit.steps lists (kDataLoss, naming the file). Sets claim, generation, job and, if
  // 0, the time. May be repeated: ok if the step is committed with the same content, kAlreadyExists
  // if with other content. After any other failure the step may exist or not; steps() tells.
  // Reads every part: cost grows with their bytes.
  Status commit(Commit commit);
  // The same for parts that their nodes vouch for: none is read. One list of the step's folder
  // shows whether all parts and `files` (of that folder) are there with their sizes (kDataLoss);
  // files of older steps belong to committed ones and are not looked at.
  Status commit_vouched(Commit commit, std::span<const File> files);

  // ---- reading

  // All commit records, newest first: by claim, then by step, never by a clock. (A later claim is
  // newer even if it went back to an earlier step.) Reads each of them.
  Result<std::vector<StepInfo>> steps();
  // The newest committed step. kNotFound if there is none; the text then tells of records that do
  // not count.
  Result<Commit> latest();
  // The newest commit of `step`. kNotFound, or why its record does not count.
  Result<Commit> load_commit(uint64_t step);
  // That very one, if it counts.
  Result<Commit> load_commit(const CommitKey& key);
  // kNotFound, or kDataLoss if it is not what the commit record saw.
  Result<Part> load_part(const PartRef& ref);
  // Reads every chunk of the step. `progress`, if given, is called after each one and may stop the
  // reading by returning false (kAborted).
  Result<VerifyReport> verify(uint64_t step,
                              const std::function<bool(const VerifyProgress&)>& progress = {});

  // ---- making room

  // Removes the steps that no rule keeps: first their commit records, then, once that is durable,
  // all files that no remaining commit refers to and nobody can be writing. Files whose names are
  // not of the folder's layout are never touched. Needs the claim by take_over(). A crash at any
  // point leaves only what the next call removes. Refuses (kFailedPrecondition) to touch anything
  // if a record of a newer Convoy is there.
  Result<Collected> collect(const KeepPolicy& policy);
  // What collect() would remove, were it called after a takeover now. Needs no claim, changes
  // nothing.
  Result<Collected> preview(const KeepPolicy& policy);

 private:
  using Progress = std::function<bool(const VerifyProgress&)>;

  Status require_owner();
  Result<std::vector<uint64_t>> owner_claims();
  Result<std::optional<Owner>> newest_owner(bool sealed);
  Status check_versions();
  Result<bool> try_claim(const Claimant& claimant, uint64_t claim);
  Status seal(Owner record);
  Status lost(const std::string& what);

  Status check_complete(const Commit& commit);
  Status check_listed(const Commit& commit, std::span<const File> files);
  Status commit_after(Commit commit, const std::function<Status(const Commit&)>& check);
  Status write_commit(const Commit& commit);

  Result<std::vector<StepInfo>> list_steps();
  Result<Commit> read_commit(StepInfo& info);
  Result<std::vector<StepInfo>> read_steps(std::map<std::string, Commit>& commits);
  Status verify_part(const Part& part, const PartRef& ref, const Progress& progress,
                     VerifyReport& report);

  std::set<std::string> choose(const std::vector<StepInfo>& steps, const KeepPolicy& policy) const;
  struct Garbage {
    std::vector<std::string> commits;  // paths of commit records
    std::vector<StoreEntry> files;
    Collected sums;
  };
  Result<Garbage> garbage(const KeepPolicy& policy, uint64_t claim);
  void choose_commits(const std::vector<StepInfo>& steps, const std::set<std::string>& keep,
                      Garbage& out) const;
  Status choose_files(const KeepPolicy& policy, uint64_t claim, const std::vector<StepInfo>& steps,
                      const std::map<std::string, Commit>& kept, Garbage& out);
  void refer(const Commit& commit, std::set<uint64_t>& steps, std::set<std::string>& files);

  Store& store_;
  std::function<int64_t()> wall_clock_;
  Claimant claimant_;
  uint64_t claim_ = 0;
  bool took_over_ = false;
};

// The raw bytes of chunk `i` of a stream of `part`, checked. kDataLoss if they are not what was
// saved, or what the store says. Any thread.
Result<std::vector<std::byte>> read_chunk(Store& store, const Part& part, const Stream& stream,
                                          uint64_t i);
// The same into `out`, which has stream.chunk_size(i) bytes; its content is undefined on failure.
Status read_chunk_into(Store& store, const Part& part, const Stream& stream, uint64_t i,
                       std::span<std::byte> out);

// Names of the tensors with bytes in chunk `i` of a stream of `part`.
std::vector<std::string> tensors_in(const Part& part, const Stream& stream, uint64_t i);

// One zstd frame that holds `raw`, or nothing if it would not be shorter: store it raw then.
std::optional<std::vector<std::byte>> compress_chunk(std::span<const std::byte> raw, int level = 1);

}  // namespace convoy::ckpt
