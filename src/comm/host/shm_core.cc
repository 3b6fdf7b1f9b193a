// Waiting and failing in a local group. Waiting looks at the awaited word first and at failures
// second, so that an operation whose ranks all arrived succeeds although one of them has gone
// since.
#include "src/comm/host/shm_core.h"

#include "src/comm/host/futex.h"
#include <convoy/base/check.h>
#include <convoy/base/log.h>
#include <convoy/base/process.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <sched.h>

namespace convoy::host {
namespace {

constexpr Nanos kSleepSlice = std::chrono::milliseconds(50);  // failures are looked at so often
constexpr Nanos kDrainMax = std::chrono::seconds(10);         // for a peer that is stopped
// Turns of spinning, some 10 ns each, before a wait sleeps. Spinning pays when every rank runs on a
// core of its own; when two share one, it keeps the awaited rank from running.
constexpr int kSpinsMin = 300;
constexpr int kArrivalSpinsMax = 4000;  // others may still compute
constexpr int kMidwaySpinsMax = 20000;  // all are at work on the operation
constexpr int kCrowdedSpins = 20;       // more ranks than cores
constexpr uint32_t kProbeEvery = 16;    // waits, of which one tries the most

std::string seconds_text(Nanos time) {
  const double s = std::chrono::duration<double>(time).count();
  char text[32];
  std::snprintf(text, sizeof text, s < 10 && s != static_cast<int>(s) ? "%.1f s" : "%.0f s", s);
  return text;
}

}  // namespace

Spinner::Spinner(bool own_cores, int most)
    : own_cores_(own_cores), most_(most), budget_(own_cores ? most : kCrowdedSpins) {}

int Spinner::budget() {
  if (!own_cores_) return kCrowdedSpins;
  const uint32_t turn = turns_.fetch_add(1, std::memory_order_relaxed);
  return turn % kProbeEvery == 0 ? most_ : budget_.load(std::memory_order_relaxed);
}

void Spinner::learn(bool paid, int turns) {
  if (!own_cores_) return;
  const int before = budget_.load(std::memory_order_relaxed);
  const int after = paid ? std::max(before, std::min(most_, 4 * turns + kSpinsMin))
                         : std::max(kSpinsMin, before / 2);
  budget_.store(after, std::memory_order_relaxed);
}

Area* Area::init(void* memory, int size) {
  auto* area = new (memory) Area;
  area->size = static_cast<uint32_t>(size);
  area->arrived = 0;
  area->phase = 0;
  area->sleepers = 0;
  area->failure = kFine;
  for (int r = 0; r < size; ++r) {
    auto* state = new (&area->rank(r)) RankState;
    state->phase = 0;
    state->busy = 0;
    state->left = 0;
    state->detached = 0;
    state->request = 0;
    state->event = 0;
    state->event_sleepers = 0;
    state->waits_for = 0;
    Mailbox& box = area->mailbox(r);
    box.lock = 0;
    box.sends = box.receives = {kNoEntry, kNoEntry};
    box.free = kNoEntry;
    box.used = 0;
  }
  return area;
}

ShmCore::ShmCore(std::shared_ptr<NodeImpl> node, std::vector<std::shared_ptr<Peer>> peers,
                 Area* area, int rank, const GroupOptions& options)
    : node_(std::move(node)),
      peers_(std::move(peers)),
      area_(area),
      rank_(rank),
      size_(static_cast<int>(peers_.size())),
      options_(options),
      arrival_(size_ <= available_cores(), kArrivalSpinsMax),
      midway_(size_ <= available_cores(), kMidwaySpinsMax),
      messages_spinner_(size_ <= available_cores(), kArrivalSpinsMax) {
  node_->add_listener(this);
  for (const auto& peer : peers_) {
    if (peer->gone.load()) peer_gone(*peer);
  }
}

ShmCore::~ShmCore() {
  leave();
  node_->remove_listener(this);
  leave_messages();
  self().detached.store(1, std::memory_order_release);
  if (rank_ != 0) return;
  // The area is this rank's: it stays until nobody can look at it any more.
  node_->free_later(area_, [area = area_, peers = peers_] {
    for (size_t r = 0; r < peers.size(); ++r) {
      const bool away = area->rank(static_cast<int>(r)).detached.load(std::memory_order_acquire);
      if (!away && !peers[r]->gone.load()) return false;
    }
    return true;
  });
}

char* ShmCore::at(int r, uint64_t offset, size_t bytes) const {
  const HeapMapping& heap = *peers_[r]->heap;
  CONVOY_CHECK(offset <= heap.bytes() && bytes <= heap.bytes() - offset,
               "a peer's record points outside of its heap");
  return heap.base() + offset;
}

std::string ShmCore::names_of(const std::vector<int>& ranks) const {
  std::string text;
  for (const int r : ranks) {
    text += (text.empty() ? "" : ",") + std::to_string(global_rank(r));
  }
  return text;
}

std::string ShmCore::Operation::name() const {
  if (sequence == 0) return "the creation";
  const std::string number = " #" + std::to_string(sequence);
  if (count == 1) return std::string(op_name(kind)) + number;
  return std::to_string(count) + " coalesced operations (" + std::string(op_name(kind)) + ", ...)" +
         number;
}

void ShmCore::begin(const Operation& op) {
  current_.store(op.sequence << 8 | (static_cast<uint64_t>(op.kind) + 1),
                 std::memory_order_release);
}

Status ShmCore::fail(const Status& cause) {
  uint32_t fine = Area::kFine;
  if (area_->failure.compare_exchange_strong(fine, Area::kWriting)) {
    area_->failure_code = static_cast<int32_t>(cause.code());
    const size_t length = std::min(cause.message().size(), kReasonBytes - 1);
    std::memcpy(area_->failure_text, cause.message().data(), length);
    area_->failure_text[length] = 0;
    area_->failure.store(Area::kFailed, std::memory_order_release);
    wake_everybody();
  }
  return error();
}

Status ShmCore::error() const {
  const TimePoint give_up = Clock::system().now() + std::chrono::seconds(1);
  for (;;) {
    const uint32_t state = area_->failure.load(std::memory_order_acquire);
    if (state == Area::kFine) return ok_status();
    if (state == Area::kFailed) {
      return Status(static_cast<Code>(area_->failure_code), area_->failure_text);
    }
    // Somebody is writing the text; unless it died doing so.
    if (Clock::system().now() > give_up) {
      return Status(Code::kAborted, "group " + options_.name +
                                        " failed, and the rank that knew "
                                        "why died before it could tell");
    }
    sched_yield();
  }
}

void ShmCore::wake_everybody() {
  futex_wake_all(area_->phase);
  for (int r = 0; r < size_; ++r) futex_wake_all(area_->rank(r).event);
}

void ShmCore::sleep_on(const std::atomic<uint32_t>& word, std::atomic<uint32_t>& sleepers,
                       uint32_t seen, Nanos at_most) {
  // Sequentially consistent with the waker's store of the word and look at the sleepers.
  sleepers.fetch_add(1);
  if (word.load() == seen) futex_wait(word, seen, std::min(at_most, kSleepSlice));
  sleepers.fetch_sub(1);
}

Status ShmCore::barrier(Operation& op) {
  const uint32_t mine = ++phase_;
  self().phase.store(mine, std::memory_order_release);
  const uint32_t all = mine * static_cast<uint32_t>(size_);
  if (area_->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == all) {
    area_->phase.store(mine);
    if (area_->sleepers.load() != 0) futex_wake_all(area_->phase);
    return ok_status();
  }
  const auto complete = [&] { return area_->phase.load(std::memory_order_acquire) == mine; };
  if ((mine == op.first_phase ? arrival_ : midway_).spin(complete)) return ok_status();
  return wait_for_phase(op);
}

Status ShmCore::wait_for_phase(Operation& op) {
  for (;;) {
    const uint32_t seen = area_->phase.load(std::memory_order_acquire);
    if (static_cast<int32_t>(seen - phase_) >= 0) return ok_status();
    if (failed()) return error();
    CONVOY_RETURN_IF_ERROR(check_peers(op));
    // Nobody else can end this wait yet: the group is not made. A peer whose record was read may
    // have gone to a later generation before it came here.
    if (op.sequence == 0 && options_.stops && *options_.stops) {
      return fail(Status(Code::kAborted, "the others are not waited for any more"));
    }
    const TimePoint now = Clock::system().now();
    if (op.started == TimePoint{}) op.started = now;
    if (now >= op.deadline.at()) {
      return fail(
          Status(Code::kDeadlineExceeded, missing_text(op, seconds_text(now - op.started))));
    }
    Nanos left = op.deadline.at() == TimePoint::max() ? kSleepSlice : op.deadline.at() - now;
    if (!op.warned) {
      const Nanos waited = now - op.started;
      if (waited >= options_.patience) {
        op.warned = true;
        CONVOY_LOG(Warn) << missing_text(op, seconds_text(waited));
      } else {
        left = std::min(left, options_.patience - waited);
      }
    }
    sleep_on(area_->phase, area_->sleepers, seen, left);
  }
}

// A rank that has not arrived and never will.
Status ShmCore::check_peers(const Operation& op) {
  for (const int r : late_ranks()) {
    if (!has_left(r)) continue;
    // It may have arrived just before it left.
    if (static_cast<int32_t>(area_->rank(r).phase.load(std::memory_order_acquire) - phase_) >= 0) {
      continue;
    }
    return fail(Status(Code::kAborted, "rank " + std::to_string(global_rank(r)) + " (pid " +
                                           std::to_string(pid_of(r)) + ") has left group " +
                                           options_.name + " before " + op.name() +
                                           ", which the other ranks perform"));
  }
  return ok_status();
}

std::vector<int> ShmCore::late_ranks() const {
  std::vector<int> late;
  for (int r = 0; r < size_; ++r) {
    const uint32_t phase = area_->rank(r).phase.load(std::memory_order_acquire);
    if (static_cast<int32_t>(phase - phase_) < 0) late.push_back(r);
  }
  return late;
}

// "rank 3 has not joined all_reduce #17 of group tp[0] after 5 s; 0,1,2 have"
std::string ShmCore::missing_text(const Operation& op, const std::string& since) const {
  const std::vector<int> late = late_ranks();
  std::vector<int> absent, present, unfinished;
  for (int r = 0; r < size_; ++r) {
    const uint32_t phase = area_->rank(r).phase.load(std::memory_order_acquire);
    const bool joined = static_cast<int32_t>(phase - op.first_phase) >= 0;
    if (!joined) {
      absent.push_back(r);
    } else if (std::find(late.begin(), late.end(), r) != late.end()) {
      unfinished.push_back(r);
    } else {
      present.push_back(r);
    }
  }
  const bool joining = !absent.empty();
  const std::vector<int>& missing = joining ? absent : unfinished;
  const bool one = missing.size() == 1;
  std::string text = (one ? "rank " : "ranks ") + names_of(missing) + (one ? " has" : " have") +
                     (joining ? " not joined " : " joined but not finished ") + op.name() +
                     " of group " + options_.name + " after " + since;
  if (!present.empty()) {
    text += "; " + names_of(present) + (present.size() == 1 ? " has" : " have");
  }
  return text + behind(missing);
}

std::string ShmCore::behind(const std::vector<int>& ranks) const {
  std::string text;
  std::vector<bool> told(static_cast<size_t>(size_));
  told[rank_] = true;
  for (int r : ranks) {
    while (!told[r]) {
      told[r] = true;
      const std::string name = "; rank " + std::to_string(global_rank(r));
      if (peers_[r]->process && is_halted(pid_of(r))) {
        text += name + " (pid " + std::to_string(pid_of(r)) + ") is stopped";
        break;
      }
      const int next = area_->rank(r).waits_for.load(std::memory_order_relaxed) - 1;
      if (next < 0 || next >= size_) break;
      text += name + " waits for rank " + std::to_string(global_rank(next));
      r = next;
    }
  }
  return text;
}

Status ShmCore::no_memory(size_t bytes, const std::string& what) const {
  return Status(Code::kResourceExhausted,
                "the shared heap of rank " + std::to_string(global_rank(rank_)) + ", at " +
                    std::to_string(node_->own_heap().bytes_reserved() >> 20) +
                    " MiB, has no room for " + std::to_string(bytes >> 10) + " KiB more (" + what +
                    "): the machine, its control group or `ulimit -f` allows no more. Use fewer "
                    "ranks a machine, smaller batches, or recompute activations");
}

void ShmCore::drain(uint32_t first_phase) {
  self().busy.store(0, std::memory_order_release);
  const Deadline limit = Deadline::after(kDrainMax);
  for (int r = 0; r < size_; ++r) {
    const RankState& other = area_->rank(r);
    while (other.busy.load(std::memory_order_acquire) != 0 && !is_gone(r)) {
      const bool joined =
          static_cast<int32_t>(other.phase.load(std::memory_order_acquire) - first_phase) >= 0;
      if (!joined) break;
      if (limit.passed()) {
        CONVOY_LOG(Warn) << "rank " << global_rank(r) << " (pid " << pid_of(r)
                         << ") does not notice the failure of group " << options_.name
                         << " (is it stopped?) and may still write into this rank's tensors";
        return;
      }
      Clock::system().sleep_for(std::chrono::microseconds(50));
    }
  }
}

void ShmCore::leave() {
  self().left.store(1, std::memory_order_release);
  wake_everybody();
}

// On the watcher thread.
void ShmCore::peer_gone(const Peer& peer) {
  for (int r = 0; r < size_; ++r) {
    if (peers_[r].get() != &peer || has_left(r)) continue;
    std::vector<int> alive;
    for (int other = 0; other < size_; ++other) {
      if (!is_gone(other)) alive.push_back(other);
    }
    const uint64_t current = current_.load(std::memory_order_acquire);
    Operation op;
    op.kind = static_cast<OpKind>((current & 0xff) - 1);
    op.sequence = current >> 8;
    const std::string when = current == 0 ? "while no operation ran" : "during " + op.name();
    (void)fail(Status(Code::kAborted, "rank " + std::to_string(global_rank(r)) + " (pid " +
                                          std::to_string(peer.pid) + ") of group " + options_.name +
                                          " died " + when + "; " + names_of(alive) +
                                          (alive.size() == 1 ? " is" : " are") + " alive"));
  }
  wake_everybody();
}

}  // namespace convoy::host
