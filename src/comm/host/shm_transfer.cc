// Messages between two ranks of a local group. Each rank has a mailbox; whoever comes second finds
// what the first left there and does the copying in its own call, so no thread has to make progress
// for others. A rank only ever allocates in its own heap.
//
//   receive first: its entry waits with the address of the buffer (or of a bounce block, if the
//     buffer is private); the sender copies there and marks the entry done.
//   send first: large and shared: its entry waits with the data's address, the receiver copies and
//     marks it done. Else the data is copied into a bounce block, and the sender may go on at once.
//
// Bounce blocks are filled piece by piece, and the other side copies what is there while the rest
// is still coming: the two copies of a large private message run at the same time.
#include "src/comm/host/shm_transfer.h"

#include "src/comm/host/copy.h"
#include "src/comm/host/futex.h"
#include "src/comm/host/shm_group.h"
#include <convoy/base/check.h>
#include <convoy/base/log.h>

#include <algorithm>
#include <cstring>

namespace convoy::host {
namespace {

constexpr size_t kEagerBytes = 16 * 1024;   // smaller messages don't wait for the receiver
constexpr size_t kStreamMin = 1024 * 1024;  // larger ones are copied past the caches
constexpr size_t kPiece = 256 * 1024;       // of a bounce block, told one by one
constexpr Nanos kLockSlice = std::chrono::milliseconds(10);
constexpr int kLockSpins = 200;

std::string bytes_text(uint64_t bytes) {
  return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes");
}

// A piece of a message of `whole` bytes.
void copy_piece(void* to, const void* from, size_t bytes, size_t whole) {
  if (whole >= kStreamMin) {
    stream_copy(to, from, bytes);
    stream_fence();
  } else if (bytes != 0) {
    std::memcpy(to, from, bytes);
  }
}

}  // namespace

// Holds a mailbox's lock. A holder that died has left it locked for ever; then the group has
// failed, and locked() says no.
class MailLock {
 public:
  MailLock(ShmCore& core, Mailbox& box) : box_(box) {
    const auto mine = static_cast<uint32_t>(core.rank()) + 1;
    for (int i = 0;; ++i) {
      uint32_t seen = 0;
      if (box_.lock.compare_exchange_weak(seen, mine, std::memory_order_acquire)) break;
      if (i < kLockSpins) {
        cpu_relax();
        continue;
      }
      if (seen != 0 && core.is_gone(static_cast<int>((seen & ~kContended) - 1))) return;
      // Marked as contended so that the holder wakes us.
      if (seen != 0 && (seen & kContended) == 0 &&
          !box_.lock.compare_exchange_strong(seen, seen | kContended)) {
        continue;
      }
      if (seen != 0) futex_wait(box_.lock, seen | kContended, kLockSlice);
    }
    locked_ = true;
  }
  MailLock(const MailLock&) = delete;
  MailLock& operator=(const MailLock&) = delete;
  ~MailLock() { unlock(); }

  bool locked() const { return locked_; }
  void unlock() {
    if (!locked_) return;
    locked_ = false;
    if ((box_.lock.exchange(0, std::memory_order_release) & kContended) != 0) {
      futex_wake_all(box_.lock);
    }
  }

