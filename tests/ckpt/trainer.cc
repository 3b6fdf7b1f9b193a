// A trainer without torch for tests of the whole service: `ckpt_trainer train FOLDER [NAME=VALUE…]`
// under `convoy run` (or any launcher) resumes from the newest step, in memory or on the disk, and
// checks it bit for bit; then it saves step by step. What it has seen it appends to the file
// `events`, a line in one write: "resumed RANK STEP memory|disk|none", "saved RANK STEP" once
// save() has returned, "durable RANK STEP" once wait() has. `ckpt_trainer check FOLDER` loads every
// step that counts as committed and compares it; it prints "newest STEP" and "steps N".
#include "tests/ckpt/known_state.h"
#include <convoy/base/clock.h>
#include <convoy/ckpt/agent_process.h>
#include <convoy/ckpt/client.h>
#include <convoy/ckpt/restore.h>
#include <convoy/launch/environment.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <map>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;
constexpr auto kPatience = 120s;

struct Settings {
  std::string folder;
  std::map<std::string, std::string> values{
      {"steps", "10"},      // the last one
      {"rows", "512"},      // of each matrix: 4 KiB each
      {"events", ""},       // file
      {"wait", "0"},        // 1: until each step is durable; last: the last one
      {"pause", "0"},       // ms between steps
      {"die", "0"},         // SIGKILL itself when the save of that step has returned
      {"hold", ""},         // a file: waits until it is there before the step
      {"hold_step", "0"},   // of this number; 0: after the last one
      {"disk_every", "1"},  // as ClientOptions
      {"bandwidth", "0"},  {"keep", "2"},
      {"resume", "1"},    // 0: starts anew, and does not look at the folder
      {"failures", "0"},  // saves that may fail with kUnavailable
  };
  std::string text(const std::string& name) const { return values.at(name); }
  uint64_t number(const std::string& name) const {
    return std::strtoull(values.at(name).c_str(), nullptr, 10);
  }
};

class Trainer {
 public:
  Trainer(Settings settings, launch::Environment place)
      : settings_(std::move(settings)),
        place_(std::move(place)),
        rank_(static_cast<uint32_t>(place_.rank)),
        ranks_(static_cast<uint32_t>(place_.world_size)),
        state_(static_cast<int64_t>(settings_.number("rows")), rank_, ranks_) {}

  Status run() {
    CONVOY_ASSIGN_OR_RETURN(agent_, ensure_agent({.agent = place_.agent,
                                                  .job = launch::local_job(place_),
                                                  .program = place_.program}));
    CONVOY_ASSIGN_OR_RETURN(const uint64_t resumed, again([this] { return resume(); }));
    CONVOY_RETURN_IF_ERROR(open_progress());
    CONVOY_ASSIGN_OR_RETURN(client_, again([this] { return SnapshotClient::connect(options()); }));
    for (uint64_t step = resumed + 1; step <= settings_.number("steps"); ++step) {
      if (step == settings_.number("hold_step")) hold();
      CONVOY_RETURN_IF_ERROR(train(step));
    }
    if (settings_.number("hold_step") == 0) hold();
    return ok_status();
  }

 private:
  ClientOptions options() const {
    ClientOptions o;
    o.agent = agent_;
    o.job = "job";
    o.generation = static_cast<uint64_t>(place_.generation);
    o.rank = rank_;
    o.world_size = ranks_;
    o.local_size = static_cast<uint32_t>(place_.local_world_size);
    o.mesh = "dp=" + std::to_string(ranks_);
    o.folder = settings_.folder;
    o.keep_newest = settings_.number("keep");
    o.disk_every = settings_.number("disk_every");
    o.bandwidth = settings_.number("bandwidth");
    o.threads = 1;
    return o;
  }

  // Where agents may die: until there is one.
  template <class Call>
  auto again(Call call) const -> decltype(call()) {
    const Deadline deadline = Deadline::after(kPatience);
    for (;;) {
      auto result = call();
      if (result.status().code() != Code::kUnavailable || settings_.number("failures") == 0 ||
          deadline.passed()) {
        return result;
      }
      std::this_thread::sleep_for(10ms);
    }
  }

