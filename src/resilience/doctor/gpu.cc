// GPUs, through the libraries of their driver if this node has them. None is linked: NVML tells the
// state of each device, CUDA whether programs can use them, NCCL its version. The interfaces are
// those of NVIDIA's documentation; this file has never met a real GPU.
#include "src/resilience/doctor/checks.h"

#include <dlfcn.h>

namespace convoy::resilience {
namespace {

constexpr uint64_t kUsedMax = 1ULL << 30;  // bytes of a device that nobody should use yet
constexpr unsigned kHottest = 85;          // °C
constexpr unsigned kDevicesMax = 64;

// Stays open: it ends with the process of this check.
class Library {
 public:
  explicit Library(const char* name) : handle_(::dlopen(name, RTLD_NOW | RTLD_LOCAL)) {}
  explicit operator bool() const { return handle_ != nullptr; }
  // Calls `function` if the library has it; -1 if not.
  template <class... Arguments>
  int call(const char* function, Arguments... arguments) const {
    using Function = int (*)(Arguments...);
    const auto at = reinterpret_cast<Function>(::dlsym(handle_, function));
    return at == nullptr ? -1 : at(arguments...);
  }

 private:
  void* handle_;
};

using Device = void*;

// nvmlMemory_t.
struct Memory {
  unsigned long long total = 0, free = 0, used = 0;
};

CheckResult of_device(unsigned index, CheckResult result) {
  result.subject = "GPU " + std::to_string(index);
  return result;
}

CheckResult check_ecc(const Library& nvml, Device device) {
  constexpr int kUncorrected = 1, kSinceBoot = 0;
  unsigned long long errors = 0;
  if (nvml.call("nvmlDeviceGetTotalEccErrors", device, kUncorrected, kSinceBoot, &errors) != 0) {
    return skipped("gpu.memory_errors", "the driver does not tell");
  }
  unsigned corrected = 0, uncorrected = 0, pending = 0, failed = 0;
  const bool tells_rows = nvml.call("nvmlDeviceGetRemappedRows", device, &corrected, &uncorrected,
                                    &pending, &failed) == 0;
  std::string text = std::to_string(errors) + " uncorrected since the start";
  if (tells_rows && pending != 0) text += ", a row waits to be remapped";
  if (tells_rows && failed != 0) text += ", a row could not be remapped";
  return judged(found("gpu.memory_errors", text), errors == 0 && pending == 0 && failed == 0,
                Verdict::kFail, "no uncorrected errors",
                failed != 0 ? "Have the GPU replaced."
                            : "Reset the GPU (`nvidia-smi -r`), which "
                              "remaps bad rows; if it happens again, "
                              "have it replaced.");
}

CheckResult check_throttling(const Library& nvml, Device device) {
  // Slowed down by the hardware, by the driver for heat, by the hardware for heat, by a power
  // brake.
  constexpr unsigned long long kSlow = 0x8 | 0x20 | 0x40 | 0x80;
  unsigned long long reasons = 0;
  unsigned celsius = 0;
  constexpr int kOnDie = 0;
  if (nvml.call("nvmlDeviceGetCurrentClocksThrottleReasons", device, &reasons) != 0) {
    return skipped("gpu.throttling", "the driver does not tell");
  }
  const bool has_heat = nvml.call("nvmlDeviceGetTemperature", device, kOnDie, &celsius) == 0;
  const bool is_slow = (reasons & kSlow) != 0;
  std::string text = is_slow ? "slowed down" : "no";
  if (has_heat) text += ", " + std::to_string(celsius) + " °C";
  return judged(found("gpu.throttling", text), !is_slow && celsius <= kHottest, Verdict::kWarn,
                "none, at most " + std::to_string(kHottest) + " °C",
                "Look at cooling and power supply (`nvidia-smi -q -d PERFORMANCE,TEMPERATURE`).");
}

CheckResult check_memory(const Library& nvml, Device device) {
  Memory memory;
  if (nvml.call("nvmlDeviceGetMemoryInfo", device, &memory) != 0) {
    return skipped("gpu.memory_used", "the driver does not tell");
  }
  return judged(
      measured("gpu.memory_used", static_cast<double>(memory.used), "B", Better::kNeither),
      memory.used <= kUsedMax, Verdict::kWarn, "at most " + format_bytes(kUsedMax),
      "Find out who uses it (`nvidia-smi`): mostly processes that an earlier job left.");
}

Results check_devices(const Library& nvml) {
  unsigned count = 0;
  const int error = nvml.call("nvmlInit_v2");
  if (error != 0 || nvml.call("nvmlDeviceGetCount_v2", &count) != 0) {
    return {judged(found("gpu.driver", "NVML fails with " + std::to_string(error)), false,
                   Verdict::kFail, "a driver that answers",
                   "Look in `dmesg` for its errors; after an update of the driver, restart.")};
  }
  Results results{found("gpu.driver", std::to_string(count) + " GPUs")};
  for (unsigned i = 0; i < std::min(count, kDevicesMax); ++i) {
    Device device = nullptr;
    const int lost = nvml.call("nvmlDeviceGetHandleByIndex_v2", i, &device);
    if (lost != 0) {
      results.push_back(of_device(
          i, judged(found("gpu.device", "NVML fails with " + std::to_string(lost)), false,
                    Verdict::kFail, "a device that answers",
                    "Look in `dmesg` for its errors (Xid 79: it fell off the bus); restart.")));
      continue;
    }
    results.push_back(of_device(i, check_ecc(nvml, device)));
    results.push_back(of_device(i, check_throttling(nvml, device)));
    results.push_back(of_device(i, check_memory(nvml, device)));
  }
  return results;
}

CheckResult check_cuda(const Library& cuda) {
  constexpr int kNoDevice = 100;  // CUDA_ERROR_NO_DEVICE
  int count = 0;
  int error = cuda.call("cuInit", 0U);
  if (error == 0) error = cuda.call("cuDeviceGetCount", &count);
  if (error == kNoDevice) return skipped("gpu.cuda", "no device");
  return judged(found("gpu.cuda", error == 0 ? std::to_string(count) + " devices"
                                             : "fails with CUDA error " + std::to_string(error)),
                error == 0, Verdict::kFail, "cuInit succeeds",
                "Check that driver and fabric manager run (`nvidia-smi`, `systemctl status "
                "nvidia-fabricmanager`).");
}

CheckResult check_nccl(const Library& nccl) {
  int version = 0;
  const int error = nccl.call("ncclGetVersion", &version);
  std::string text = "fails with " + std::to_string(error);
  if (error == 0) {
    text = std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
           std::to_string(version % 100);
  }
  return judged(found("gpu.nccl", text), error == 0, Verdict::kWarn, "a library that answers",
                "Install NCCL again, in the version that torch was built with.");
}

}  // namespace

Results check_gpu() {
  const Library nvml("libnvidia-ml.so.1"), cuda("libcuda.so.1"), nccl("libnccl.so.2");
  Results results;
  if (nvml) {
    results = check_devices(nvml);
  } else {
    results.push_back(skipped("gpu.driver", "this node has no libnvidia-ml.so.1"));
  }
  results.push_back(cuda ? check_cuda(cuda) : skipped("gpu.cuda", "this node has no libcuda.so.1"));
  results.push_back(nccl ? check_nccl(nccl)
                         : skipped("gpu.nccl", "no libnccl.so.2 where the loader looks"));
  return results;
}

}  // namespace convoy::resilience
