// Everything that blocks goes through wait(): it notices an abort, tells who is missing when it
// takes too long, and finds peers of other nodes that have died. Peers of the same node are not
// looked after, as in NCCL: what waits for a dead one waits until somebody aborts it.
#include "src/standin/nccl/communicator.h"

#include "src/standin/nccl/faults.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sched.h>
#include <unistd.h>
#include <utility>

namespace convoy::standin::nccl {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr int kYields = 30;         // before a wait sleeps
constexpr auto kNap = 20ms;         // between looks at the stop flag
constexpr auto kLookEvery = 200ms;  // after dead peers
constexpr int kExitDeadline = 75;

double seconds_from(const char* name, double otherwise) {
  const char* text = std::getenv(name);
  const double value = text == nullptr ? otherwise : std::strtod(text, nullptr);
  return value > 0 ? value : otherwise;
}

// Zombies count as dead: nobody will run in them again.
bool is_alive(int pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(stat, line)) return false;
  const size_t state = line.rfind(')');
  return state == std::string::npos || (line[state + 2] != 'Z' && line[state + 2] != 'X');
}

uint64_t hash_of(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

std::mutex error_mutex;
std::string error_text;

bool is_collective(const OpRecord& op) {
  return op.function != Function::none && op.function < Function::send;
}

}  // namespace

ncclResult_t fail(ncclResult_t result, const std::string& text) {
  static const bool loud = [] {
    const char* level = std::getenv("NCCL_DEBUG");
    return level != nullptr && std::strcmp(level, "VERSION") != 0;
  }();
  if (loud) std::fprintf(stderr, "convoy stand-in: NCCL WARN %s\n", text.c_str());
  const std::lock_guard lock(error_mutex);
  error_text = text;
  return result;
}

std::string last_error() {
  const std::lock_guard lock(error_mutex);
  return error_text;
}

uint64_t host_hash() {
  if (const char* id = std::getenv("NCCL_HOSTID")) return hash_of(id);
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  return hash_of(name);
}

const Patience& Patience::get() {
  static const Patience patience{
      std::chrono::duration_cast<Clock::duration>(
          std::chrono::duration<double>(seconds_from("CONVOY_STANDIN_NOTICE_S", 30))),
      std::chrono::duration_cast<Clock::duration>(
          std::chrono::duration<double>(seconds_from("CONVOY_STANDIN_DEADLINE_S", 1200)))};
  return patience;
}

bool Config::read(const ncclConfig_t* from, const Config& inherited, Config& to, std::string& why) {
  to = inherited;
  if (from != nullptr) {
    if (from->magic != NCCL_API_MAGIC || from->size < offsetof(ncclConfig_t, cgaClusterSize)) {
      why = "the ncclConfig_t wasn't made with NCCL_CONFIG_INITIALIZER";
      return false;
    }
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    std::memcpy(static_cast<void*>(&config), from, std::min(from->size, sizeof config));
    const auto flag = [](int value, bool& to) {
      if (value != NCCL_CONFIG_UNDEF_INT) to = value != 0;
    };
    flag(config.blocking, to.blocking);
    flag(config.splitShare, to.split_share);
    flag(config.shrinkShare, to.shrink_share);
    if (config.commName != nullptr) to.name = config.commName;
  }
  if (const char* blocking = std::getenv("NCCL_COMM_BLOCKING")) to.blocking = *blocking != '0';
  return true;
}

Communicator::Communicator(int device, Config config, std::shared_ptr<StopFlag> stop,
                           std::shared_ptr<StopFlag> parent_stop)
    : device_(device),
      config_(std::move(config)),
      stop_(std::move(stop)),
      parent_stop_(std::move(parent_stop)) {}

Communicator::~Communicator() {
  if (job_.joinable()) {
    // The last reference may be the job's own.
    if (job_.get_id() == std::this_thread::get_id()) {
      job_.detach();
    } else {
      job_.join();
    }
  }
  if (last != nullptr) (void)cudaEventDestroy(last);
  if (status_ >= 0) Faults::get().remove_status(status_);
}

uint64_t Communicator::id() const {
  const Segment* segment = shown_.load(std::memory_order_acquire);
  return segment == nullptr ? 0 : segment->nonce;
}

std::string Communicator::name() const {
  char text[160];
  std::snprintf(text, sizeof text, "communicator %s%s%s(%04x), rank %d of %d",
                config_.name.empty() ? "" : "'", config_.name.c_str(),
                config_.name.empty() ? "" : "' ", static_cast<unsigned>(id() & 0xffff), rank_,
                nranks_);
  return text;
}

