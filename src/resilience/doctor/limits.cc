// Limits of this process, which ranks inherit. Whoever starts jobs (systemd, Slurm, a shell) sets
// them, so the doctor has to be started the same way.
#include "src/resilience/doctor/checks.h"

#include <filesystem>
#include <sys/resource.h>

namespace convoy::resilience {
namespace {

std::string text_of(rlim_t value, bool is_bytes) {
  if (value == RLIM_INFINITY) return "unlimited";
  return is_bytes ? format_bytes(value) : std::to_string(value);
}

struct Limit {
  int resource;
  const char* name;
  bool is_bytes;
  rlim_t fail_below;
  rlim_t warn_below;
  const char* advice;
};
// Descriptors: a rank has one for each connection; the soft limit counts, because what a script
// opens does not raise it.
constexpr Limit kLimits[] = {
    {RLIMIT_NOFILE, "limits.open_files", false, 256, 4096,
     "Raise it: `ulimit -n 65536`, LimitNOFILE= of the service, or nofile in limits.conf."},
    {RLIMIT_NPROC, "limits.processes", false, 256, 4096,
     "Raise it: `ulimit -u unlimited`, TasksMax= of the service, or nproc in limits.conf."},
    {RLIMIT_FSIZE, "limits.file_size", true, 64UL << 20, RLIM_INFINITY,
     "Raise it: `ulimit -f unlimited`; it holds for shared memory, too."},
};

CheckResult check_limit(const Limit& limit) {
  rlimit value{};
  ::getrlimit(limit.resource, &value);
  CheckResult result = found(limit.name, text_of(value.rlim_cur, limit.is_bytes));
  if (value.rlim_max != value.rlim_cur) {
    result.found += " (hard limit " + text_of(value.rlim_max, limit.is_bytes) + ")";
  }
  const Verdict otherwise = value.rlim_cur < limit.fail_below ? Verdict::kFail : Verdict::kWarn;
  const bool wants_all = limit.warn_below == RLIM_INFINITY;
  return judged(std::move(result), value.rlim_cur >= limit.warn_below, otherwise,
                (wants_all ? "" : "at least ") + text_of(limit.warn_below, limit.is_bytes),
                limit.advice);
}

// Locked memory is needed for RDMA, whose adapters pin what they send, and for io_uring's buffers.
CheckResult check_locked_memory(const DoctorOptions& options) {
  constexpr rlim_t kMin = 8UL << 20;
  rlimit value{};
  ::getrlimit(RLIMIT_MEMLOCK, &value);
  const CheckResult result = found("limits.locked_memory", text_of(value.rlim_cur, true));
  const char* advice = "Raise it: `ulimit -l unlimited`, or LimitMEMLOCK=infinity of the service.";
  std::error_code ignored;
  if (!std::filesystem::is_empty(options.sys + "/class/infiniband", ignored) && !ignored) {
    return judged(result, value.rlim_cur == RLIM_INFINITY, Verdict::kFail,
                  "unlimited, as this node has RDMA adapters", advice);
  }
  return judged(result, value.rlim_cur >= kMin, Verdict::kWarn, "at least " + text_of(kMin, true),
                advice);
}

// Not judged: core files are wanted by some and fill the disks of others.
CheckResult check_core_file() {
  rlimit value{};
  ::getrlimit(RLIMIT_CORE, &value);
  return found("limits.core_file",
               value.rlim_cur == 0 ? "0: crashes leave none" : text_of(value.rlim_cur, true));
}

}  // namespace

Results check_limits(const DoctorOptions& options) {
  Results results;
  for (const Limit& limit : kLimits) results.push_back(check_limit(limit));
  results.push_back(check_locked_memory(options));
  results.push_back(check_core_file());
  return results;
}

}  // namespace convoy::resilience
