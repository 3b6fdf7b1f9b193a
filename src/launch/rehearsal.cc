// Setting up a rehearsal: where the stand-in's libraries are, and what makes a rank use them.
#include "src/launch/rehearsal.h"

#include <convoy/base/units.h>

#include <algorithm>
#include <array>
#include <dlfcn.h>
#include <filesystem>

namespace convoy::launch {
namespace {

namespace fs = std::filesystem;

constexpr int kGpusMax = 16;  // of one machine; the stand-in's own limit
constexpr uint64_t kMemoryMin = uint64_t{1} << 20;
constexpr uint64_t kMemoryMax = uint64_t{160} << 30;  // addresses of a simulated device

// NCCL comes first: it uses the runtime. What torch knows by these names is not loaded again.
constexpr std::array<std::string_view, 4> kLibraries{"libnccl.so.2", "libcudart.so.13",
                                                     "libcuda.so.1", "libcupti.so.13"};

Status bad(std::string text) {
  return {Code::kInvalidArgument, std::move(text)};
}

// Of the library that this code is in.
fs::path own_folder() {
  Dl_info self;
  if (::dladdr(reinterpret_cast<void*>(&standin_libraries), &self) == 0) return {};
  std::error_code error;
  return fs::canonical(self.dli_fname, error).parent_path();
}

}  // namespace

Status complete_rehearsal(int ranks, Rehearsal* rehearsal) {
  if (rehearsal->gpus == 0) {
    if (ranks > kGpusMax) {
      return bad("A rehearsal has at most " + std::to_string(kGpusMax) + " GPUs, and -n is " +
                 std::to_string(ranks) +
                 ". Start fewer ranks, or say with --gpus how many GPUs they share.");
    }
    rehearsal->gpus = ranks;
  }
  if (rehearsal->gpus < 1 || rehearsal->gpus > kGpusMax) {
    return bad("--gpus is " + std::to_string(rehearsal->gpus) + ", but must be 1 to " +
               std::to_string(kGpusMax) + ".");
  }
  if (rehearsal->gpu_memory < kMemoryMin || rehearsal->gpu_memory > kMemoryMax) {
    return bad("--gpu-memory is " + format_bytes(rehearsal->gpu_memory) + ", but must be " +
               format_bytes(kMemoryMin) + " to " + format_bytes(kMemoryMax) + ".");
  }
  return ok_status();
}

Result<std::vector<std::string>> standin_libraries() {
  const fs::path own = own_folder();
  for (const char* folder : {"standin", "convoy/standin"}) {
    std::vector<std::string> found;
    for (const std::string_view name : kLibraries) {
      const fs::path library = own / folder / name;
      if (fs::exists(library)) found.push_back(library.string());
    }
    if (found.empty()) continue;
    // The dynamic loader splits its list at both.
    if (found.front().find_first_of(" :") != std::string::npos) {
      return bad("Convoy is installed in " + own.string() +
                 ": the dynamic loader can't preload from a folder with a space or colon in its "
                 "name, so --rehearse can't work from there. Install it elsewhere.");
    }
    return found;
  }
  return bad(
      "This build of Convoy has no stand-in for CUDA: neither " + (own / "standin").string() +
      " nor " + (own / "convoy/standin").string() +
      " holds it. It is built where CUDA's headers and libtorch's CUDA build are; `make deps` "
      "installs both, then build again.");
}

std::string report_folder(const std::string& run_dir, int rank) {
  return run_dir + "/rehearsal/rank_" + std::to_string(rank);
}

Status make_report_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return {Code::kUnavailable, folder + " can't be made: " + error.message()};
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".json") fs::remove(entry.path(), error);
  }
  return ok_status();
}

void add_rehearsal(const Rehearsal& rehearsal, const std::vector<std::string>& libraries,
                   const std::string& reports, std::map<std::string, std::string>* environment) {
  environment->erase("CUDA_VISIBLE_DEVICES");
  std::string& preloaded = (*environment)["LD_PRELOAD"];
  for (const std::string& library : libraries) {
    preloaded += (preloaded.empty() ? "" : ":") + library;
  }
  (*environment)["CONVOY_STANDIN_GPUS"] = std::to_string(rehearsal.gpus);
  (*environment)["CONVOY_STANDIN_GPU_MEMORY"] = std::to_string(rehearsal.gpu_memory);
  (*environment)["CONVOY_STANDIN_SEED"] = std::to_string(rehearsal.seed);
  (*environment)["CONVOY_STANDIN_REPORT"] = reports;
}

}  // namespace convoy::launch