int Communicator::node_of(int rank) const {
  const uint64_t host = segment_->ranks[rank].host;
  int node = 0;
  for (int r = 0; r < nranks_; ++r) {
    const uint64_t there = segment_->ranks[r].host;
    if (there == host) return node;
    bool first = true;
    for (int earlier = 0; earlier < r; ++earlier) {
      first = first && segment_->ranks[earlier].host != there;
    }
    node += first ? 1 : 0;
  }
  return node;
}

int Communicator::nodes() const {
  int most = 0;
  for (int r = 0; r < nranks_; ++r) most = std::max(most, node_of(r) + 1);
  return most;
}

void* Communicator::device_address(int rank, uint64_t address) const {
  const auto base = reinterpret_cast<uint64_t>(standin_device_base(segment_->ranks[rank].device));
  return bases_[static_cast<size_t>(rank)] + (address - base);
}

// --- Joining.

ncclResult_t Communicator::join(const UniqueId& id, int rank, int nranks) {
  rank_ = rank;
  nranks_ = nranks;
  std::string why;
  segment_ = open_segment(id, why);
  if (!segment_) return fail(ncclInternalError, why);  // as NCCL for an id that leads nowhere
  shown_.store(segment_.get(), std::memory_order_release);
  if (const ncclResult_t claimed = claim_slot(); claimed != ncclSuccess) return claimed;
  const bool met = meet_on_host("the communicator's initialisation");
  SegmentOwner::close(id);
  if (!met) return fail(ncclInternalError, name() + " was aborted during its initialisation");
  if (const ncclResult_t unique = check_devices(); unique != ncclSuccess) return unique;
  bases_.resize(static_cast<size_t>(nranks_));
  for (int r = 0; r < nranks_; ++r) {
    if (!open_peers_memory(r)) return ncclSystemError;
  }
  return open_to_others();
}

// The last step: the profiler's plugin and those who ask for the status learn of it.
ncclResult_t Communicator::open_to_others() {
  ProfilerIdentity identity;
  identity.comm_id = id();
  identity.comm_name = config_.name;
  identity.rank = rank_;
  identity.nranks = nranks_;
  for (int r = 0; r < nranks_; ++r) identity.nodes.push_back(node_of(r));
  identity.clock_seed = slot(rank_).host + static_cast<uint64_t>(device_);
  const std::lock_guard lock(mutex_);
  if (stopped() == Stop::aborted) {
    return fail(ncclInternalError, name() + " was aborted during its initialisation");
  }
  profiler_ = std::make_unique<Profiler>(std::move(identity));
  status_ = Faults::get().add_status([this] { return status() + "\n"; });
  joined_.store(true, std::memory_order_release);
  return ncclSuccess;
}

ncclResult_t Communicator::claim_slot() {
  uint32_t before = 0;
  if (!segment_->nranks.compare_exchange_strong(before, static_cast<uint32_t>(nranks_)) &&
      before != static_cast<uint32_t>(nranks_)) {
    return fail(ncclInvalidArgument, "rank " + std::to_string(rank_) + " asks for " +
                                         std::to_string(nranks_) + " ranks, another one for " +
                                         std::to_string(before) + " with the same unique id");
  }
  RankSlot& mine = slot(rank_);
  if (mine.claimed.exchange(1) != 0) {
    return fail(ncclInvalidUsage, "rank " + std::to_string(rank_) + " of " +
                                      std::to_string(nranks_) + " came twice: process " +
                                      std::to_string(mine.pid) +
                                      " already has it, or the unique id is used a second time");
  }
  mine.pid = ::getpid();
  mine.host = host_hash();
  mine.device = device_;
  if (standin_export_device(device_, &mine.memory) == 0) {
    return fail(ncclUnhandledCudaError, "there is no device " + std::to_string(device_));
  }
  mine.published.store(1, std::memory_order_release);
  return ncclSuccess;
}

ncclResult_t Communicator::check_devices() {
  for (int a = 0; a < nranks_; ++a) {
    for (int b = 0; b < a; ++b) {
      if (slot(a).host != slot(b).host || slot(a).device != slot(b).device) continue;
      const std::string text =
          "ranks " + std::to_string(b) + " and " + std::to_string(a) + " both use device " +
          std::to_string(slot(a).device) + " of one node: " +
          "each rank needs a device of its own (torch.cuda.set_device(LOCAL_RANK))";
      if (rank_ == a || rank_ == b) standin_finding("wrong device", text.c_str());
      return fail(ncclInvalidUsage, "Duplicate GPU detected: " + text);
    }
  }
  return ncclSuccess;
}

