// What the kernel, or the seccomp profile in front of it, lets us call.
#include "src/resilience/doctor/checks.h"
#include "src/resilience/doctor/kernel_files.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <sys/syscall.h>
#include <unistd.h>

namespace convoy::resilience {
namespace {

std::string outcome(int64_t result) {
  return result >= 0 ? "works" : std::strerror(errno);
}

CheckResult check_pidfd() {
  const UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  return judged(found("kernel.pidfd", outcome(fd.get())), static_cast<bool>(fd), Verdict::kFail,
                "pidfd_open, by which deaths of ranks are seen",
                "Use Linux 5.3 or newer, and allow pidfd_open in the container's seccomp profile.");
}

CheckResult check_io_uring(const DoctorOptions& options) {
  std::array<unsigned char, 256> parameters{};  // struct io_uring_params has 120 bytes
  const UniqueFd fd(static_cast<int>(::syscall(SYS_io_uring_setup, 4, parameters.data())));
  CheckResult result = found("kernel.io_uring", outcome(fd.get()));
  const auto disabled = read_number(options.proc + "/sys/kernel/io_uring_disabled");
  return judged(
      std::move(result), static_cast<bool>(fd), Verdict::kWarn,
      "io_uring, by which checkpoints are written fastest",
      disabled.value_or(0) > 0
          ? "Set the sysctl kernel.io_uring_disabled to 0; threads write checkpoints until then."
          : "Allow io_uring_setup in the container's seccomp profile; threads write checkpoints "
            "until then.");
}

}  // namespace

Results check_kernel(const DoctorOptions& options) {
  CheckResult version =
      found("kernel.version",
            read_small_file(options.proc + "/sys/kernel/osrelease").value_or("unknown"));
  return {std::move(version), check_pidfd(), check_io_uring(options)};
}

}  // namespace convoy::resilience
