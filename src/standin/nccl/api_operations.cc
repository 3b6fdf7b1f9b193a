// Collectives and messages: what one rank alone can check is refused here, before anybody waits for
// it.
#include "src/standin/nccl/group.h"
#include "src/standin/nccl/handles.h"
#include "src/standin/nccl/reduce.h"

#include <cstring>

namespace convoy::standin::nccl {
namespace {

struct Call {
  const char* name;
  Function function;
  const void* send;
  void* recv;
  size_t count;
  ncclDataType_t dtype;
  int op;    // ncclRedOp_t, or 0
  int root;  // or peer, or -1
  ncclComm_t comm;
  cudaStream_t stream;
};

ncclResult_t refuse(const Communicator& comm, const Call& call, const std::string& text,
                    ncclResult_t result = ncclInvalidArgument) {
  return fail(result, std::string(call.name) + " on " + comm.name() + ": " + text);
}

// Buffers must be memory of the communicator's device.
ncclResult_t check_buffer(const Communicator& comm, const Call& call, const char* which,
                          const void* buffer) {
  const auto at = reinterpret_cast<uintptr_t>(buffer);
  const auto begin = reinterpret_cast<uintptr_t>(standin_device_base(comm.device()));
  const auto end = reinterpret_cast<uintptr_t>(standin_device_base(comm.device() + 1));
  if (at >= begin && at < end) return ncclSuccess;
  const int device = standin_device_of(buffer);
  const std::string text =
      std::string(which) +
      (device < 0 ? " is memory of the host" : " is memory of device " + std::to_string(device)) +
      ", but the communicator is on device " + std::to_string(comm.device());
  standin_finding("wrong device",
                  (std::string(call.name) + " on " + comm.name() + ": " + text).c_str());
  return refuse(comm, call, text);
}

bool is_rooted(Function function) {
  return function != Function::all_gather && function != Function::all_reduce &&
         function != Function::all_to_all && function != Function::reduce_scatter;
}

bool uses_send(const Communicator& comm, const Call& call) {
  if (call.function == Function::recv) return false;
  const bool from_root = call.function == Function::broadcast || call.function == Function::scatter;
  return !from_root || call.root == comm.rank();
}

bool uses_recv(const Communicator& comm, const Call& call) {
  if (call.function == Function::send) return false;
  const bool to_root = call.function == Function::reduce || call.function == Function::gather;
  return !to_root || call.root == comm.rank();
}

ncclResult_t check(Communicator& comm, const Call& call) {
  if (const ncclResult_t ready = comm.ready(); ready != ncclSuccess) return ready;
  if (comm.stopped() != Stop::no)
    return refuse(comm, call, "it has been revoked", ncclInvalidUsage);
  if (comm.suspended) return refuse(comm, call, "it is suspended", ncclInvalidUsage);
  if (call.dtype < 0 || call.dtype >= ncclNumTypes) {
    return refuse(comm, call, "unknown type " + std::to_string(call.dtype));
  }
  if (call.root < (is_rooted(call.function) ? 0 : -1) || call.root >= comm.nranks()) {
    return refuse(comm, call, "there is no rank " + std::to_string(call.root));
  }
  if (call.count == 0) return ncclSuccess;
  ncclResult_t result = ncclSuccess;
  if (uses_send(comm, call)) result = check_buffer(comm, call, "the send buffer", call.send);
  if (result == ncclSuccess && uses_recv(comm, call)) {
    result = check_buffer(comm, call, "the receive buffer", call.recv);
  }
  return result;
}

ncclResult_t describe(Communicator& comm, const Call& call, Operation& operation) {
  OpRecord& record = operation.record;
  record.function = call.function;
  record.dtype = static_cast<uint32_t>(call.dtype);
  record.redop = static_cast<uint32_t>(call.op);
  record.root = call.root;
  record.count = call.count;
  if (uses_send(comm, call)) record.send = reinterpret_cast<uint64_t>(call.send);
  if (uses_recv(comm, call)) record.recv = reinterpret_cast<uint64_t>(call.recv);
  if (call.op < ncclNumOps && call.op >= 0) return ncclSuccess;
  PreMulSum created;
  if (!comm.find_operator(static_cast<ncclRedOp_t>(call.op), created)) {
    return refuse(comm, call, "unknown operator " + std::to_string(call.op));
  }
  if (created.dtype != record.dtype)
    return refuse(comm, call, "the operator was created for another type");
  record.redop = ncclNumOps;
  record.scalar = created.bits;
  operation.device_scalar = created.device_scalar;
  return ncclSuccess;
}

ncclResult_t enqueue(const Call& call) {
  const auto comm = find_handle(call.comm, call.name);
  if (!comm) return fail_in_group(ncclInvalidArgument);
  if (const ncclResult_t checked = check(*comm, call); checked != ncclSuccess) {
    return fail_in_group(checked);
  }
  if (call.count == 0) return ncclSuccess;  // as NCCL: nobody is met
  Operation operation;
  if (const ncclResult_t described = describe(*comm, call, operation); described != ncclSuccess) {
    return fail_in_group(described);
  }
  return queue_operation(comm, std::move(operation), call.stream);
}

}  // namespace
}  // namespace convoy::standin::nccl

