// The calls that make, ask, stop and end communicators.
#include "src/standin/nccl/children.h"
#include "src/standin/nccl/group.h"
#include "src/standin/nccl/handles.h"
#include "src/standin/nccl/on_device.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <set>

namespace convoy::standin::nccl {
namespace {

std::mutex handles_mutex;
std::set<ncclComm_t> handles;

UniqueId read_id(const ncclUniqueId& from) {
  static_assert(sizeof(UniqueId) <= NCCL_UNIQUE_ID_BYTES);
  UniqueId id;
  std::memcpy(&id, from.internal, sizeof id);
  return id;
}

void write_id(const UniqueId& id, ncclUniqueId* to) {
  std::memset(to, 0, sizeof *to);
  std::memcpy(to->internal, &id, sizeof id);
}

std::shared_ptr<Communicator> new_communicator(Config config) {
  int device = 0;
  (void)cudaGetDevice(&device);
  return std::make_shared<Communicator>(device, std::move(config), std::make_shared<StopFlag>(),
                                        nullptr);
}

std::shared_ptr<Communicator> new_child(Communicator& parent, Config config, bool share) {
  // NCCL shares nothing of a communicator that was revoked.
  const bool shares = share && parent.stopped() == Stop::no;
  return std::make_shared<Communicator>(parent.device(), std::move(config),
                                        shares ? parent.stop_flag() : std::make_shared<StopFlag>(),
                                        parent.stop_flag());
}

// Makes the child's handle now; its ranks meet in `job`, here or in the background.
ncclResult_t start(const std::shared_ptr<Communicator>& comm, ncclComm_t* handle,
                   std::function<ncclResult_t()> job) {
  *handle = add_handle(comm);
  return perform_in_group([comm, handle, job = std::move(job)] {
    const ncclResult_t result = comm->perform(job);
    if (result != ncclSuccess && result != ncclInProgress) {
      drop_handle(*handle);
      *handle = nullptr;
    }
    return result;
  });
}

ncclResult_t init(ncclComm_t* handle, int nranks, const ncclUniqueId& id, int rank,
                  const ncclConfig_t* config) {
  if (handle == nullptr) return fail_in_group(fail(ncclInvalidArgument, "comm is null"));
  *handle = nullptr;
  if (nranks < 1 || nranks > kRanksMax || rank < 0 || rank >= nranks) {
    return fail_in_group(
        fail(ncclInvalidArgument, "rank " + std::to_string(rank) + " of " + std::to_string(nranks) +
                                      ": ranks are 0 to N-1, at most 64 in the stand-in"));
  }
  Config read;
  std::string why;
  if (!Config::read(config, {}, read, why)) return fail_in_group(fail(ncclInvalidArgument, why));
  const auto comm = new_communicator(std::move(read));
  return start(comm, handle, [comm = comm.get(), id = read_id(id), rank, nranks] {
    return comm->join(id, rank, nranks);
  });
}

// The parent of a child that is to be made, and the child's settings.
ncclResult_t parent_of_child(ncclComm_t handle, const char* call, const ncclConfig_t* config,
                             std::shared_ptr<Communicator>& parent, Config& settings) {
  parent = find_handle(handle, call);
  if (!parent) return ncclInvalidArgument;
  std::string why;
  if (!Config::read(config, parent->config(), settings, why)) return fail(ncclInvalidArgument, why);
  return ncclSuccess;
}

ncclResult_t ask(const ncclComm_t handle, const char* call, int* out,
                 int (*of)(const Communicator&)) {
  const auto comm = find_handle(handle, call);
  if (!comm || out == nullptr) return ncclInvalidArgument;
  if (const ncclResult_t ready = comm->ready(); ready != ncclSuccess) return ready;
  *out = of(*comm);
  return ncclSuccess;
}

}  // namespace

ncclComm_t add_handle(std::shared_ptr<Communicator> comm) {
  auto* handle = new ncclComm{std::move(comm)};
  const std::lock_guard lock(handles_mutex);
  handles.insert(handle);
  return handle;
}

std::shared_ptr<Communicator> find_handle(ncclComm_t handle, const char* call) {
  const std::lock_guard lock(handles_mutex);
  if (handles.count(handle) != 0) return handle->comm;
  (void)fail(ncclInvalidArgument,
             std::string(call) + (handle == nullptr ? ": the communicator is null"
                                                    : ": the communicator has been destroyed or "
                                                      "aborted, or never was one"));
  return nullptr;
}

void drop_handle(ncclComm_t handle) {
  const std::lock_guard lock(handles_mutex);
  if (handles.erase(handle) != 0) delete handle;
}

}  // namespace convoy::standin::nccl