  void hold() const {
    const std::string file = settings_.text("hold");
    while (!file.empty() && ::access(file.c_str(), F_OK) != 0) std::this_thread::sleep_for(5ms);
  }

  void note(const std::string& what, uint64_t step, const std::string& more = "") const {
    if (settings_.text("events").empty()) return;
    const std::string line = what + " " + std::to_string(rank_) + " " + std::to_string(step) +
                             (more.empty() ? "" : " " + more) + "\n";
    const UniqueFd file(
        ::open(settings_.text("events").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    [[maybe_unused]] const auto written = ::write(file.get(), line.data(), line.size());
  }

  // Rank 0 decides for all, through a file; nothing is saved before all have resumed, so that what
  // it saw is still the newest for the others.
  Result<uint64_t> resume() {
    if (settings_.number("resume") == 0) return uint64_t{0};
    const std::string decided =
        settings_.text("events") + ".resume." + std::to_string(place_.generation) + "." + agent_;
    if (rank_ != 0) {
      while (::access(decided.c_str(), F_OK) != 0) std::this_thread::sleep_for(2ms);
      uint64_t step = 0;
      std::ifstream(decided) >> step;
      if (step == 0) return step;
      CONVOY_RETURN_IF_ERROR(load_step(step).status());
      return step;
    }
    CONVOY_ASSIGN_OR_RETURN(const uint64_t step, load_step(0));
    if (ranks_ > 1) {
      std::ofstream(decided + ".new") << step;
      ::rename((decided + ".new").c_str(), decided.c_str());
    }
    return step;
  }

  // That step, or for 0 the newest; from memory if it is there.
  Result<uint64_t> load_step(uint64_t wanted) {
    std::error_code error;
    std::filesystem::create_directories(settings_.folder, error);
    CONVOY_ASSIGN_OR_RETURN(const auto store, open_local_store(settings_.folder));
    Catalog catalog(*store);
    CONVOY_ASSIGN_OR_RETURN(const auto held, find_in_memory(agent_));
    const Result<Commit> latest = catalog.latest();
    if (!latest.ok() && latest.status().code() != Code::kNotFound) return latest.status();
    const uint64_t on_disk = latest.ok() ? latest->step : 0;
    const uint64_t newest = std::max(on_disk, held ? held->step : 0);
    const uint64_t step = wanted == 0 ? newest : wanted;
    if (step == 0) {
      note("resumed", 0, "none");
      return step;
    }
    const bool from_memory = held && held->step == step;
    CONVOY_RETURN_IF_ERROR(from_memory ? load_held(*held) : load_file(catalog, *store, step));
    const std::string difference = state_.difference(step);
    if (!difference.empty()) return Status(Code::kDataLoss, difference);
    note("resumed", step, from_memory ? "memory" : "disk");
    return step;
  }

  Status load_held(const HeldStep& held) {
    Commit head;
    head.step = held.step;
    head.world_size = held.world_size;
    std::vector<Snapshot> snapshots;
    for (const HeldSnapshot& s : held.ranks) snapshots.push_back({s.part, {s.stream}, s.arena});
    CONVOY_ASSIGN_OR_RETURN(const auto source,
                            ArenaSource::create("memory", head, std::move(snapshots)));
    return load(*source, state_.state());
  }

  Status load_file(Catalog& catalog, Store& store, uint64_t step) {
    CONVOY_ASSIGN_OR_RETURN(const Commit commit, catalog.load_commit(step));
    StoreSource source(store, commit);
    return load(source, state_.state());
  }

  // As collectives would: no rank is more than a step ahead of another.
  Status open_progress() {
    const std::string name =
        settings_.text("events") + ".progress." + std::to_string(place_.generation) + "." + agent_;
    const UniqueFd file(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    const size_t bytes = ranks_ * sizeof(std::atomic<uint64_t>);
    if (!file || ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
      return errno_status(name, errno);
    }
    void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    if (memory == MAP_FAILED) return errno_status(name, errno);
    progress_ = static_cast<std::atomic<uint64_t>*>(memory);
    return ok_status();
  }
  void keep_in_step(uint64_t step) {
    progress_[rank_] = step;
    for (uint32_t rank = 0; rank < ranks_; ++rank) {
      while (progress_[rank] < step) std::this_thread::sleep_for(200us);
    }
  }

  Status train(uint64_t step) {
    keep_in_step(step);
    state_.fill(step);
    Result<SaveOutcome> saved = client_->save(step, state_.state());
    if (saved.status().code() == Code::kUnavailable && failures_ < settings_.number("failures")) {
      ++failures_;
      note("failed", step);
      std::this_thread::sleep_for(5ms);
      return ok_status();
    }
    if (!saved.ok()) return saved.status();
    note("saved", step);
    if (settings_.number("die") == step) ::kill(::getpid(), SIGKILL);
    const bool last = step == settings_.number("steps");
    if (settings_.text("wait") == "1" || (last && settings_.text("wait") == "last")) {
      // Where agents die, another rank may not have saved the step at all.
      const Nanos patience = settings_.number("failures") > 0 ? Nanos(1s) : Nanos(kPatience);
      const Status durable = client_->wait(step, Tier::kLocalDurable, patience);
      if (durable.ok()) note("durable", step);
      if (!durable.ok() && settings_.number("failures") == 0) return durable;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(settings_.number("pause")));
    return ok_status();
  }

  const Settings settings_;
  const launch::Environment place_;
  const uint32_t rank_, ranks_;
  KnownState state_;
  std::string agent_;
  std::unique_ptr<SnapshotClient> client_;
  uint64_t failures_ = 0;
  std::atomic<uint64_t>* progress_ = nullptr;  // of all ranks: the step that each is at
};

// Every step that counts, as a single rank would load it, with the bytes of all ranks.
Status check(const std::string& folder) {
  CONVOY_ASSIGN_OR_RETURN(const auto store, open_local_store(folder));
  Catalog catalog(*store);
  CONVOY_ASSIGN_OR_RETURN(const std::vector<StepInfo> steps, catalog.steps());
  int counted = 0;
  for (const StepInfo& info : steps) {
    if (info.status.code() == Code::kAborted) continue;  // by one who had lost the folder
    CONVOY_RETURN_IF_ERROR(info.status);
    CONVOY_ASSIGN_OR_RETURN(const Commit commit, catalog.load_commit(info.key));
    StoreSource source(*store, commit);
    CONVOY_ASSIGN_OR_RETURN(const Part* part, source.part(0));
    int64_t rows = 0;
    for (const TensorInfo& tensor : part->tensors) {
      if (tensor.name == "fast") rows = tensor.shape[0];
    }
    for (uint32_t rank = 0; rank < commit.world_size; ++rank) {
      KnownState state(rows, rank, commit.world_size);
      CONVOY_RETURN_IF_ERROR(load(source, state.state()));
      const std::string difference = state.difference(info.key.step);
      if (!difference.empty()) return {Code::kDataLoss, difference};
    }
    ++counted;
  }
  const auto latest = catalog.latest();
  std::printf("newest %llu\nsteps %d\n",
              static_cast<unsigned long long>(latest.ok() ? latest->step : 0), counted);
  return ok_status();
}

Status run(int argc, char** argv) {
  if (argc < 3) return {Code::kInvalidArgument, "ckpt_trainer train|check FOLDER [NAME=VALUE…]"};
  if (std::string(argv[1]) == "check") return check(argv[2]);
  Settings settings;
  settings.folder = argv[2];
  for (int i = 3; i < argc; ++i) {
    const std::string word = argv[i];
    const std::string name = word.substr(0, word.find('='));
    if (!settings.values.contains(name)) return {Code::kInvalidArgument, "no setting " + name};
    settings.values[name] = word.substr(name.size() + 1);
  }
  CONVOY_ASSIGN_OR_RETURN(launch::Environment place, launch::read_environment());
  return Trainer(std::move(settings), std::move(place)).run();
}

}  // namespace
}  // namespace convoy::ckpt

int main(int argc, char** argv) {
  const convoy::Status status = convoy::ckpt::run(argc, argv);
  if (!status.ok()) std::fprintf(stderr, "ckpt_trainer: %s\n", status.to_string().c_str());
  return status.ok() ? 0 : 3;
}
