// A collective is: all ranks show what they were asked for, meet, compare, each does its share of
// the work by reading and writing the others' device memory, and all meet again. Nobody works on
// buffers before their owner's stream is there, nor after it has gone on. Ranks whose descriptions
// differ hang, as on GPUs, but say so first.
#include "src/standin/nccl/kernels.h"

#include "src/standin/nccl/faults.h"
#include "src/standin/nccl/reduce.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <unistd.h>

namespace convoy::standin::nccl {
namespace {

// Elements [begin, end) are this rank's share.
struct Share {
  uint64_t begin, end;
};

Share share_of(uint64_t count, int rank, int nranks) {
  const auto r = static_cast<uint64_t>(rank), n = static_cast<uint64_t>(nranks);
  return {count * r / n, count * (r + 1) / n};
}

class Collective {
 public:
  Collective(Communicator& comm, const OpRecord& op)
      : comm_(comm), op_(op), bytes_(op.count * bytes_of_type(op.dtype)) {}

  void move() {
    switch (op_.function) {
      case Function::all_gather:
        return all_gather();
      case Function::all_reduce:
        return reduce_to_all();
      case Function::all_to_all:
        return all_to_all();
      case Function::broadcast:
        return copy(recv(me()), send(op_.root), bytes_);
      case Function::gather:
        return gather();
      case Function::reduce:
        return reduce_to_root();
      case Function::reduce_scatter:
        return reduce_scatter();
      case Function::scatter:
        return copy(recv(me()), send(op_.root) + offset(me()), bytes_);
      default:
        return;
    }
  }

 private:
  int me() const { return comm_.rank(); }
  int n() const { return comm_.nranks(); }
  size_t offset(int block) const { return static_cast<size_t>(block) * bytes_; }
  char* send(int rank) { return static_cast<char*>(comm_.alias(rank, comm_.slot(rank).op().send)); }
  char* recv(int rank) { return static_cast<char*>(comm_.alias(rank, comm_.slot(rank).op().recv)); }
  static void copy(char* to, const char* from, size_t bytes) {
    if (to != from) std::memcpy(to, from, bytes);
  }

  void all_gather() {
    for (int r = 0; r < n(); ++r) copy(recv(me()) + offset(r), send(r), bytes_);
  }
  void all_to_all() {
    for (int r = 0; r < n(); ++r) copy(recv(me()) + offset(r), send(r) + offset(me()), bytes_);
  }
  void gather() {
    if (me() != op_.root) return;
    for (int r = 0; r < n(); ++r) copy(recv(me()) + offset(r), send(r), bytes_);
  }
  void reduce_to_all() {
    std::array<void*, kRanksMax> targets;
    for (int r = 0; r < n(); ++r) targets[static_cast<size_t>(r)] = recv(r);
    const Share share = share_of(op_.count, me(), n());
    reduce_share(targets.data(), n(), share.begin, share.end, share.begin);
  }
  void reduce_to_root() {
    void* target = recv(op_.root);
    const Share share = share_of(op_.count, me(), n());
    reduce_share(&target, 1, share.begin, share.end, share.begin);
  }
  void reduce_scatter() {
    void* target = recv(me());
    const uint64_t begin = static_cast<uint64_t>(me()) * op_.count;
    reduce_share(&target, 1, begin, begin + op_.count, 0);
  }

  void reduce_share(void* const* targets, int n_targets, size_t begin, size_t end, size_t to) {
    std::array<const void*, kRanksMax> sources;
    std::array<uint64_t, kRanksMax> scalars;
    for (int r = 0; r < n(); ++r) {
      sources[static_cast<size_t>(r)] = send(r);
      scalars[static_cast<size_t>(r)] = comm_.slot(r).op().scalar;
    }
    reduce({op_.dtype, op_.redop, n(), sources.data(), scalars.data(), targets, n_targets}, begin,
           end, to);
  }

  Communicator& comm_;
  const OpRecord& op_;
  const size_t bytes_;
};

bool agree(const OpRecord& a, const OpRecord& b) {
  return a.function == b.function && a.dtype == b.dtype && a.redop == b.redop &&
         a.count == b.count && a.root == b.root;
}

bool check_agreement(Communicator& comm, const OpRecord& mine) {
  std::string others;
  for (int r = 0; r < comm.nranks(); ++r) {
    const OpRecord theirs = comm.slot(r).op();
    if (agree(mine, theirs)) continue;
    others += (others.empty() ? "rank " : ", rank ") + std::to_string(r) + " called " +
              text_of(theirs) + " as its operation #" + std::to_string(theirs.number);
  }
  if (others.empty()) return true;
  const std::string text = comm.name() + " called " + text_of(mine) + " as its operation #" +
                           std::to_string(mine.number) + ", but " + others +
                           ": all ranks must issue the same collectives in the same order";
  standin_finding("collective mismatch", text.c_str());
  standin_write_report();
  return false;
}

// Shows the operation to the peers while it is under way.
class Entered {
 public:
  Entered(Communicator& comm, const OpRecord& op) : slot_(comm.slot(comm.rank())) {
    slot_.show(op);
    slot_.entered.fetch_add(1, std::memory_order_release);
  }
  ~Entered() { slot_.left.store(slot_.entered, std::memory_order_release); }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;