 private:
  static constexpr uint32_t kContended = uint32_t{1} << 31;
  Mailbox& box_;
  bool locked_ = false;
};

namespace {

uint32_t take_entry(Mailbox& box) {
  if (box.free == kNoEntry) return box.used++;
  const uint32_t index = box.free;
  box.free = box.entries[index].next;
  return index;
}

void free_entry(Mailbox& box, uint32_t index) {
  box.entries[index].next = box.free;
  box.free = index;
}

void append(Mailbox& box, Mailbox::List& list, uint32_t index) {
  box.entries[index].next = kNoEntry;
  if (list.head == kNoEntry) {
    list.head = index;
  } else {
    box.entries[list.tail].next = index;
  }
  list.tail = index;
}

// Unlinks and returns the first entry that `matches`, or kNoEntry.
template <class Matches>
uint32_t unlink_first(Mailbox& box, Mailbox::List& list, const Matches& matches) {
  uint32_t before = kNoEntry;
  for (uint32_t at = list.head; at != kNoEntry; before = at, at = box.entries[at].next) {
    if (!matches(at, box.entries[at])) continue;
    const uint32_t next = box.entries[at].next;
    (before == kNoEntry ? list.head : box.entries[before].next) = next;
    if (list.tail == at) list.tail = before;
    return at;
  }
  return kNoEntry;
}

void notify(RankState& rank) {
  rank.event.fetch_add(1);
  if (rank.event_sleepers.load() != 0) futex_wake_all(rank.event);
}

}  // namespace

ShmTransfer::ShmTransfer(std::shared_ptr<ShmCore> core, bool sends, void* data, size_t bytes,
                         int peer, int tag)
    : core_(std::move(core)),
      sends_(sends),
      data_(data),
      bytes_(bytes),
      peer_(peer),
      tag_(tag),
      source_(sends ? core_->rank() : peer) {}

ShmTransfer::~ShmTransfer() {
  const std::lock_guard lock(mutex_);
  withdraw();
}

Mailbox& ShmTransfer::box() const {
  return core_->area().mailbox(sends_ ? peer_ : core_->rank());
}

Status ShmTransfer::post() {
  CONVOY_RETURN_IF_ERROR(core_->error());
  const std::lock_guard lock(mutex_);
  core_->reap_messages();
  return sends_ ? post_send() : post_recv();
}

// Unlinks the oldest entry of the other side that fits this transfer, or says kNoEntry.
uint32_t ShmTransfer::find_match(Mailbox& box) {
  return unlink_first(box, sends_ ? box.receives : box.sends, [this](uint32_t, const MailEntry& e) {
    if (e.tag != tag_) return false;
    return sends_ ? e.source == kAnySource || e.source == core_->rank()
                  : peer_ == kAnySource || e.source == peer_;
  });
}

Status ShmTransfer::post_send() {
  Mailbox& box = this->box();
  const bool lend = bytes_ > kEagerBytes && core_->heap().contains(data_, bytes_);
  {
    MailLock lock(*core_, box);
    if (!lock.locked()) return core_->error();
    if (const uint32_t found = find_match(box); found != kNoEntry) {
      deliver(lock, box, found, data_);
      return ok_status();
    }
    if (lend) return enqueue(box, core_->heap().offset_of(data_));
  }
  CONVOY_RETURN_IF_ERROR(make_bounce());
  {
    MailLock lock(*core_, box);
    if (!lock.locked()) return core_->error();
    if (const uint32_t found = find_match(box); found != kNoEntry) {
      deliver(lock, box, found, data_);
      return ok_status();
    }
    CONVOY_RETURN_IF_ERROR(enqueue(box, core_->heap().offset_of(bounce_)));
    box.entries[entry_].filled.store(0, std::memory_order_relaxed);
  }
  // A receive that comes meanwhile copies along.
  fill(bounce_, data_, box.entries[entry_]);
  // From here the message lives without its sender.
  core_->adopt_message({peer_, entry_, bounce_});
  entry_ = kNoEntry;
  bounce_ = nullptr;
  complete(ok_status());
  return ok_status();
}

Status ShmTransfer::post_recv() {
  Mailbox& box = this->box();
  const bool shared = core_->heap().contains(data_, bytes_);
  {
    MailLock lock(*core_, box);
    if (!lock.locked()) return core_->error();
    if (const uint32_t found = find_match(box); found != kNoEntry) {
      take(lock, box, found);
      return ok_status();
    }
    if (shared) return enqueue(box, core_->heap().offset_of(data_));
  }
  CONVOY_RETURN_IF_ERROR(make_bounce());
  MailLock lock(*core_, box);
  if (!lock.locked()) return core_->error();
  if (const uint32_t found = find_match(box); found != kNoEntry) {
    take(lock, box, found);
    return ok_status();
  }
  return enqueue(box, core_->heap().offset_of(bounce_));
}

// Memory of the own heap that the other rank can reach, instead of `data_`.
Status ShmTransfer::make_bounce() {
  bounce_ = static_cast<char*>(core_->heap().allocate(std::max<size_t>(bytes_, 1)));
  if (bounce_ != nullptr) return ok_status();
  return core_->no_memory(bytes_, describe());
}

Status ShmTransfer::enqueue(Mailbox& box, uint64_t offset) {
  if (box.free == kNoEntry && box.used == kMailEntries) {
    return Status(Code::kResourceExhausted,
                  "more than " + std::to_string(kMailEntries) +
                      " messages and receives wait at one rank; complete some before " +
                      describe());
  }
  entry_ = take_entry(box);
  MailEntry& e = box.entries[entry_];
  e.state.store(MailEntry::kQueued, std::memory_order_relaxed);
  e.source = sends_ ? core_->rank() : peer_;
  e.tag = tag_;
  e.bytes = bytes_;
  e.offset = offset;
  e.filled.store(bytes_, std::memory_order_relaxed);
  e.copier = -1;
  e.bounced = bounce_ != nullptr;
  append(box, sends_ ? box.sends : box.receives, entry_);
  return ok_status();
}

// Copies `from` to the receive at `index`, which this call has unlinked.
void ShmTransfer::deliver(MailLock& lock, Mailbox& box, uint32_t index, const void* from) {
  MailEntry& e = box.entries[index];
  e.source = core_->rank();
  if (refuse_size(lock, e)) return;
  fill(core_->at(peer_, e.offset, bytes_), from, e);
  e.state.store(MailEntry::kDone, std::memory_order_release);
  notify(core_->area().rank(peer_));
  release();
  complete(ok_status());
}

// Copies the message at `index`, which this call has unlinked, to this receive's buffer. If its
// sender is still filling it in, that is left to wait() and test(): nobody waits for this copy.
void ShmTransfer::take(MailLock& lock, Mailbox& box, uint32_t index) {
  MailEntry& e = box.entries[index];
  source_ = e.source;
  if (refuse_size(lock, e)) return;
  claimed_ = &e;
  core_->heap().deallocate(bounce_);
  bounce_ = nullptr;
  fetch_claimed();
}

// Copies what has come of the claimed message; ends the transfer with the last of it.
bool ShmTransfer::fetch_claimed() {
  MailEntry& e = *claimed_;
  const size_t filled = e.filled.load(std::memory_order_acquire);
  const char* from = core_->at(source_, e.offset, bytes_);
  copy_piece(static_cast<char*>(data_) + fetched_, from + fetched_, filled - fetched_, bytes_);
  fetched_ = filled;
  if (filled < bytes_) return false;
  drop_claim();
  complete(ok_status());
  return true;
}

// The message is the sender's again.
void ShmTransfer::drop_claim() {
  claimed_->state.store(MailEntry::kDone, std::memory_order_release);
  notify(core_->area().rank(source_));
  claimed_ = nullptr;
}

// Begins the copy, or ends both transfers if their sizes differ. Unlocks.
bool ShmTransfer::refuse_size(MailLock& lock, MailEntry& e) {
  const int me = core_->rank();
  const int other = sends_ ? peer_ : source_.load();
  if (e.bytes == bytes_) {
    e.copier = me;
    if (sends_) e.filled.store(0, std::memory_order_relaxed);
    e.state.store(MailEntry::kCopying, std::memory_order_release);
    lock.unlock();
    return false;
  }
  const uint64_t theirs = e.bytes;
  e.peer_bytes = bytes_;
  e.state.store(MailEntry::kWrongSize, std::memory_order_release);
  lock.unlock();
  notify(core_->area().rank(other));
  release();
  complete(sends_ ? wrong_size(bytes_, theirs, me, other) : wrong_size(theirs, bytes_, other, me));
  return true;
}

// Copies the message and tells the receiver how far it got.
void ShmTransfer::fill(void* to, const void* from, MailEntry& e) {
  for (size_t done = 0; done < bytes_;) {
    const size_t part = e.bounced ? std::min(kPiece, bytes_ - done) : bytes_;
    copy_piece(static_cast<char*>(to) + done, static_cast<const char*>(from) + done, part, bytes_);
    done += part;
    e.filled.store(done, std::memory_order_release);
    notify(core_->area().rank(peer_));
  }
}

bool ShmTransfer::test() {
  if (done_.load(std::memory_order_acquire)) return true;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return false;  // another thread waits for it
  if (done_.load(std::memory_order_relaxed) || poll()) return true;
  if (const Status failure = standstill(); !failure.ok()) {
    withdraw();
    if (!done_.load()) complete(failure);
  }
  return done_.load();
}

// Looks at the entry; finishes the transfer if the other side is through with it.
bool ShmTransfer::poll() {
  if (claimed_ != nullptr) return fetch_claimed();
  const MailEntry& e = box().entries[entry_];
  const uint32_t state = e.state.load(std::memory_order_acquire);
  if (!sends_ && bounce_ != nullptr && state != MailEntry::kWrongSize &&
      state != MailEntry::kQueued) {
    const size_t filled = e.filled.load(std::memory_order_acquire);
    copy_piece(static_cast<char*>(data_) + fetched_, bounce_ + fetched_, filled - fetched_, bytes_);
    fetched_ = filled;
  }
  if (state != MailEntry::kDone && state != MailEntry::kWrongSize) return false;
  if (!sends_) source_ = e.source;
  const int me = core_->rank();
  Status status;
  if (state == MailEntry::kWrongSize) {
    status = sends_ ? wrong_size(bytes_, e.peer_bytes, me, peer_)
                    : wrong_size(e.peer_bytes, bytes_, source_, me);
  }
  release();
  complete(std::move(status));
  return true;
}

// Why it can't complete any more, or ok.
Status ShmTransfer::standstill() const {
  if (core_->failed()) return core_->error();
  for (int r = 0; r < core_->size(); ++r) {
    const bool possible = peer_ == r || (peer_ == kAnySource && r != core_->rank());
    if (possible && !core_->has_left(r)) return ok_status();
  }
  const std::string who = peer_ == kAnySource
                              ? "all other ranks have"
                              : "rank " + std::to_string(core_->global_rank(peer_)) + " has";
  return Status(Code::kAborted, who + " left the group before " + describe());
}

Status ShmTransfer::wait(Deadline deadline) {
  const std::lock_guard lock(mutex_);
  RankState& self = core_->self();
  if (!done_.load(std::memory_order_acquire)) {
    core_->message_spinner().spin([this] { return poll(); });
  }
  const TimePoint started = Clock::system().now();
  bool warned = false;
  self.waits_for.store(peer_ == kAnySource ? 0 : peer_ + 1, std::memory_order_relaxed);
  while (!done_.load(std::memory_order_acquire)) {
    const uint32_t seen = self.event.load(std::memory_order_acquire);
    if (poll()) break;
    const TimePoint now = Clock::system().now();
    Status failure = standstill();
    if (failure.ok() && now >= deadline.at()) {
      failure = Status(Code::kDeadlineExceeded, waiting_text(now - started));
    }
    if (!failure.ok()) {
      withdraw();
      if (!done_.load()) complete(failure);
      break;
    }
    if (!warned && now - started >= core_->options().patience) {
      warned = true;
      CONVOY_LOG(Warn) << waiting_text(now - started);
    }
    Nanos left = std::chrono::seconds(1);
    if (deadline.at() != TimePoint::max()) left = std::min(left, deadline.at() - now);
    ShmCore::sleep_on(self.event, self.event_sleepers, seen, left);
  }
  self.waits_for.store(0, std::memory_order_relaxed);
  return status_;
}

// Takes the entry back, so that nobody touches this rank's memory for it any more; if a copy is
// under way, waits for its end.
void ShmTransfer::withdraw() {
  if (claimed_ != nullptr) drop_claim();
  if (entry_ == kNoEntry) return release();
  Mailbox& box = this->box();
  const MailEntry& e = box.entries[entry_];
  bool queued = false;
  {
    // Without the lock its holder died: nobody can find the entry any more.
    const MailLock lock(*core_, box);
    queued = !lock.locked() || unlink_first(box, sends_ ? box.sends : box.receives,
                                            [this](uint32_t index, const MailEntry&) {
                                              return index == entry_;
                                            }) != kNoEntry;
  }
  while (e.state.load(std::memory_order_acquire) == MailEntry::kCopying &&
         !core_->is_gone(e.copier)) {
    Clock::system().sleep_for(std::chrono::microseconds(20));
  }
  if (queued || !poll()) release();
}

// Gives back the entry, which is in no list any more, and the bounce block.
void ShmTransfer::release() {
  if (entry_ != kNoEntry) {
    Mailbox& box = this->box();
    const MailLock lock(*core_, box);
    if (lock.locked()) free_entry(box, entry_);
    entry_ = kNoEntry;
  }
  core_->heap().deallocate(bounce_);
  bounce_ = nullptr;
}

void ShmTransfer::complete(Status status) {
  status_ = std::move(status);
  done_.store(true, std::memory_order_release);
}

std::string ShmTransfer::describe() const {
  const std::string self = "rank " + std::to_string(core_->global_rank(core_->rank()));
  const std::string other = peer_ == kAnySource
                                ? std::string("any rank")
                                : "rank " + std::to_string(core_->global_rank(peer_));
  return "the message of " + bytes_text(bytes_) + " with tag " + std::to_string(tag_) + " from " +
         (sends_ ? self : other) + " to " + (sends_ ? other : self) + " of group " +
         core_->options().name;
}

std::string ShmTransfer::waiting_text(Nanos waited) const {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(waited).count();
  const std::string who = peer_ == kAnySource
                              ? std::string("no rank has")
                              : "rank " + std::to_string(core_->global_rank(peer_)) + " has not";
  return who + (sends_ ? " received " : " sent ") + describe() + " after " +
         std::to_string(ms / 1000) + "." + std::to_string(ms % 1000 / 100) + " s" +
         (peer_ == kAnySource ? "" : core_->behind({peer_}));
}

Status ShmTransfer::wrong_size(uint64_t sent, uint64_t expected, int from, int to) const {
  return Status(Code::kMismatch, "rank " + std::to_string(core_->global_rank(from)) + " sent " +
                                     bytes_text(sent) + " with tag " + std::to_string(tag_) +
                                     " to rank " + std::to_string(core_->global_rank(to)) +
                                     " of group " + core_->options().name + ", which expects " +
                                     bytes_text(expected));
}

// --- Messages whose sender has gone on.

void ShmCore::adopt_message(const Message& message) {
  const std::lock_guard lock(messages_mutex_);
  messages_.push_back(message);
}

// Frees what has been received meanwhile.
void ShmCore::reap_messages() {
  const std::lock_guard lock(messages_mutex_);
  std::erase_if(messages_, [this](const Message& message) {
    Mailbox& box = area_->mailbox(message.to);
    const uint32_t state = box.entries[message.entry].state.load(std::memory_order_acquire);
    if (state == MailEntry::kQueued || state == MailEntry::kCopying) return false;
    const MailLock mail(*this, box);
    if (mail.locked()) free_entry(box, message.entry);
    heap().deallocate(message.bounce);
    return true;
  });
}

// The receiver may still want them: they stay until it took them or left too.
void ShmCore::leave_messages() {
  reap_messages();
  for (const Message& message : messages_) {
    const std::atomic<uint32_t>* state = &area_->mailbox(message.to).entries[message.entry].state;
    const std::atomic<uint32_t>* left = &area_->rank(message.to).left;
    node_->free_later(message.bounce, [heap = peers_[0]->heap, state, left] {
      const uint32_t seen = state->load(std::memory_order_acquire);
      return left->load() != 0 || (seen != MailEntry::kQueued && seen != MailEntry::kCopying);
    });
  }
}

// --- The group's entry points.

Result<std::shared_ptr<Transfer>> ShmGroup::post_send(const void* data, size_t bytes, int to,
                                                      int tag) {
  return post_transfer(true, const_cast<void*>(data), bytes, to, tag);
}

Result<std::shared_ptr<Transfer>> ShmGroup::post_recv(void* data, size_t bytes, int from, int tag) {
  return post_transfer(false, data, bytes, from, tag);
}

Result<std::shared_ptr<Transfer>> ShmGroup::post_transfer(bool sends, void* data, size_t bytes,
                                                          int peer, int tag) {
  const bool any = !sends && peer == kAnySource;
  if (!any && (peer < 0 || peer >= size())) {
    return Status(Code::kInvalidArgument, "group " + core_->options().name + " has no rank " +
                                              std::to_string(peer) + "; it has " +
                                              std::to_string(size()));
  }
  auto transfer = std::make_shared<ShmTransfer>(core_, sends, data, bytes, peer, tag);
  CONVOY_RETURN_IF_ERROR(transfer->post());
  return std::shared_ptr<Transfer>(std::move(transfer));
}

}  // namespace convoy::host