using namespace convoy::standin::nccl;

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  if (version == nullptr) return ncclInvalidArgument;
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError:
      return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError:
      return "internal error - please report this issue to the NCCL developers";
    case ncclInvalidArgument:
      return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage:
      return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInProgress:
      return "NCCL operation in progress";
    case ncclTimeout:
      return "NCCL operation timed out";
    default:
      return "unknown result code";
  }
}

const char* ncclGetLastError(ncclComm_t) {
  thread_local std::string mine;
  mine = last_error();
  return mine.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  if (id == nullptr) return fail(ncclInvalidArgument, "ncclGetUniqueId: the id is null");
  UniqueId made;
  std::string why;
  if (!SegmentOwner::make(made, why)) return fail(ncclSystemError, why);
  write_id(made, id);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int nranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  return init(comm, nranks, id, rank, config);
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int nranks, ncclUniqueId id, int rank) {
  return init(comm, nranks, id, rank, nullptr);
}

// The further ids only spread NCCL's bootstrap over more roots.
ncclResult_t ncclCommInitRankScalable(ncclComm_t* comm, int nranks, int rank, int n_ids,
                                      ncclUniqueId* ids, ncclConfig_t* config) {
  if (ids == nullptr || n_ids < 1 || n_ids > nranks) {
    return fail_in_group(
        fail(ncclInvalidArgument, "ncclCommInitRankScalable: " + std::to_string(n_ids) +
                                      " ids for " + std::to_string(nranks) + " ranks"));
  }
  return init(comm, nranks, ids[0], rank, config);
}

ncclResult_t ncclCommInitAll(ncclComm_t* comms, int ndev, const int* devices) {
  if (comms == nullptr || ndev < 1) return fail(ncclInvalidArgument, "ncclCommInitAll: no devices");
  ncclUniqueId id;
  ncclResult_t result = ncclGetUniqueId(&id);
  int before = 0;
  (void)cudaGetDevice(&before);
  group_start();
  for (int r = 0; r < ndev && result == ncclSuccess; ++r) {
    const int device = devices == nullptr ? r : devices[r];
    if (cudaSetDevice(device) != cudaSuccess) {
      result = fail_in_group(
          fail(ncclUnhandledCudaError, "ncclCommInitAll: no device " + std::to_string(device)));
    } else {
      result = init(&comms[r], ndev, id, r, nullptr);
    }
  }
  (void)cudaSetDevice(before);
  return group_end();
}

ncclResult_t ncclCommSplit(ncclComm_t handle, int color, int key, ncclComm_t* child,
                           ncclConfig_t* config) {
  std::shared_ptr<Communicator> parent;
  Config settings;
  const ncclResult_t read = parent_of_child(handle, "ncclCommSplit", config, parent, settings);
  if (read != ncclSuccess) return fail_in_group(read);
  if (const ncclResult_t ready = parent->ready(); ready != ncclSuccess) return fail_in_group(ready);
  // Other negative colors are against the documentation; NCCL 2.30.7 takes them.
  if (child == nullptr) return fail_in_group(fail(ncclInvalidArgument, "ncclCommSplit: no child"));
  *child = nullptr;
  if (color == NCCL_SPLIT_NOCOLOR) {
    return perform_in_group([parent] {
      return parent->perform(
          [p = parent.get()] { return split(*p, NCCL_SPLIT_NOCOLOR, 0, nullptr); });
    });
  }
  const auto comm =
      new_child(*parent, settings, parent->config().split_share || settings.split_share);
  return start(comm, child, [parent, color, key, comm = comm.get()] {
    return split(*parent, color, key, comm);
  });
}

