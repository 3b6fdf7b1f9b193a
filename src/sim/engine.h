#pragma once

#include "src/sim/network.h"

#include <map>
#include <memory>
#include <optional>
#include <vector>

// Runs all ranks' programs, step by step. No queue of events in time: a rank runs until it needs
// what another has not yet done, and times follow from the dependencies alone.
namespace convoy::sim {

// Where an operation's traffic goes: the collective's slot, or a channel.
inline constexpr uint8_t kSendLane = kSlots;         // + channel
inline constexpr uint8_t kReceiveLane = kSlots + 2;  // + channel
inline constexpr uint8_t kLanes = kSlots + 4;

// An operation that has completed, and where its time went.
struct Done {
  Time issued = 0, started = 0, completed = 0;
  uint32_t signature = 0, sequence = 0;
  uint8_t lane = 0;
  float moved = 0;                                    // bytes
  float send = 0, peer = 0, receive = 0, source = 0;  // ns of waiting
  float usual = 0;         // of an exchange of all with all: what `send` is without a fault …
  uint32_t fault = kNone;  // … and the one that makes it longer
};

// One that has not.
struct Open {
  Time issued = 0, ready = kNever;  // ready: the device has come to it
  uint32_t signature = 0, sequence = 0;
  uint32_t group = 0;  // or the channel
  uint16_t collective = 0;
  uint8_t lane = 0;
  bool async = false;
};

struct SpanRecord {
  Name name = kNameStep;
  uint8_t thread = 0;  // 0: host, 1: device
  Time begin = 0, end = 0;
  uint64_t value = 0;
};

struct Rank {
  Time host = 0, device = 0;
  const Program* program = nullptr;
  uint32_t counter = 0;  // into the program
  uint32_t step = 0, computations = 0;
  uint32_t next_waiter = kNone;
  bool finished = true, blocked = false, halted = false;
  Time died = kNever;
  Random random;
  float speed = 1;  // static
  Effects effects;
  std::array<uint32_t, kSlots> sequence{};
  std::array<uint32_t, 2> sent{}, received{}, received_before{};  // before this step
  std::array<uint32_t, 2> send_signature{}, receive_signature{};
  uint64_t tokens = 0;
  std::vector<Open> open;
  std::vector<Done> done;         // not yet told
  std::vector<SpanRecord> spans;  // the same
  std::vector<SpanRecord> open_spans;
};

class Engine {
 public:
  Engine(const Cluster& cluster, const Layout& layout, Catalog& catalog,
         const ProgramBuilder& builder, Faults& faults, const Fabric& fabric,
         trace::Registry& registry, Time begin);

  // False: nobody can go on, and not all have finished the step.
  bool run_step(uint32_t step);
  // Until when everything that happens is known.
  Time known_until() const;
  // After a hang: what hosts still hand over although their devices stand still.
  void settle();

  // When an operation that has not ended began on its device; kNever: others of its group are
  // before it, or the device has not come to it.
  Time started(const Open& open) const;
  // Whether a rank's device has come to this collective of a group.
  bool has_come(uint32_t rank, uint8_t slot, uint32_t sequence) const;

  std::vector<Rank>& ranks() { return ranks_; }
  const std::vector<Rank>& ranks() const { return ranks_; }

 private:
  // Of a group; kept until its place is needed again.
  struct Instance {
    uint32_t sequence = 0, arrived = 0, last = 0;  // last: position of the last to come
    uint32_t waiters = kNone;                      // ranks, linked
    uint16_t collective = 0;
    bool broken = false;
    float slow = 1;
    const Touch* touch = nullptr;
    Time begin = 0, before = 0, end = kNever;  // before: the end of the one before
  };
  struct Communicator {
    std::vector<Instance> instances;
    uint32_t size = 1;
    Time free = 0;  // its last operation's end
    bool stuck = false;
    Random random;
  };
  struct Message {
    uint32_t sequence = 0;
    bool sender_waits = false, receiver_waits = false, broken = false;
    Time sent = kNever, posted = kNever, end = kNever;
    float slow = 1;
  };
  struct Channel {
    std::vector<Message> messages;
    Time free = 0;
    Random random;
  };

  void prepare_groups();
  void begin_step(uint32_t rank);
  const Program* program_of(uint32_t rank, const Rank& state);
  bool drain(uint32_t step);
  void run(uint32_t rank);
  bool execute(uint32_t rank, const Instruction& i);  // false: blocked, or over
  void compute(uint32_t rank, const Instruction& i);
  bool collective(uint32_t rank, const Instruction& i);
  void arrive(const Open& open, uint32_t rank, bool breaks);
  void complete(Communicator& group, uint32_t index, Instance& instance, uint32_t step);
  bool resolve(uint32_t rank, const Open& open);
  void finish(uint32_t rank, const Open& open, const Instance& instance);
  void share_waits(Done& done, uint32_t position, const Instance& instance, uint32_t size) const;
  bool await_async(uint32_t rank);
  void send(uint32_t rank, uint8_t channel, bool breaks);
  void receive(uint32_t rank, uint8_t channel);
  bool await_message(uint32_t rank, const Instruction& i);
  bool await_sends(uint32_t rank);
  void try_transfer(uint32_t channel, Message& message, uint32_t step);
  void finish_message(Rank& r, const Open& open, const Message& message, bool sender);
  uint32_t peer_of(uint32_t rank, uint8_t channel) const;
  uint32_t outgoing(uint32_t rank, uint8_t channel) const { return rank * 2 + channel; }
  uint32_t incoming(uint32_t rank, uint8_t channel) const;
  Message& message(uint32_t channel, uint32_t sequence);
  Message& begin_message(Rank& r, uint32_t channel, uint32_t sequence, uint32_t signature,
                         uint8_t lane);
  Instance& instance(uint32_t group, uint32_t sequence);
  void end_span(Rank& r, Name name);
  void settle(uint32_t rank);

  const Cluster& cluster_;
  const Layout& layout_;
  Catalog& catalog_;
  const ProgramBuilder& builder_;
  Faults& faults_;
  const Fabric& fabric_;
  trace::Registry& registry_;
  Jitter compute_jitter_, network_jitter_, host_jitter_;
  std::vector<Rank> ranks_;
  std::vector<Communicator> groups_;
  std::vector<Channel> channels_;
  std::map<uint32_t, std::unique_ptr<Program>> programs_;  // by stage and kind
  std::vector<std::unique_ptr<Program>> changed_;          // those with faults
  std::vector<uint32_t> ready_, awake_;
};

}  // namespace convoy::sim
