#include "src/resilience/chaos/flip.h"

#include <convoy/base/fd.h>
#include <convoy/base/vitals.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <string>
#include <thread>
#include <unistd.h>

namespace convoy::resilience::chaos {
namespace {

constexpr int kWaitMs = 10000;
constexpr int kTicksPerMs = 10;
constexpr uint64_t kWord = sizeof(uint64_t);
// The uppermost of a bfloat16's mantissa, if the word ends with one, and three below it.
constexpr int kLowestBit = 48, kBits = 4;
// Of whatever float the word ends with.
constexpr uint64_t kExponent = uint64_t{1} << 62;

// Another process's memory.
class Memory {
 public:
  static Result<Memory> of(pid_t pid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/mem";
    Memory memory;
    memory.fd_.reset(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!memory.fd_) return errno_status("opening " + path, errno);
    return memory;
  }

  template <class T>
  Result<T> read(uint64_t at) const {
    std::array<char, sizeof(T)> bytes{};
    const ssize_t got = ::pread(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (got != static_cast<ssize_t>(bytes.size())) return unreachable("reading");
    T value;
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  Status write(uint64_t at, uint64_t word) const {
    if (::pwrite(fd_.get(), &word, kWord, static_cast<off_t>(at)) == ssize_t{kWord}) {
      return ok_status();
    }
    return unreachable("writing");
  }

 private:
  static Status unreachable(const char* what) {
    return errno_status(std::string(what) +
                            " the rank's memory (parameters on a device are not "
                            "there)",
                        errno);
  }
  UniqueFd fd_;
};

// What a page of vitals says just now.
struct Shown {
  int64_t step = 0;
  bool waits = false, trains = false;
  uint64_t at = 0, bytes = 0;  // of the parameters or gradients
};

Result<uint64_t> find_vitals(pid_t pid) {
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("convoy-vitals") != std::string::npos) return std::stoull(line, nullptr, 16);
  }
  return Status(Code::kFailedPrecondition,
                "process " + std::to_string(pid) + " shows no page of vitals");
}

struct Where {
  size_t at, bytes;  // in the page
};
constexpr Where kParameters{offsetof(Vitals, parameters), offsetof(Vitals, parameter_bytes)};
constexpr Where kGradients{offsetof(Vitals, gradients), offsetof(Vitals, gradient_bytes)};

Result<Shown> read_vitals(const Memory& memory, uint64_t at, const Where& where) {
  Shown shown;
  CONVOY_ASSIGN_OR_RETURN(shown.step, memory.read<int64_t>(at + offsetof(Vitals, step)));
  CONVOY_ASSIGN_OR_RETURN(const auto waits, memory.read<uint32_t>(at + offsetof(Vitals, waiting)));
  CONVOY_ASSIGN_OR_RETURN(const auto trains,
                          memory.read<uint32_t>(at + offsetof(Vitals, training)));
  CONVOY_ASSIGN_OR_RETURN(shown.at, memory.read<uint64_t>(at + where.at));
  CONVOY_ASSIGN_OR_RETURN(shown.bytes, memory.read<uint64_t>(at + where.bytes));
  shown.waits = waits != 0;
  shown.trains = trains != 0;
  return shown;
}

Status flip(const Memory& memory, uint64_t at, uint64_t mask) {
  CONVOY_ASSIGN_OR_RETURN(const auto before, memory.read<uint64_t>(at));
  CONVOY_RETURN_IF_ERROR(memory.write(at, before ^ mask));
  CONVOY_ASSIGN_OR_RETURN(const auto after, memory.read<uint64_t>(at));
  if (after == (before ^ mask)) return ok_status();
  return {Code::kDeadlineExceeded, "the bit was written over at once"};
}

}  // namespace

Bit bit_at(uint64_t bytes, uint64_t place) {
  const uint64_t words = bytes / kWord;
  if (words == 0) return {};
  return {.offset = place / kBits % words * kWord,
          .mask = uint64_t{1} << (kLowestBit + static_cast<int>(place % kBits))};
}

namespace {

// While the worker waits; `mask`: 0 for that of bit_at().
Result<int64_t> flip_in(pid_t pid, uint64_t place, const Where& where, uint64_t mask) {
  CONVOY_ASSIGN_OR_RETURN(const uint64_t page, find_vitals(pid));
  CONVOY_ASSIGN_OR_RETURN(const Memory memory, Memory::of(pid));
  for (int tick = 0; tick < kWaitMs * kTicksPerMs; ++tick) {
    CONVOY_ASSIGN_OR_RETURN(const Shown now, read_vitals(memory, page, where));
    if (!now.trains || now.bytes < kWord) {
      return Status(Code::kFailedPrecondition, now.trains ? "the rank shows no memory of its model"
                                                          : "the rank does not train now");
    }
    if (now.waits) {
      const Bit bit = bit_at(now.bytes, place);
      CONVOY_RETURN_IF_ERROR(flip(memory, now.at + bit.offset, mask != 0 ? mask : bit.mask));
      CONVOY_ASSIGN_OR_RETURN(const Shown then, read_vitals(memory, page, where));
      return then.step;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(1000 / kTicksPerMs));
  }
  return Status(Code::kDeadlineExceeded,
                "the rank has not waited for others: no moment between "
                "two updates was found");
}

}  // namespace

Result<int64_t> flip_a_parameter(pid_t pid, uint64_t place) {
  return flip_in(pid, place, kParameters, 0);
}

Result<int64_t> flip_a_gradient(pid_t pid, uint64_t place) {
  return flip_in(pid, place, kGradients, kExponent);
}

}  // namespace convoy::resilience::chaos
