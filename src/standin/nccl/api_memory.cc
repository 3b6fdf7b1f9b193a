// Memory that NCCL knows: allocated by it, registered, windows and the one-sided operations on
// them.
#include "src/standin/nccl/group.h"
#include "src/standin/nccl/handles.h"
#include "src/standin/nccl/reduce.h"

#include <set>

namespace convoy::standin::nccl {
namespace {

std::mutex registered_mutex;
std::set<void*> registered;  // buffers, as their handles

ncclResult_t exchange_window(Communicator& comm, uint64_t address, uint64_t bytes,
                             ncclWindow_vidmem& window) {
  comm.slot(comm.rank()).words = {static_cast<int64_t>(address), static_cast<int64_t>(bytes), 0, 0};
  if (!comm.meet_on_host("ncclCommWindowRegister")) return ncclInternalError;
  for (int r = 0; r < comm.nranks(); ++r) {
    window.address.push_back(static_cast<uint64_t>(comm.slot(r).words[0]));
    window.bytes.push_back(static_cast<uint64_t>(comm.slot(r).words[1]));
  }
  return comm.meet_on_host("ncclCommWindowRegister") ? ncclSuccess : ncclInternalError;
}

bool is_on_device(const Communicator& comm, const void* buffer) {
  const auto at = reinterpret_cast<uintptr_t>(buffer);
  return at >= reinterpret_cast<uintptr_t>(standin_device_base(comm.device())) &&
         at < reinterpret_cast<uintptr_t>(standin_device_base(comm.device() + 1));
}

ncclResult_t check_signal(const Communicator& comm, int peer, int index, int context,
                          unsigned flags) {
  if (peer < 0 || peer >= comm.nranks()) {
    return fail(ncclInvalidArgument, comm.name() + ": there is no rank " + std::to_string(peer));
  }
  if (index != 0 || context != 0 || flags != 0) {
    return fail(ncclInvalidArgument, comm.name() + ": sigIdx, ctx and flags must be 0");
  }
  return ncclSuccess;
}

ncclResult_t usable(ncclComm_t handle, const char* call, std::shared_ptr<Communicator>& comm) {
  comm = find_handle(handle, call);
  if (!comm) return ncclInvalidArgument;
  if (const ncclResult_t ready = comm->ready(); ready != ncclSuccess) return ready;
  if (comm->stopped() == Stop::no && !comm->suspended) return ncclSuccess;
  return fail(ncclInvalidUsage, std::string(call) + ": the communicator is revoked or suspended");
}

}  // namespace
}  // namespace convoy::standin::nccl

using namespace convoy::standin::nccl;