bool Communicator::open_peers_memory(int rank) {
  char why[400] = {};
  void* base = standin_open_peer(&slot(rank).memory, why, sizeof why);
  if (base == nullptr) {
    (void)fail(ncclSystemError, "rank " + std::to_string(rank) + ": " + why);
    return false;
  }
  bases_[static_cast<size_t>(rank)] = static_cast<char*>(base);
  return true;
}

// --- The end.

ncclResult_t Communicator::finalize() {
  if (finalized_.exchange(true) || stopped() == Stop::aborted) return ncclSuccess;
  {
    const std::lock_guard lock(launching);
    if (last != nullptr && cudaEventSynchronize(last) != cudaSuccess) return ncclUnhandledCudaError;
  }
  int members = 0, first = rank_;
  for (int r = nranks_ - 1; r >= 0; --r) {
    if (slot(r).host != slot(rank_).host) continue;
    ++members;
    first = r;
  }
  const auto missing = [&] {
    std::string text;
    for (int r = 0; r < nranks_; ++r) {
      if (slot(r).host != slot(rank_).host || slot(r).finalized != 0) continue;
      text += (text.empty() ? "rank " : ", rank ") + std::to_string(r);
      if (!is_alive(slot(r).pid)) {
        text += " (its process has ended)";
      } else if (slot(r).stopped != 0) {
        text += " (has aborted or revoked it)";
      }
    }
    return text + " of the same node (ncclCommFinalize and ncclCommDestroy need all of them)";
  };
  slot(rank_).stopped = 1;
  slot(rank_).finalized = 1;
  Barrier& ending = segment_->ending[first];
  // One thread may end all ranks of its process one after the other: only the last call waits.
  const bool is_last = is_last_of_process();
  const uint32_t target = ending.arrive(members);
  if (!is_last) return ncclSuccess;
  (void)wait(
      ending.round, [&] { return ending.is_complete(target); }, Stop::aborted,
      [] { return std::string("the communicator's end"); }, missing);
  return ncclSuccess;
}

bool Communicator::is_last_of_process() {
  uint32_t members = 0;
  int first = rank_;
  for (int r = nranks_ - 1; r >= 0; --r) {
    if (slot(r).pid != slot(rank_).pid) continue;
    ++members;
    first = r;
  }
  return slot(first).leaving.fetch_add(1) + 1 == members;
}

void Communicator::end(bool aborted) {
  const auto close_profiler = [&] {
    std::unique_lock lock(mutex_);
    Profiler* profiler = profiler_.get();
    lock.unlock();
    if (profiler != nullptr) profiler->close(stopped() != Stop::no);
  };
  if (aborted) {
    stop(Stop::aborted);
    close_profiler();
  } else {
    close_profiler();  // kernels are done, the proxy tells the rest
    destroyed_ = true;
    wait_until_quiet(true);
  }
  std::unique_lock lock(mutex_);
  const int status = std::exchange(status_, -1);
  lock.unlock();
  if (status >= 0) Faults::get().remove_status(status);
}

void Communicator::stop(Stop how) {
  tell(how);
  wait_until_quiet(how == Stop::aborted);
}

void Communicator::tell(Stop how) {
  Stop now = stop_->value.load();
  while (now < how && !stop_->value.compare_exchange_weak(now, how)) {
  }
  ring();
}

void Communicator::ring() {
  if (Segment* segment = shown_.load(std::memory_order_acquire); segment != nullptr) {
    segment->ranks[rank_].stopped = 1;
    futex_wake(segment->stream.round);
    futex_wake(segment->host.round);
    futex_wake(segment->ranks[rank_].bell);
  }
}

void Communicator::wait_until_quiet(bool for_good) {
  ring();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return kernels_ == 0; });
  std::thread job;
  if (for_good) job.swap(job_);
  lock.unlock();
  if (job.joinable()) job.join();
}

bool Communicator::enter_kernel() {
  const std::lock_guard lock(mutex_);
  if (stopped() != Stop::no) return false;
  ++kernels_;
  return true;
}

void Communicator::leave_kernel() {
  const std::lock_guard lock(mutex_);
  --kernels_;
  changed_.notify_all();
}

// --- Asynchronous state.

ncclResult_t Communicator::async_error() {
  const auto state = static_cast<ncclResult_t>(async_.load());
  if (state == ncclSuccess && owed_.exchange(false)) return ncclInProgress;
  return state;
}

void Communicator::begin_progress() {
  owed_ = true;
}