ncclResult_t ncclCommShrink(ncclComm_t handle, int* excluded, int n_excluded, ncclComm_t* child,
                            ncclConfig_t* config, int flags) {
  std::shared_ptr<Communicator> parent;
  Config settings;
  const ncclResult_t read = parent_of_child(handle, "ncclCommShrink", config, parent, settings);
  if (read != ncclSuccess) return fail_in_group(read);
  const std::vector<int> ranks(excluded,
                               excluded + (excluded == nullptr ? 0 : std::max(n_excluded, 0)));
  const auto wrong = [&](int r) { return r < 0 || r >= parent->nranks() || r == parent->rank(); };
  if (child == nullptr || ranks.empty() || std::any_of(ranks.begin(), ranks.end(), wrong)) {
    return fail_in_group(
        fail(ncclInvalidArgument,
             "ncclCommShrink: the excluded ranks must be ranks of the communicator, "
             "at least one, and not the caller's"));
  }
  *child = nullptr;
  const bool aborts = (flags & NCCL_SHRINK_ABORT) != 0;
  if (aborts) parent->stop(Stop::revoked);
  if (!aborts) {
    if (const ncclResult_t ready = parent->ready(); ready != ncclSuccess)
      return fail_in_group(ready);
  }
  const auto comm = new_child(*parent, settings, settings.shrink_share && !aborts);
  return start(comm, child,
               [parent, ranks, comm = comm.get()] { return shrink(*parent, ranks, *comm); });
}

ncclResult_t ncclCommGetUniqueId(ncclComm_t handle, ncclUniqueId* id) {
  const auto comm = find_handle(handle, "ncclCommGetUniqueId");
  if (!comm || id == nullptr) return ncclInvalidArgument;
  if (comm->grow_id.pid != 0) {
    return fail(ncclInvalidUsage, "ncclCommGetUniqueId: the earlier id hasn't been used yet");
  }
  std::string why;
  if (!SegmentOwner::make(comm->grow_id, why)) return fail(ncclSystemError, why);
  write_id(comm->grow_id, id);
  return ncclSuccess;
}

ncclResult_t ncclCommGrow(ncclComm_t handle, int nranks, const ncclUniqueId* id, int rank,
                          ncclComm_t* child, ncclConfig_t* config) {
  if (handle == nullptr) {
    if (id == nullptr) {
      return fail_in_group(
          fail(ncclInvalidArgument, "ncclCommGrow: a new rank needs the unique id"));
    }
    return init(child, nranks, *id, rank, config);
  }
  std::shared_ptr<Communicator> parent;
  Config settings;
  const ncclResult_t read = parent_of_child(handle, "ncclCommGrow", config, parent, settings);
  if (read != ncclSuccess) return fail_in_group(read);
  if (const ncclResult_t ready = parent->ready(); ready != ncclSuccess) return fail_in_group(ready);
  if (child == nullptr || rank != -1 || nranks <= parent->nranks() || nranks > kRanksMax) {
    return fail_in_group(fail(
        ncclInvalidArgument,
        "ncclCommGrow: from " + std::to_string(parent->nranks()) + " to " + std::to_string(nranks) +
            " ranks; a rank that is in already passes -1, not " + std::to_string(rank)));
  }
  *child = nullptr;
  const auto comm = new_child(*parent, settings, false);
  return start(comm, child,
               [parent, nranks, comm = comm.get()] { return grow(*parent, nranks, *comm); });
}