extern "C" {

ncclResult_t ncclMemAlloc(void** data, size_t bytes) {
  if (data == nullptr) return fail(ncclInvalidArgument, "ncclMemAlloc: the pointer is null");
  return cudaMalloc(data, bytes) == cudaSuccess
             ? ncclSuccess
             : fail(ncclUnhandledCudaError, "ncclMemAlloc: out of memory");
}

ncclResult_t ncclMemFree(void* data) {
  return cudaFree(data) == cudaSuccess
             ? ncclSuccess
             : fail(ncclUnhandledCudaError, "ncclMemFree: not from ncclMemAlloc");
}

ncclResult_t ncclCommRegister(const ncclComm_t handle, void* buffer, size_t bytes, void** out) {
  const auto comm = find_handle(handle, "ncclCommRegister");
  if (!comm || out == nullptr) return ncclInvalidArgument;
  if (buffer == nullptr || bytes == 0 || !is_on_device(*comm, buffer)) {
    return fail(ncclInvalidArgument, "ncclCommRegister: not memory of the communicator's device");
  }
  const std::lock_guard lock(registered_mutex);
  *out = new char;  // only its identity counts: nothing needs to be prepared here
  registered.insert(*out);
  return ncclSuccess;
}

ncclResult_t ncclCommDeregister(const ncclComm_t handle, void* registration) {
  if (!find_handle(handle, "ncclCommDeregister")) return ncclInvalidArgument;
  const std::lock_guard lock(registered_mutex);
  if (registered.erase(registration) == 0) {
    return fail(ncclInvalidArgument, "ncclCommDeregister: the handle isn't from ncclCommRegister");
  }
  delete static_cast<char*>(registration);
  return ncclSuccess;
}

ncclResult_t ncclCommWindowRegister(ncclComm_t handle, void* buffer, size_t bytes,
                                    ncclWindow_t* window, int) {
  std::shared_ptr<Communicator> comm;
  const ncclResult_t ok = usable(handle, "ncclCommWindowRegister", comm);
  if (ok != ncclSuccess) return fail_in_group(ok);
  if (window == nullptr || !is_on_device(*comm, buffer)) {
    return fail_in_group(fail(ncclInvalidArgument,
                              "ncclCommWindowRegister: not memory of the communicator's device"));
  }
  *window = nullptr;
  return perform_in_group([comm, buffer, bytes, window] {
    auto made = std::make_unique<ncclWindow_vidmem>();
    made->comm = comm;
    const auto address = reinterpret_cast<uint64_t>(buffer);
    const ncclResult_t result = exchange_window(*comm, address, bytes, *made);
    if (result == ncclSuccess) *window = made.release();
    return result;
  });
}

ncclResult_t ncclCommWindowDeregister(ncclComm_t handle, ncclWindow_t window) {
  if (!find_handle(handle, "ncclCommWindowDeregister")) return ncclInvalidArgument;
  delete window;
  return ncclSuccess;
}

ncclResult_t ncclWinGetUserPtr(ncclComm_t handle, ncclWindow_t window, void** out) {
  const auto comm = find_handle(handle, "ncclWinGetUserPtr");
  if (!comm || window == nullptr || out == nullptr) return ncclInvalidArgument;
  *out = reinterpret_cast<void*>(window->address[static_cast<size_t>(comm->rank())]);
  return ncclSuccess;
}

// A device address of this process, as NVLink has it: for kernels and copies.
ncclResult_t ncclGetPeerDevicePointer(ncclWindow_t window, size_t offset, int peer, void** out) {
  if (window == nullptr || out == nullptr || peer < 0 || peer >= window->comm->nranks()) {
    return fail(ncclInvalidArgument,
                "ncclGetPeerDevicePointer: no window, or no rank " + std::to_string(peer));
  }
  *out = window->comm->device_address(peer, window->address[static_cast<size_t>(peer)] + offset);
  return ncclSuccess;
}

ncclResult_t ncclPutSignal(const void* local, size_t count, ncclDataType_t type, int peer,
                           ncclWindow_t window, size_t offset, int index, int context,
                           unsigned flags, ncclComm_t handle, cudaStream_t stream) {
  std::shared_ptr<Communicator> comm;
  ncclResult_t ok = usable(handle, "ncclPutSignal", comm);
  if (ok == ncclSuccess) ok = check_signal(*comm, peer, index, context, flags);
  if (ok != ncclSuccess) return fail_in_group(ok);
  const bool typed = type >= 0 && type < ncclNumTypes;
  if (!typed || window == nullptr || !is_on_device(*comm, local) ||
      offset + count * bytes_of_type(static_cast<uint32_t>(type)) >
          window->bytes[static_cast<size_t>(peer)]) {
    return fail_in_group(fail(ncclInvalidArgument, "ncclPutSignal: beyond the window of rank " +
                                                       std::to_string(peer) +
                                                       ", or wrong buffer or type"));
  }
  Operation operation;
  operation.record.function = Function::put;
  operation.record.dtype = static_cast<uint32_t>(type);
  operation.record.root = peer;
  operation.record.count = count;
  operation.record.send = reinterpret_cast<uint64_t>(local);
  operation.target = window->address[static_cast<size_t>(peer)] + offset;
  return queue_operation(comm, std::move(operation), stream);
}

ncclResult_t ncclSignal(int peer, int index, int context, unsigned flags, ncclComm_t handle,
                        cudaStream_t stream) {
  std::shared_ptr<Communicator> comm;
  ncclResult_t ok = usable(handle, "ncclSignal", comm);
  if (ok == ncclSuccess) ok = check_signal(*comm, peer, index, context, flags);
  if (ok != ncclSuccess) return fail_in_group(ok);
  Operation operation;
  operation.record.function = Function::signal;
  operation.record.root = peer;
  return queue_operation(comm, std::move(operation), stream);
}

ncclResult_t ncclWaitSignal(int count, ncclWaitSignalDesc_t* wanted, ncclComm_t handle,
                            cudaStream_t stream) {
  std::shared_ptr<Communicator> comm;
  ncclResult_t ok = usable(handle, "ncclWaitSignal", comm);
  if (ok == ncclSuccess && (count < 0 || wanted == nullptr)) ok = ncclInvalidArgument;
  Operation operation;
  operation.record.function = Function::wait_signal;
  for (int i = 0; ok == ncclSuccess && i < count; ++i) {
    ok = check_signal(*comm, wanted[i].peer, wanted[i].sigIdx, wanted[i].ctx, 0);
    operation.signals.push_back(wanted[i]);
  }
  if (ok != ncclSuccess) return fail_in_group(ok);
  operation.record.root = comm->rank();
  return queue_operation(comm, std::move(operation), stream);
}

// --- What only kernels that call NCCL themselves can use, and the stand-in runs no kernels.

ncclResult_t ncclDevCommCreate(ncclComm_t, const void*, void*) {
  (void)standin_unsupported("ncclDevCommCreate");
  return fail(ncclInvalidUsage, "ncclDevCommCreate: the stand-in runs no kernels that call NCCL");
}

ncclResult_t ncclDevCommDestroy(ncclComm_t, const void*) {
  (void)standin_unsupported("ncclDevCommDestroy");
  return ncclInvalidUsage;
}

ncclResult_t ncclGetLsaMultimemDevicePointer(ncclWindow_t, size_t, void** out) {
  if (out != nullptr) *out = nullptr;  // NCCL's answer where the hardware has no multicast
  return ncclSuccess;
}

}  // extern "C"