ncclResult_t Communicator::perform(std::function<ncclResult_t()> job) {
  if (config_.blocking) {
    const ncclResult_t result = job();
    if (result != ncclSuccess) async_ = result;
    return result;
  }
  async_ = ncclInProgress;
  const std::lock_guard lock(mutex_);
  if (job_.joinable()) job_.join();
  job_ = std::thread([self = shared_from_this(), job = std::move(job)] { self->async_ = job(); });
  return ncclInProgress;
}

ncclResult_t Communicator::ready() {
  const auto state = static_cast<ncclResult_t>(async_.load());
  if (state == ncclInProgress || owed_) {
    return fail(ncclInvalidArgument,
                name() +
                    " is used before the previous call has succeeded: query "
                    "ncclCommGetAsyncError until it isn't ncclInProgress any more");
  }
  if (state != ncclSuccess) return fail(state, name() + " has failed; abort it");
  if (!joined_.load(std::memory_order_acquire)) {
    return fail(ncclInvalidArgument,
                "a communicator is used in the group that makes it, or its making has failed");
  }
  return ncclSuccess;
}

// --- Waiting.

// When to tell that something waits: after a while, and again a while after the parent has been
// stopped, which is when somebody must stop the child too.
class Communicator::Teller {
 public:
  explicit Teller(const Communicator& comm) : comm_(comm) {}
  bool is_due() {
    const auto now = Clock::now();
    if (orphaned_ == kNever && comm_.is_orphan()) orphaned_ = now;
    const auto notice = Patience::get().notice;
    const bool due = (!told_ && now - began_ > notice) ||
                     (!told_as_orphan_ && orphaned_ != kNever && now - orphaned_ > notice);
    if (due) told();
    return due;
  }
  void told() {
    told_ = true;
    told_as_orphan_ = orphaned_ != kNever;
  }
  bool has_told() const { return told_; }
  Clock::duration waited() const { return Clock::now() - began_; }

 private:
  static constexpr auto kNever = Clock::time_point::max();
  const Communicator& comm_;
  const Clock::time_point began_ = Clock::now();
  Clock::time_point orphaned_ = kNever;
  bool told_ = false, told_as_orphan_ = false;
};

bool Communicator::is_orphan() const {
  return parent_stop_ && parent_stop_ != stop_ && parent_stop_->value != Stop::no;
}

bool Communicator::wait(std::atomic<uint32_t>& word, const Condition& done, Stop gives_up_at,
                        const Text& what, const Text& who) {
  return wait_and_tell(word, done, gives_up_at,
                       [&](double seconds) { tell_never_met(what(), who(), seconds); });
}

void Communicator::hang(std::chrono::nanoseconds limit) {
  const auto began = Clock::now();
  const bool is_forever = limit == std::chrono::nanoseconds::max();
  const auto is_near = [&] { return !is_forever && Clock::now() - began >= limit - kNap; };
  if (wait_and_tell(slot(rank_).bell, is_near, Stop::revoked, [](double) {})) {
    std::this_thread::sleep_until(began + limit);
  }
}

bool Communicator::wait_and_tell(std::atomic<uint32_t>& word, const Condition& done,
                                 Stop gives_up_at,
                                 const std::function<void(double seconds)>& tell) {
  for (int i = 0; i < kYields; ++i) {
    if (done()) return true;
    ::sched_yield();
  }
  Teller teller(*this);
  auto looked = Clock::now();
  for (;;) {
    const uint32_t seen = word.load(std::memory_order_acquire);
    if (done()) return true;
    const double seconds = std::chrono::duration<double>(teller.waited()).count();
    if (stopped() >= gives_up_at) {
      if (!teller.has_told()) tell(seconds);
      return false;
    }
    if (teller.is_due()) {
      tell(seconds);
      standin_write_report();  // somebody may lose patience and kill us
    }
    if (teller.waited() > Patience::get().end) {
      std::fprintf(stderr,
                   "convoy stand-in: %s: a GPU job would wait for ever; this process ends\n",
                   name().c_str());
      standin_write_report();
      std::_Exit(kExitDeadline);
    }
    if (Clock::now() - looked > kLookEvery) {
      looked = Clock::now();
      if (has_lost_remote_peer()) async_ = ncclRemoteError;
    }
    futex_wait(word, seen, kNap);
  }
}

void Communicator::tell_never_met(const std::string& what, const std::string& who, double seconds) {
  char waited[64];
  std::snprintf(waited, sizeof waited, " waited %.1f s for ", seconds);
  std::string text = name() + ": " + what + waited + who;
  if (is_orphan()) {
    text +=
        ". Its parent was aborted or revoked, which doesn't reach a child made by ncclCommSplit "
        "without splitShare: abort this communicator too";
  }
  standin_finding("collective never met", text.c_str());
}