 private:
  RankSlot& slot_;
};

// A fault holds the rank here, which its peers see.
void hold(Communicator& comm, const Operation& op, std::chrono::nanoseconds limit) {
  RankSlot& mine = comm.slot(comm.rank());
  mine.show(op.record);
  mine.held = 1;
  comm.hang(limit);
  mine.held = 0;
}

// What a fault does to the operation before it begins. False: the kernel is over.
bool withstand(Communicator& comm, const Operation& op) {
  const OpRecord& record = op.record;
  const Fault fault = Faults::get().at(Faults::Where::kernel, comm.config().name, comm.rank(),
                                       record.number, name_of(record.function));
  switch (fault.kind) {
    case Fault::Kind::die:
      ::kill(::getpid(), SIGKILL);
      break;
    case Fault::Kind::slow:
      hold(comm, op, fault.by);
      break;
    case Fault::Kind::fail:
      comm.set_async_error(static_cast<ncclResult_t>(fault.result));
      [[fallthrough]];
    case Fault::Kind::hang:
      comm.profiler().started(op.trace);
      hold(comm, op, std::chrono::nanoseconds::max());
      break;
    default:
      break;
  }
  return comm.stopped() == Stop::no;
}

bool run_collective(Communicator& comm, Operation& op) {
  if (!withstand(comm, op)) return false;
  if (op.device_scalar != nullptr) {
    std::memcpy(&op.record.scalar, standin_alias(op.device_scalar), bytes_of_type(op.record.dtype));
  }
  const Entered entered(comm, op.record);
  Profiler& profiler = comm.profiler();
  profiler.started(op.trace);
  const auto what = [&] {
    return text_of(op.record) + ", operation #" + std::to_string(op.record.number) + ",";
  };
  const auto who = [&] { return comm.missing_of_collective(); };
  Barrier& barrier = comm.segment().stream;
  if (!comm.meet(barrier, comm.nranks(), Stop::revoked, what, who)) return false;
  if (!check_agreement(comm, op.record)) {
    comm.hang();
    return false;
  }
  profiler.met(op.trace);
  Collective(comm, op.record).move();
  if (!comm.meet(barrier, comm.nranks(), Stop::revoked, what, who)) return false;
  profiler.moved(op.trace);
  profiler.done(op.trace);
  return true;
}

// --- Messages. All of a group make progress at once; those between the same two ranks in their
// order.

struct Message {
  Operation* op;
  enum class State { waiting, posted, done } state = State::waiting;
  uint32_t target = 0;  // of `taken`, once posted
};

class Messages {
 public:
  Messages(Communicator& comm, std::vector<Operation>& operations) : comm_(comm) {
    for (Operation& op : operations) all_.push_back({&op});
  }

  bool run() {
    for (const Message& message : all_) {
      if (!withstand(comm_, *message.op)) return false;
    }
    const Entered entered(comm_, all_.front().op->record);
    for (const Message& message : all_) comm_.profiler().started(message.op->trace);
    std::atomic<uint32_t>& bell = comm_.slot(comm_.rank()).bell;
    return comm_.wait(
        bell, [&] { return progress(); }, Stop::revoked,
        [&] {
          const OpRecord& op = first_left()->op->record;
          return text_of(op) + ", operation #" + std::to_string(op.number) + ",";
        },
        [&] {
          const int peer = first_left()->op->record.root;
          return "rank " + std::to_string(peer) + comm_.state_of(peer);
        });
  }

 private:
  // True when all are done.
  bool progress() {
    if (mismatched_) return false;
    bool moved = true, all_done = true;
    while (moved) {
      moved = false;
      all_done = true;
      uint64_t senders_busy = 0, receivers_busy = 0;  // peers with an earlier message under way
      for (Message& message : all_) {
        if (message.state == Message::State::done) continue;
        const bool is_send = message.op->record.function == Function::send;
        uint64_t& busy = is_send ? senders_busy : receivers_busy;
        const uint64_t bit = uint64_t{1} << message.op->record.root;
        if ((busy & bit) == 0) moved |= is_send ? step_send(message) : step_recv(message);
        if (mismatched_) return false;
        if (message.state != Message::State::done) {
          busy |= bit;
          all_done = false;
        }
      }
    }
    return all_done;
  }

