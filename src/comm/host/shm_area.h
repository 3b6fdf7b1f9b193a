#pragma once

#include <convoy/comm/host/collective.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

// The memory through which the ranks of one local group talk: one area in rank 0's heap, mapped by
// all. Every word that two ranks touch is an atomic or is published by one (see the comments).
namespace convoy::host {

inline constexpr size_t kInlineBytes = 8 * 1024;  // a rank's posting: descriptors and small payload
inline constexpr size_t kReasonBytes = 2048;      // text of a failure
inline constexpr size_t kRequestBytes = 512;      // text of what a rank asked for (mismatch only)
inline constexpr uint32_t kMailEntries = 1024;    // unmatched messages and receives of one rank
inline constexpr uint32_t kNoEntry = ~uint32_t{0};
inline constexpr uint64_t kPrivate =
    ~uint64_t{0};  // "offset" of memory outside of the owner's heap

// One collective, as its rank posted it; followed by n_in + n_out SpanRecords.
struct OpRecord {
  OpKind kind;
  DType dtype;
  ReduceOp reduce;
  uint8_t unused;
  int32_t root;
  double premul;
  uint32_t n_in;
  uint32_t n_out;
};
static_assert(sizeof(OpRecord) == 24);

struct SpanRecord {
  uint64_t count;
  uint64_t offset;  // in the heap of the rank that posted it, or kPrivate
};

// What a rank posts before it arrives. Two a rank, used in turn: a rank writes posting k+2 only
// after all arrived at k+1, hence have read k.
struct alignas(64) Posting {
  uint64_t signature;      // hash of everything that must be equal on all ranks
  uint64_t record_offset;  // of the descriptors in the poster's heap, or kPrivate: they are in data
  uint64_t stage_offset;   // of its staging area, or kPrivate: it has none
  uint32_t record_bytes;
  uint32_t payload_at;  // where in data the payload begins, or 0: there is none (large operation)
  alignas(64) char data[kInlineBytes];
};

// One message on its way, or one receive that waits. Guarded by the mailbox's lock while it is in a
// list; then by `state`.
struct MailEntry {
  enum State : uint32_t { kQueued, kCopying, kDone, kWrongSize };
  std::atomic<uint32_t> state;
  uint32_t next;
  int32_t source;  // of a receive: what it accepts, later who sent
  int32_t tag;
  uint64_t bytes;
  uint64_t offset;               // in the poster's heap
  std::atomic<uint64_t> filled;  // bytes at `offset` that are there already (bounce blocks)
  uint64_t peer_bytes;           // kWrongSize: the other side's size
  int32_t copier;                // kCopying: the rank that copies
  bool bounced;                  // a receive: `offset` is a bounce block
};

// What waits at one rank. Lists are in the order of posting.
struct alignas(64) Mailbox {
  struct List {
    uint32_t head, tail;
  };
  std::atomic<uint32_t> lock;  // 0, or rank + 1 of the holder
  List sends;                  // messages nobody has received
  List receives;               // receives nobody has sent to
  uint32_t free;               // list of entries that were used before
  uint32_t used;               // entries ever used; those beyond are not initialised
  MailEntry entries[kMailEntries];
};

struct alignas(64) RankState {
  std::atomic<uint32_t> phase;              // barriers it has arrived at
  std::atomic<uint32_t> busy;               // 1 while it may touch other ranks' memory
  std::atomic<uint32_t> left;               // 1: its group was destroyed
  std::atomic<uint32_t> detached;           // 1: it will not touch the area again
  std::atomic<uint32_t> request;            // phase at which `request_text` was written
  alignas(64) std::atomic<uint32_t> event;  // futex: counts completed messages
  std::atomic<uint32_t> event_sleepers;
  std::atomic<int32_t> waits_for;  // whose message it sleeps for, rank + 1; 0: nobody's
  char request_text[kRequestBytes];
};

struct Area {
  enum FailureState : uint32_t { kFine, kWriting, kFailed };
  uint32_t size;
  alignas(64) std::atomic<uint32_t> arrived;  // arrivals at barriers, all ranks together
  alignas(64) std::atomic<uint32_t> phase;    // futex: barriers that are complete
  std::atomic<uint32_t> sleepers;
  alignas(64) std::atomic<uint32_t> failure;  // FailureState
  int32_t failure_code;
  char failure_text[kReasonBytes];

  // RankState[size], Posting[2 * size], Mailbox[size] follow.
  static size_t bytes(int size) {
    return sizeof_header() + size * (sizeof(RankState) + 2 * sizeof(Posting) + sizeof(Mailbox));
  }
  static size_t sizeof_header() { return (sizeof(Area) + 63) / 64 * 64; }
  RankState& rank(int r) {
    return reinterpret_cast<RankState*>(reinterpret_cast<char*>(this) + sizeof_header())[r];
  }
  Posting& posting(int r, uint32_t parity) {
    return reinterpret_cast<Posting*>(&rank(static_cast<int>(size)))[2 * r + (parity & 1)];
  }
  Mailbox& mailbox(int r) {
    return reinterpret_cast<Mailbox*>(&posting(static_cast<int>(size), 0))[r];
  }
  // Makes a fresh area of raw memory.
  static Area* init(void* memory, int size);
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

}  // namespace convoy::host
