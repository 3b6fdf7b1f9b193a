// The order in which a worker comes up, and in which it goes down.
#include "src/runtime/start.h"
#include "src/runtime/store_server.h"
#include <convoy/base/log.h>
#include <convoy/comm/allocator.h>
#include <convoy/comm/nccl.h>
#include <convoy/runtime/program.h>
#include <convoy/runtime/runtime.h>
#include <convoy/trace/recorder.h>
#include <convoy/trace/torch/attach.h>

#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <cstdlib>
#include <thread>
#include <unistd.h>

// Of libtorch's stable C interface; its header would bring in much else.
extern "C" uint64_t aoti_torch_abi_version();

namespace convoy::runtime {
namespace {

Result<Mesh> mesh_of(const RuntimeOptions& options, const launch::Environment& environment) {
  std::string text = options.mesh.empty() ? environment.mesh : options.mesh;
  if (text.empty()) text = "dp=*";
  return Mesh::parse(text, environment.world_size);
}

// NCCL's own switch, since it refuses two ranks of a communicator on one GPU without it.
bool ranks_share_gpus() {
  const char* text = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
  return text != nullptr && std::string(text) == "1";
}

// Of one group of the mesh.
void trace_group(const std::string& name, const std::vector<int>& ranks,
                 const c10::intrusive_ptr<c10d::ProcessGroup>& group) {
  const Status attached = trace::attach(group, {name, {ranks.begin(), ranks.end()}});
  if (!attached.ok()) {
    CONVOY_LOG(Warn) << attached.message();
  }
}

}  // namespace

// A trace that can't be had costs nothing but itself.
void start_trace(const launch::Environment& environment, int generation) {
  const trace::Level level = *trace::level_of(environment.trace);
  if (level == trace::Level::kOff) return;
  const auto segment = trace::open_recorder({.rank = environment.rank,
                                             .world_size = environment.world_size,
                                             .generation = static_cast<uint64_t>(generation)},
                                            level);
  if (!segment.ok()) {
    CONVOY_LOG(Warn) << "nothing is traced: " << segment.status().message();
  }
}

std::string prefix_of(int generation) {
  return "convoy/" + std::to_string(generation) + "/";
}

int threads_per_rank(const launch::Environment& environment) {
  if (const char* set = std::getenv("OMP_NUM_THREADS"); set != nullptr && std::atoi(set) > 0) {
    return std::atoi(set);
  }
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  return std::max(1, cores / std::max(1, environment.local_world_size));
}

Runtime::Runtime(launch::Environment environment, RuntimeOptions options)
    : options_(std::move(options)),
      environment_(std::move(environment)),
      generation_(environment_.generation),
      spans_machines_(environment_.local_world_size < environment_.world_size) {}

Result<std::unique_ptr<Runtime>> Runtime::start(const RuntimeOptions& options) {
  CONVOY_RETURN_IF_ERROR(check_torch_version(TORCH_ABI_VERSION, aoti_torch_abi_version()));
  CONVOY_ASSIGN_OR_RETURN(launch::Environment environment, launch::read_environment());
  set_log_identity("rank " + std::to_string(environment.rank) + "/" +
                   std::to_string(environment.world_size) + " gen " +
                   std::to_string(environment.generation));
  if (environment.rank == 0) {
    for (const std::string& warning : launch::unknown_variables(::environ)) {
      CONVOY_LOG(Warn) << warning;
    }
  }
  CONVOY_LOG(Debug) << launch::describe(environment);
  at::set_num_threads(threads_per_rank(environment));
  std::unique_ptr<Runtime> runtime(new Runtime(std::move(environment), options));
  CONVOY_RETURN_IF_ERROR(runtime->join_crew());
  if (runtime->size() > 1 && options.shared_tensors && options.device == "cpu") {
    comm::enable_shared_tensors();
    runtime->shared_tensors_ = true;
  }
  CONVOY_ASSIGN_OR_RETURN(runtime->full_mesh_, mesh_of(options, runtime->environment_));
  if (runtime->environment_.standby) {
    CONVOY_RETURN_IF_ERROR(runtime->await_place());
  } else {
    start_trace(runtime->environment_, runtime->generation_);
    runtime->mesh_ = runtime->full_mesh_;
    CONVOY_RETURN_IF_ERROR(runtime->choose_device(options.device));
    const Status connected = runtime->connect();
    if (!connected.ok()) CONVOY_RETURN_IF_ERROR(runtime->rejoin(connected, 0));
  }
  return runtime;
}

Status Runtime::choose_device(const std::string& name) {
  if (name == "cpu") return ok_status();
  if (name != "cuda") {
    return {Code::kInvalidArgument, "there is no device '" + name + "'; take cpu or cuda"};
  }
  int gpus = 0;
  try {
    gpus = comm::load_cuda();
  } catch (const c10::Error& error) {
    return status_of_text(error.what_without_backtrace());
  }
  const std::string who = "rank " + std::to_string(rank()) + " (local rank " +
                          std::to_string(environment_.local_rank) + ")";
  if (gpus == 0) {
    return {Code::kFailedPrecondition,
            who + " finds no GPU, or no NVIDIA driver. Use the CPU, or rehearse without GPUs: " +
                "`convoy run --rehearse`"};
  }
  if (environment_.local_rank >= gpus && !ranks_share_gpus()) {
    return {Code::kFailedPrecondition,
            who + " needs a GPU of its own, but this machine has " + std::to_string(gpus) +
                ": start at most as many ranks on it, or let ranks share GPUs, for tests: " +
                "NCCL_MULTI_RANK_GPU_ENABLE=1 (NCCL 2.30 or newer)"};
  }
  device_ = at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(environment_.local_rank % gpus));
  c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(device_);
  return ok_status();
}