using namespace convoy::standin::nccl;

extern "C" {

ncclResult_t ncclAllGather(const void* send, void* recv, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return enqueue(
      {"ncclAllGather", Function::all_gather, send, recv, count, type, 0, -1, comm, stream});
}

ncclResult_t ncclAllReduce(const void* send, void* recv, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return enqueue(
      {"ncclAllReduce", Function::all_reduce, send, recv, count, type, op, -1, comm, stream});
}

ncclResult_t ncclAlltoAll(const void* send, void* recv, size_t count, ncclDataType_t type,
                          ncclComm_t comm, cudaStream_t stream) {
  return enqueue(
      {"ncclAlltoAll", Function::all_to_all, send, recv, count, type, 0, -1, comm, stream});
}

ncclResult_t ncclBroadcast(const void* send, void* recv, size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream) {
  return enqueue(
      {"ncclBroadcast", Function::broadcast, send, recv, count, type, 0, root, comm, stream});
}

ncclResult_t ncclBcast(void* buffer, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                       cudaStream_t stream) {
  return ncclBroadcast(buffer, buffer, count, type, root, comm, stream);
}

ncclResult_t ncclGather(const void* send, void* recv, size_t count, ncclDataType_t type, int root,
                        ncclComm_t comm, cudaStream_t stream) {
  return enqueue({"ncclGather", Function::gather, send, recv, count, type, 0, root, comm, stream});
}

ncclResult_t ncclReduce(const void* send, void* recv, size_t count, ncclDataType_t type,
                        ncclRedOp_t op, int root, ncclComm_t comm, cudaStream_t stream) {
  return enqueue({"ncclReduce", Function::reduce, send, recv, count, type, op, root, comm, stream});
}

ncclResult_t ncclReduceScatter(const void* send, void* recv, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  return enqueue({"ncclReduceScatter", Function::reduce_scatter, send, recv, count, type, op, -1,
                  comm, stream});
}

ncclResult_t ncclScatter(const void* send, void* recv, size_t count, ncclDataType_t type, int root,
                         ncclComm_t comm, cudaStream_t stream) {
  return enqueue(
      {"ncclScatter", Function::scatter, send, recv, count, type, 0, root, comm, stream});
}

ncclResult_t ncclSend(const void* send, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t comm, cudaStream_t stream) {
  return enqueue({"ncclSend", Function::send, send, nullptr, count, type, 0, peer, comm, stream});
}

ncclResult_t ncclRecv(void* recv, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return enqueue({"ncclRecv", Function::recv, nullptr, recv, count, type, 0, peer, comm, stream});
}

ncclResult_t ncclRedOpCreatePreMulSum(ncclRedOp_t* op, void* scalar, ncclDataType_t type,
                                      ncclScalarResidence_t residence, ncclComm_t handle) {
  const auto comm = find_handle(handle, "ncclRedOpCreatePreMulSum");
  if (!comm) return ncclInvalidArgument;
  if (op == nullptr || scalar == nullptr || type < 0 || type >= ncclNumTypes) {
    return fail(ncclInvalidArgument, "ncclRedOpCreatePreMulSum: no operator, scalar or type");
  }
  PreMulSum created;
  created.dtype = static_cast<uint32_t>(type);
  if (residence == ncclScalarDevice) {
    created.device_scalar = scalar;
  } else {
    std::memcpy(&created.bits, scalar, bytes_of_type(created.dtype));
  }
  *op = comm->add_operator(created);
  return ncclSuccess;
}

ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t handle) {
  const auto comm = find_handle(handle, "ncclRedOpDestroy");
  if (!comm) return ncclInvalidArgument;
  if (comm->drop_operator(op)) return ncclSuccess;
  return fail(ncclInvalidArgument,
              "ncclRedOpDestroy: the operator isn't one that this communicator created");
}

}  // extern "C"
