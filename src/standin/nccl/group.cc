// One launch for each communicator of the group, on the stream of its first operation; other
// streams of the same communicator are joined with events before and after. Launches of one
// communicator follow each other also when their streams differ, as they do with NCCL.
#include "src/standin/nccl/group.h"

#include "src/standin/nccl/faults.h"
#include "src/standin/nccl/on_device.h"
#include "src/standin/nccl/reduce.h"

#include <algorithm>
#include <array>
#include <thread>
#include <vector>

namespace convoy::standin::nccl {
namespace {

struct Queued {
  std::shared_ptr<Communicator> comm;
  Operation operation;
  cudaStream_t stream;
};

struct Group {
  int depth = 0;
  ncclResult_t failed = ncclSuccess;
  std::vector<std::function<ncclResult_t()>> jobs;
  std::vector<Queued> operations;
};

Group& group() {
  thread_local Group mine;
  return mine;
}

bool is_collective(const Operation& op) {
  return op.record.function < Function::send;
}

// What the operation touches in this rank's memory.
void add_ranges(const Communicator& comm, const Operation& op, std::vector<StandinRange>& ranges) {
  const OpRecord& r = op.record;
  const size_t one = r.count * bytes_of_type(r.dtype),
               all = one * static_cast<size_t>(comm.nranks());
  const bool is_root = r.root == comm.rank();
  const auto reads = [&](size_t bytes) {
    ranges.push_back({reinterpret_cast<const void*>(r.send), bytes, 0});
  };
  const auto writes = [&](size_t bytes) {
    ranges.push_back({reinterpret_cast<const void*>(r.recv), bytes, 1});
  };
  switch (r.function) {
    case Function::all_gather:
      reads(one), writes(all);
      break;
    case Function::all_reduce:
      reads(one), writes(one);
      break;
    case Function::all_to_all:
      reads(all), writes(all);
      break;
    case Function::broadcast:
      is_root ? reads(one) : void(), writes(one);
      break;
    case Function::gather:
      reads(one), is_root ? writes(all) : void();
      break;
    case Function::reduce:
      reads(one), is_root ? writes(one) : void();
      break;
    case Function::reduce_scatter:
      reads(all), writes(one);
      break;
    case Function::scatter:
      is_root ? reads(all) : void(), writes(one);
      break;
    case Function::send:
    case Function::put:
      reads(one);
      break;
    case Function::recv:
      writes(one);
      break;
    default:
      break;
  }
  if (op.device_scalar != nullptr) ranges.push_back({op.device_scalar, bytes_of_type(r.dtype), 0});
}

void run_launch(void* launch) {
  run(*static_cast<Launch*>(launch));
}

void drop_launch(void* launch) {
  delete static_cast<Launch*>(launch);
}

// `stream` goes on when the others have come to where they are now.
cudaError_t join_streams(const std::vector<Queued>& queued, cudaStream_t stream) {
  for (const Queued& q : queued) {
    if (q.stream == stream) continue;
    cudaEvent_t event = nullptr;
    cudaError_t error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    if (error == cudaSuccess) error = cudaEventRecord(event, q.stream);
    if (error == cudaSuccess) error = cudaStreamWaitEvent(stream, event, 0);
    if (event != nullptr) (void)cudaEventDestroy(event);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

void delay_proxy(const Communicator& comm, const Operation& op) {
  const Fault fault = Faults::get().at(Faults::Where::launch, comm.config().name, comm.rank(),
                                       op.record.number, name_of(op.record.function));
  if (fault.kind == Fault::Kind::proxy_delay) Profiler::delay_proxy(op.trace, fault.by);
}

// Which peers' memory the operation's messages go to (kToPeer) and come from (kFromPeer).
void add_directions(const Communicator& comm, const OpRecord& op,
                    std::array<uint32_t, kRanksMax>& directions) {
  const auto all = [&](uint32_t direction) {
    for (int r = 0; r < comm.nranks(); ++r) directions[static_cast<size_t>(r)] |= direction;
  };
  const bool is_root = op.root == comm.rank();
  const auto root = static_cast<size_t>(op.root);
  switch (op.function) {
    case Function::send:
      directions[root] |= kToPeer;
      break;
    case Function::recv:
      directions[root] |= kFromPeer;
      break;
    case Function::all_to_all:
      all(kToPeer | kFromPeer);
      break;
    case Function::gather:
      is_root ? all(kFromPeer) : void(directions[root] |= kToPeer);
      break;
    case Function::scatter:
      is_root ? all(kToPeer) : void(directions[root] |= kFromPeer);
      break;
    default:
      break;
  }
}

void connect_peers(Communicator& comm, const std::vector<Queued>& queued) {
  std::array<uint32_t, kRanksMax> directions{};
  for (const Queued& q : queued) add_directions(comm, q.operation.record, directions);
  for (int r = 0; r < comm.nranks(); ++r) {
    comm.connect(r, directions[static_cast<size_t>(r)]);
  }
}

cudaError_t enqueue(Communicator& comm, std::vector<Queued>& queued) {
  const cudaStream_t stream = queued.front().stream;
  auto launch = std::make_unique<Launch>();
  launch->comm = queued.front().comm;
  std::vector<StandinRange> ranges;
  std::string name = "nccl";
  TracedLaunch traced(comm.profiler(), stream);
  for (Queued& q : queued) {
    q.operation.record.number = ++comm.operations;
    delay_proxy(comm, q.operation);
    traced.add(q.operation.record, q.operation.trace);
    add_ranges(comm, q.operation, ranges);
    if (name.size() < 60)
      name += (name.size() > 4 ? "+" : "") + std::string(name_of(q.operation.record.function));
    auto& where = is_collective(q.operation) ? launch->collectives : launch->messages;
    where.push_back(std::move(q.operation));
  }
  cudaError_t error = join_streams(queued, stream);
  if (error != cudaSuccess) return error;
  if (comm.last == nullptr) {
    error = cudaEventCreateWithFlags(&comm.last, cudaEventDisableTiming);
  } else if (comm.last_stream != stream) {
    error = cudaStreamWaitEvent(stream, comm.last, 0);
  }
  if (error != cudaSuccess) return error;
  const StandinWork work{name.c_str(),     run_launch,    drop_launch,
                         launch.release(), ranges.data(), ranges.size()};
  traced.begin();
  if (standin_enqueue(stream, &work) != 0) return cudaErrorUnknown;
  traced.end();
  comm.last_stream = stream;
  error = cudaEventRecord(comm.last, stream);
  for (const Queued& q : queued) {
    if (error == cudaSuccess && q.stream != stream)
      error = cudaStreamWaitEvent(q.stream, comm.last, 0);
  }
  return error;
}

ncclResult_t launch(std::vector<Queued> queued) {
  const std::shared_ptr<Communicator> comm = queued.front().comm;
  const OnDevice device(comm->device());
  const std::lock_guard lock(comm->launching);
  connect_peers(*comm, queued);
  if (const cudaError_t error = enqueue(*comm, queued); error != cudaSuccess) {
    return fail(ncclUnhandledCudaError, comm->name() + ": launch: " + cudaGetErrorString(error));
  }
  if (comm->config().blocking) return ncclSuccess;
  comm->begin_progress();
  return ncclInProgress;
}

// A message to oneself meets nobody outside of its group.
ncclResult_t check_self_messages(const std::vector<Queued>& queued) {
  int sends = 0, recvs = 0;
  for (const Queued& q : queued) {
    const OpRecord& r = q.operation.record;
    if (r.root != q.comm->rank()) continue;
    sends += r.function == Function::send ? 1 : 0;
    recvs += r.function == Function::recv ? 1 : 0;
  }
  if (sends == recvs) return ncclSuccess;
  return fail(ncclInvalidUsage, queued.front().comm->name() + " sends to or receives from itself " +
                                    "without the other half in the same group");
}

ncclResult_t perform_all(std::vector<std::function<ncclResult_t()>>& jobs) {
  if (jobs.size() == 1) return jobs.front()();
  std::vector<ncclResult_t> results(jobs.size(), ncclSuccess);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < jobs.size(); ++i) {
    threads.emplace_back([&, i] { results[i] = jobs[i](); });
  }
  for (std::thread& thread : threads) thread.join();
  ncclResult_t worst = ncclSuccess;
  for (const ncclResult_t result : results) {
    if (worst == ncclSuccess || (worst == ncclInProgress && result != ncclSuccess)) worst = result;
  }
  return worst;
}

ncclResult_t launch_all(std::vector<Queued>& operations) {
  std::vector<std::vector<Queued>> by_comm;
  for (Queued& queued : operations) {
    const auto same = std::find_if(by_comm.begin(), by_comm.end(), [&](const auto& one) {
      return one.front().comm == queued.comm;
    });
    (same == by_comm.end() ? by_comm.emplace_back() : *same).push_back(std::move(queued));
  }
  for (const auto& one : by_comm) {
    if (const ncclResult_t checked = check_self_messages(one); checked != ncclSuccess)
      return checked;
  }
  ncclResult_t result = ncclSuccess;
  for (auto& one : by_comm) {
    const ncclResult_t launched = launch(std::move(one));
    if (launched != ncclSuccess && launched != ncclInProgress) return launched;
    if (launched == ncclInProgress) result = launched;
  }
  return result;
}

// The outermost end.
ncclResult_t finish_group() {
  Group done;
  std::swap(done, group());
  if (done.failed != ncclSuccess) return done.failed;
  ncclResult_t result = ncclSuccess;
  if (!done.jobs.empty()) result = perform_all(done.jobs);
  if (result != ncclSuccess && result != ncclInProgress) return result;
  if (done.operations.empty()) return result;
  const ncclResult_t launched = launch_all(done.operations);
  return launched == ncclSuccess ? result : launched;
}

}  // namespace

void group_start() {
  ++group().depth;
}

ncclResult_t group_end() {
  Group& mine = group();
  if (mine.depth == 0) return fail(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
  Profiler::group_ending();
  const ncclResult_t result = --mine.depth > 0 ? ncclSuccess : finish_group();
  Profiler::group_ended();
  return result;
}

ncclResult_t perform_in_group(std::function<ncclResult_t()> job) {
  Group& mine = group();
  if (mine.depth == 0) return job();
  mine.jobs.push_back(std::move(job));
  return ncclSuccess;
}

ncclResult_t queue_operation(std::shared_ptr<Communicator> comm, Operation operation,
                             cudaStream_t stream) {
  Profiler::call_begins();
  group_start();
  Group& mine = group();
  comm->profiler().enqueue(operation.record, stream, mine.depth, operation.trace);
  mine.operations.push_back({std::move(comm), std::move(operation), stream});
  return group_end();
}

ncclResult_t fail_in_group(ncclResult_t result) {
  Group& mine = group();
  if (mine.depth > 0 && mine.failed == ncclSuccess) mine.failed = result;
  return result;
}

}  // namespace convoy::standin::nccl