  bool step_send(Message& message) {
    const OpRecord& op = message.op->record;
    Pair& pair = comm_.segment().pairs[comm_.rank()][op.root];
    if (message.state == Message::State::waiting) {
      pair.op = op;
      message.target = pair.posted.fetch_add(1, std::memory_order_release) + 1;
      message.state = Message::State::posted;
      comm_.ring(op.root);
      return true;
    }
    if (pair.taken.load(std::memory_order_acquire) != message.target) return false;
    end(message);
    return true;
  }

  bool step_recv(Message& message) {
    const OpRecord& op = message.op->record;
    Pair& pair = comm_.segment().pairs[op.root][comm_.rank()];
    const uint32_t taken = pair.taken;
    if (pair.posted.load(std::memory_order_acquire) == taken) return false;
    const OpRecord sent = pair.op;
    if (sent.count != op.count || sent.dtype != op.dtype) return tell_mismatch(op, sent);
    std::memmove(comm_.alias(comm_.rank(), op.recv), comm_.alias(op.root, sent.send),
                 op.count * bytes_of_type(op.dtype));
    pair.taken.store(taken + 1, std::memory_order_release);
    end(message);
    comm_.ring(op.root);
    return true;
  }

  void end(Message& message) {
    message.state = Message::State::done;
    const OperationTrace& trace = message.op->trace;
    comm_.profiler().met(trace);
    comm_.profiler().moved(trace);
    comm_.profiler().done(trace);
  }

  bool tell_mismatch(const OpRecord& op, const OpRecord& sent) {
    const std::string text = comm_.name() + " called " + text_of(op) + " as its operation #" +
                             std::to_string(op.number) + ", but rank " + std::to_string(op.root) +
                             " called " + text_of(sent);
    standin_finding("collective mismatch", text.c_str());
    standin_write_report();
    mismatched_ = true;
    return false;
  }

  const Message* first_left() const {
    for (const Message& message : all_) {
      if (message.state != Message::State::done) return &message;
    }
    return &all_.front();
  }

  Communicator& comm_;
  std::vector<Message> all_;
  bool mismatched_ = false;
};

// --- One-sided operations.

bool run_one_sided(Communicator& comm, Operation& op) {
  if (!withstand(comm, op)) return false;
  const OpRecord& record = op.record;
  const Entered entered(comm, record);
  const int me = comm.rank();
  if (record.function != Function::wait_signal) {
    if (record.function == Function::put) {
      std::memcpy(comm.alias(record.root, op.target), comm.alias(me, record.send),
                  record.count * bytes_of_type(record.dtype));
    }
    comm.slot(record.root).signals[static_cast<size_t>(me)].fetch_add(1, std::memory_order_release);
    comm.ring(record.root);
    return true;
  }
  auto& signals = comm.slot(me).signals;
  auto& used = comm.signals_used;
  const auto left = [&]() -> const ncclWaitSignalDesc_t* {
    for (const ncclWaitSignalDesc_t& wanted : op.signals) {
      const auto peer = static_cast<size_t>(wanted.peer);
      if (signals[peer].load(std::memory_order_acquire) <
          used[peer] + static_cast<uint64_t>(wanted.opCnt)) {
        return &wanted;
      }
    }
    return nullptr;
  };
  const bool met = comm.wait(
      comm.slot(me).bell, [&] { return left() == nullptr; }, Stop::revoked,
      [&] { return text_of(record); },
      [&] { return "rank " + std::to_string(left()->peer) + comm.state_of(left()->peer); });
  if (!met) return false;
  for (const ncclWaitSignalDesc_t& wanted : op.signals) {
    used[static_cast<size_t>(wanted.peer)] += static_cast<uint64_t>(wanted.opCnt);
  }
  return true;
}

bool is_two_sided(const Operation& op) {
  return op.record.function == Function::send || op.record.function == Function::recv;
}

void run_entered(Launch& launch) {
  Communicator& comm = *launch.comm;
  for (Operation& op : launch.collectives) {
    if (!run_collective(comm, op)) return;
  }
  const auto one_sided =
      std::stable_partition(launch.messages.begin(), launch.messages.end(), is_two_sided);
  for (auto op = one_sided; op != launch.messages.end(); ++op) {
    if (!run_one_sided(comm, *op)) return;
  }
  launch.messages.erase(one_sided, launch.messages.end());
  if (!launch.messages.empty()) (void)Messages(comm, launch.messages).run();
}

}  // namespace

void run(Launch& launch) {
  if (!launch.comm->enter_kernel()) return;
  run_entered(launch);
  launch.comm->leave_kernel();
}

}  // namespace convoy::standin::nccl