ncclResult_t ncclCommFinalize(ncclComm_t handle) {
  const auto comm = find_handle(handle, "ncclCommFinalize");
  if (!comm) return fail_in_group(ncclInvalidArgument);
  if (const ncclResult_t ready = comm->ready(); ready != ncclSuccess) return fail_in_group(ready);
  if (comm->stopped() != Stop::no) {
    return fail_in_group(
        fail(ncclInvalidUsage, "ncclCommFinalize: communicator was revoked; destroy or abort it"));
  }
  return perform_in_group(
      [comm] { return comm->perform([c = comm.get()] { return c->finalize(); }); });
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) {
  if (handle == nullptr) return ncclSuccess;
  const auto comm = find_handle(handle, "ncclCommDestroy");
  if (!comm) return fail_in_group(ncclInvalidArgument);
  if (comm->stopped() == Stop::no) {
    if (const ncclResult_t ready = comm->ready(); ready != ncclSuccess) return fail_in_group(ready);
  }
  return perform_in_group([comm, handle] {
    const ncclResult_t result = comm->finalize();
    comm->end(false);
    drop_handle(handle);
    return result;
  });
}

ncclResult_t ncclCommAbort(ncclComm_t handle) {
  if (handle == nullptr) return ncclSuccess;
  const auto comm = find_handle(handle, "ncclCommAbort");
  if (!comm) return ncclInvalidArgument;
  drop_handle(handle);
  comm->tell(Stop::aborted);
  return perform_in_group([comm] {
    comm->end(true);
    // Memory is freed, which waits for all kernels of the device, other communicators' too.
    const OnDevice guard(comm->device());
    (void)cudaDeviceSynchronize();
    return ncclSuccess;
  });
}

ncclResult_t ncclCommRevoke(ncclComm_t handle, int flags) {
  const auto comm = find_handle(handle, "ncclCommRevoke");
  if (!comm) return ncclInvalidArgument;
  if (flags != NCCL_REVOKE_DEFAULT) {
    return fail(ncclInvalidArgument, "ncclCommRevoke: flags must be 0");
  }
  comm->stop(Stop::revoked);
  comm->set_async_error(ncclSuccess);
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
  const auto comm = find_handle(handle, "ncclCommGetAsyncError");
  if (!comm || error == nullptr) return ncclInvalidArgument;
  *error = comm->async_error();
  return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
  return ask(comm, "ncclCommCount", count, [](const Communicator& c) { return c.nranks(); });
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int* device) {
  return ask(comm, "ncclCommCuDevice", device, [](const Communicator& c) { return c.device(); });
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  return ask(comm, "ncclCommUserRank", rank, [](const Communicator& c) { return c.rank(); });
}

ncclResult_t ncclCommSuspend(ncclComm_t handle, int flags) {
  const auto comm = find_handle(handle, "ncclCommSuspend");
  if (!comm) return ncclInvalidArgument;
  if (flags != NCCL_SUSPEND_MEM || comm->suspended) {
    return fail(ncclInvalidUsage, comm->suspended
                                      ? "ncclCommSuspend: it is suspended already"
                                      : "ncclCommSuspend: flags must be NCCL_SUSPEND_MEM");
  }
  comm->suspended = true;
  return ncclSuccess;
}

ncclResult_t ncclCommResume(ncclComm_t handle) {
  const auto comm = find_handle(handle, "ncclCommResume");
  if (!comm) return ncclInvalidArgument;
  if (!comm->suspended) return fail(ncclInvalidUsage, "ncclCommResume: it isn't suspended");
  comm->suspended = false;
  return ncclSuccess;
}

// The stand-in's communicators hold no device memory.
ncclResult_t ncclCommMemStats(ncclComm_t handle, ncclCommMemStat_t stat, uint64_t* value) {
  const auto comm = find_handle(handle, "ncclCommMemStats");
  if (!comm || value == nullptr) return ncclInvalidArgument;
  *value = stat == ncclStatGpuMemSuspended && comm->suspended ? 1 : 0;
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  group_start();
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  return group_end();
}

ncclResult_t ncclGroupSimulateEnd(ncclSimInfo_t*) {
  (void)standin_unsupported("ncclGroupSimulateEnd");
  return fail(ncclInvalidUsage,
              "ncclGroupSimulateEnd: the stand-in can't say how long a GPU would take");
}

}  // extern "C"