Status Runtime::connect() {
  const auto timeout = std::chrono::duration_cast<std::chrono::milliseconds>(environment_.timeout);
  const std::string generation = prefix_of(environment_.generation);
  if (size() > 1 && meets_in_folder(environment_)) {
    store_ = c10::make_intrusive<c10d::PrefixStore>(
        generation, folder_store(environment_, environment_.generation));
  } else if (size() > 1) {
    c10d::TCPStoreOptions options;
    options.port = environment_.master_port;
    options.isServer = rank() == 0 && !environment_.store_is_served;
    options.waitWorkers = !environment_.store_is_served;
    options.numWorkers = static_cast<size_t>(size());
    options.timeout = timeout;
    try {
      store_ = c10::make_intrusive<c10d::PrefixStore>(
          generation, options.isServer
                          ? serve_store(environment_.master_addr, options)
                          : c10::make_intrusive<c10d::TCPStore>(environment_.master_addr, options));
    } catch (const c10::Error& error) {
      const std::string where =
          environment_.master_addr + ":" + std::to_string(environment_.master_port);
      const std::string text = error.what_without_backtrace();
      if (text.find("EADDRINUSE") != std::string::npos) {
        return {Code::kAlreadyExists, "the job's store can't listen on " + where +
                                          ": the port is in use. Set MASTER_PORT to another one."};
      }
      return {Code::kDeadlineExceeded, "rank " + std::to_string(rank()) +
                                           " can't reach the job's store at " + where + ": " +
                                           text};
    }
  }
  make_groups(generation);
  return ok_status();
}

void Runtime::make_groups(const std::string& prefix) {
  comm::MeshGroupsOptions options;
  options.timeout = std::chrono::duration_cast<std::chrono::milliseconds>(environment_.timeout);
  options.prefix = prefix;
  options.device = device_.type();
  options.device_index = device_.is_cpu() ? 0 : device_.index();
  if (environment_.trace != "off") options.on_group = trace_group;
  groups_ = std::make_unique<comm::MeshGroups>(mesh_, rank(), store_, options);
  if (member_ != nullptr) {
    member_->on_summons([groups = groups_.get()] { groups->abort(); });
    if (member_->summoned()) groups_->abort();
  }
}

double Runtime::from_rank_zero(const std::string& key, const std::function<double()>& make) {
  if (rank() != 0) {
    while (member_ != nullptr && !store_->check({key})) {
      TORCH_CHECK_WITH(DistBackendError, !member_->summoned(),
                       "aborted: another rank failed while rank 0 worked out ", key);
      Clock::system().sleep_for(std::chrono::milliseconds(20));
    }
    const std::vector<uint8_t> bytes = store_->get(key);
    return std::stod(std::string(bytes.begin(), bytes.end()));
  }
  const double value = make();
  if (size() > 1) {
    const std::string text = std::to_string(value);
    store_->set(key, std::vector<uint8_t>(text.begin(), text.end()));
  }
  return value;
}

Runtime::~Runtime() {
  member_.reset();
  groups_.reset();
  store_.reset();
  if (shared_tensors_) comm::disable_shared_tensors();
}

}  // namespace convoy::runtime