bool Communicator::has_lost_remote_peer() {
  for (int r = 0; r < nranks_; ++r) {
    const RankSlot& peer = slot(r);
    if (peer.published != 0 && peer.host != slot(rank_).host && !is_alive(peer.pid)) {
      (void)fail(ncclRemoteError, name() + " lost its connection to rank " + std::to_string(r));
      return true;
    }
  }
  return false;
}

bool Communicator::meet(Barrier& barrier, int members, Stop gives_up_at, const Text& what,
                        const Text& who) {
  const uint32_t target = barrier.arrive(members);
  return wait(
      barrier.round, [&] { return barrier.is_complete(target); }, gives_up_at, what, who);
}

bool Communicator::meet_on_host(const char* what) {
  slot(rank_).host_calls.fetch_add(1);
  const auto call = [&] { return std::string(what); };
  return meet(segment_->host, nranks_, Stop::aborted, call, [&] {
    const uint32_t mine = slot(rank_).host_calls;
    std::string text;
    for (int r = 0; r < nranks_; ++r) {
      if (slot(r).host_calls >= mine) continue;
      text += (text.empty() ? "rank " : ", rank ") + std::to_string(r) + state_of(r);
    }
    return text.empty() ? std::string("nobody") : text;
  });
}

std::string Communicator::missing_of_collective() {
  std::string text;
  for (int r = 0; r < nranks_; ++r) {
    const RankSlot& peer = slot(r);
    const OpRecord op = peer.op();
    const bool inside = peer.entered > peer.left && peer.stopped == 0;
    // Those whose communicator was aborted meanwhile had come, and are not who is missed.
    const bool came = inside || (peer.entered > 0 && op.number == slot(rank_).op().number);
    const bool here = came && peer.held == 0 && is_collective(op) && is_alive(peer.pid);
    if (r == rank_ || here) continue;
    text += (text.empty() ? "rank " : ", rank ") + std::to_string(r) + state_of(r);
  }
  return text.empty() ? std::string("nobody") : text;
}

std::string Communicator::state_of(int rank) {
  const RankSlot& peer = slot(rank);
  if (peer.published == 0) return " (hasn't called ncclCommInitRank)";
  if (!is_alive(peer.pid)) return " (its process " + std::to_string(peer.pid) + " has ended)";
  if (peer.stopped != 0) return " (has ended the communicator)";
  const OpRecord op = peer.op();
  const std::string number = std::to_string(op.number);
  if (peer.held != 0)
    return " (a fault holds it in " + text_of(op) + ", its operation #" + number + ")";
  if (peer.entered > peer.left)
    return " (is in " + text_of(op) + ", its operation #" + number + ")";
  if (peer.left == 0) return " (has begun no operation)";
  return " (idle after " + text_of(op) + ", its operation #" + number + ")";
}

std::string Communicator::status() {
  const RankSlot& mine = slot(rank_);
  const OpRecord op = mine.op();
  const bool is_held = mine.held != 0, is_in = is_held || mine.entered > mine.left;
  std::string text = name() + ": launched " + std::to_string(operations) + ", entered " +
                     std::to_string(mine.entered) + ", left " + std::to_string(mine.left);
  if (is_in || mine.left > 0) {
    text += std::string(is_in ? ", in " : ", idle after ") + text_of(op) + ", operation #" +
            std::to_string(op.number);
  }
  if (is_held) text += ", held by a fault";
  if (stopped() != Stop::no) text += stopped() == Stop::revoked ? ", revoked" : ", aborted";
  const auto error = static_cast<ncclResult_t>(async_.load());
  if (error != ncclSuccess) text += std::string(", ") + ncclGetErrorString(error);
  return text;
}

void Communicator::ring(int rank) {
  RankSlot& peer = slot(rank);
  peer.bell.fetch_add(1, std::memory_order_acq_rel);
  futex_wake(peer.bell);
}

// --- Created operators.

ncclRedOp_t Communicator::add_operator(PreMulSum op) {
  const std::lock_guard lock(mutex_);
  operators_[next_operator_] = op;
  return static_cast<ncclRedOp_t>(next_operator_++);
}

bool Communicator::drop_operator(ncclRedOp_t op) {
  const std::lock_guard lock(mutex_);
  return operators_.erase(static_cast<int>(op)) != 0;
}

bool Communicator::find_operator(ncclRedOp_t op, PreMulSum& found) {
  const std::lock_guard lock(mutex_);
  const auto at = operators_.find(static_cast<int>(op));
  if (at == operators_.end()) return false;
  found = at->second;
  return true;
}

}  // namespace convoy::standin::nccl
