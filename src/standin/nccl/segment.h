#pragma once

#include "src/standin/standin.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

// What the ranks of one communicator share: a memfd with a slot for each rank, barriers, and a
// meeting point for each pair of ranks.
//
// The unique id names the process and descriptor that made the memfd; the others open it through
// /proc. So there is no listener, no port, and nothing is left behind when processes die. Ranks are
// processes or threads of one machine.
namespace convoy::standin::nccl {

constexpr int kRanksMax = 64;

enum class Function : uint32_t {
  none,
  all_gather,
  all_reduce,
  all_to_all,
  broadcast,
  gather,
  reduce,
  reduce_scatter,
  scatter,
  send,
  recv,
  put,
  signal,
  wait_signal
};
const char* name_of(Function function);  // "AllReduce"

// One operation as its caller described it. Lies in shared memory: plain bytes. Addresses are
// device addresses of the caller's process.
struct OpRecord {
  Function function = Function::none;
  uint32_t dtype = 0;  // ncclDataType_t
  uint32_t redop = 0;  // ncclRedOp_t; created ones: ncclNumOps
  int32_t root = -1;   // or the peer
  uint64_t count = 0;  // elements, as in the call
  uint64_t send = 0, recv = 0;
  uint64_t scalar = 0;  // bits of a created operator's factor, in the dtype
  uint64_t number = 0;  // of this rank's operations on the communicator, from 1
};
// "AllReduce of 1024 float32 (sum)".
std::string text_of(const OpRecord& op);

// What ncclUniqueId holds.
struct UniqueId {
  uint64_t magic = 0;
  int32_t pid = 0, fd = -1;
  uint64_t inode = 0;
  uint64_t nonce = 0;
};

// A communicator made from another one, told to its members by one of them.
struct Offer {
  uint64_t members = 0;  // bits of the parent's ranks
  uint32_t is_grow = 0;
  UniqueId id;
};

struct alignas(64) RankSlot {
  std::atomic<uint32_t> claimed{0}, published{0};
  int32_t pid = 0;
  int32_t device = -1;
  uint64_t host = 0;
  StandinPeerDevice memory{};
  // The operation that it is in, or was in last, and how far.
  std::atomic<uint32_t> bell{0};              // rung by peers: something for this rank has changed
  std::atomic<uint64_t> entered{0}, left{0};  // operations
  std::atomic<uint32_t> stopped{0};           // aborted, revoked or destroyed its communicator
  std::atomic<uint32_t> finalized{0};
  std::atomic<uint32_t> held{0};     // a fault on purpose keeps it from beginning
  std::atomic<uint32_t> leaving{0};  // of the process whose first rank this is: ranks that end
  // It may be read while the rank writes it, for a message; then it is a mixture.
  OpRecord op() const;
  void show(const OpRecord& op);
  std::array<std::atomic<uint64_t>, sizeof(OpRecord) / 8> op_words{};
  // What it tells the others on the host: split's color and key, a window's address.
  std::array<int64_t, 4> words{};
  std::atomic<uint32_t> host_calls{0};
  std::atomic<uint32_t> offers{0};
  Offer offer;
  std::array<std::atomic<uint64_t>, kRanksMax> signals{};  // one-sided, by source
};

// Directions between two ranks, seen from one of them.
constexpr uint32_t kToPeer = 1, kFromPeer = 2;

// One direction between two ranks: the sender posts, the receiver takes.
struct alignas(64) Pair {
  std::atomic<uint32_t> posted{0}, taken{0};
  // What the source's first calls with messages to or from the destination connect: kToPeer,
  // kFromPeer, or both at once. At most two calls connect something.
  std::array<std::atomic<uint32_t>, 2> connects{};
  OpRecord op;  // the sender's
};

// All ranks, again and again.
struct alignas(64) Barrier {
  std::atomic<uint64_t> arrived{0};
  std::atomic<uint32_t> round{0};
  // Returns the value of `round` at which this arrival's round is complete.
  uint32_t arrive(int members);
  bool is_complete(uint32_t target) const {
    return static_cast<int32_t>(round.load(std::memory_order_acquire) - target) >= 0;
  }
};

struct Segment {
  uint64_t magic = 0, nonce = 0;
  std::atomic<uint32_t> nranks{0};  // from the first rank that came
  Barrier stream;                   // kernels meet here
  Barrier host;                     // calls that are collective on the host
  Barrier ending[kRanksMax];        // of the ranks of one node, by the node's first rank
  RankSlot ranks[kRanksMax];
  Pair pairs[kRanksMax][kRanksMax];  // [source][destination]
};

// Keeps the descriptor in this process until the communicator is made.
class SegmentOwner {
 public:
  // Makes one; null and `why` when the system refuses.
  static bool make(UniqueId& id, std::string& why);
  // Closes the descriptor if this process made it. Later ranks can't come any more.
  static void close(const UniqueId& id);
};
std::shared_ptr<Segment> open_segment(const UniqueId& id, std::string& why);

// Blocks until the word is not `seen` any more, or is woken, or the time is over.
void futex_wait(std::atomic<uint32_t>& word, uint32_t seen, std::chrono::milliseconds limit);
void futex_wake(std::atomic<uint32_t>& word);

}  // namespace convoy::standin::nccl
