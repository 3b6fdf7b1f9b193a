// `convoy ckpt`: the group, and what its commands share.
#include "src/cli/ckpt.h"

#include "src/cli/table.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>
#include <fnmatch.h>
#include <unistd.h>

namespace convoy::cli {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

constexpr const char* kFooter = R"(Examples:
  convoy ckpt ls runs/a/checkpoints
  convoy ckpt verify runs/a/checkpoints --all
  convoy ckpt export runs/a/checkpoints --format safetensors -o model --dtype bfloat16

FOLDER is a checkpoint folder (docs/checkpoints.md). Only gc and import change one, and
scrub what is damaged; all but gc and import may be used while a job writes in it.)";

}  // namespace

Result<Folder> open_folder(const std::string& name) {
  Folder folder;
  folder.name = name;
  CONVOY_ASSIGN_OR_RETURN(folder.store, ckpt::open_local_store(name));
  folder.catalog = std::make_unique<ckpt::Catalog>(*folder.store);
  return folder;
}

Result<ckpt::Commit> load_step(Folder& folder, const std::optional<uint64_t>& step) {
  Result<ckpt::Commit> commit =
      step ? folder.catalog->load_commit(*step) : folder.catalog->latest();
  if (commit.ok() || commit.status().code() != Code::kNotFound) return commit;
  return Status(Code::kNotFound,
                commit.status().message() +
                    (step ? " `convoy ckpt ls " + folder.name + "` lists them." : ""));
}

Result<ckpt::Commit> load_record(Folder& folder, const ckpt::StepInfo& info) {
  CONVOY_ASSIGN_OR_RETURN(const auto bytes, folder.store->get(info.path, ckpt::kRecordBytesMax));
  return ckpt::decode_commit(bytes, folder.name + "/" + info.path);
}

Status check_version(Folder& folder) {
  CONVOY_ASSIGN_OR_RETURN(const auto infos, folder.catalog->steps());
  for (const ckpt::StepInfo& info : infos) {
    if (info.status.code() == Code::kFailedPrecondition) return info.status;
  }
  return ok_status();
}

Status as_held(const Status& status) {
  if (status.code() != Code::kFailedPrecondition) return status;
  return {Code::kUnavailable, status.message()};
}

int fail_ckpt(const Status& status) {
  const int code = fail(status);
  if (status.code() == Code::kFailedPrecondition) return kExitDamaged;
  return status.code() == Code::kResourceExhausted ? 71 : code;
}

void print_json(const Json& json) {
  std::printf("%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
}

Json json_of(const ckpt::Owner& owner) {
  return {{"job", owner.job}, {"generation", owner.generation}, {"claim", owner.claim},
          {"who", owner.who}, {"wall_ns", owner.wall_ns},       {"released", owner.released}};
}

std::string format_time(int64_t wall_ns) {
  const auto seconds = static_cast<time_t>(wall_ns / static_cast<int64_t>(kSecond));
  std::tm parts = {};
  std::array<char, 64> text = {};
  if (::gmtime_r(&seconds, &parts) == nullptr) return "?";
  if (std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &parts) == 0) return "?";
  return text.data();
}

std::string format_shape(const std::vector<int64_t>& shape) {
  if (shape.empty()) return "scalar";
  std::string text;
  for (const int64_t size : shape) text += (text.empty() ? "[" : ", ") + std::to_string(size);
  return text + "]";
}

uint64_t bytes_of(const ckpt::TensorInfo& tensor) {
  if (std::ranges::find(tensor.shape, 0) != tensor.shape.end()) return 0;
  uint64_t bytes = ckpt::dtype_bytes(tensor.dtype);
  for (const int64_t size : tensor.shape) bytes *= static_cast<uint64_t>(size);
  return bytes;
}

uint64_t bytes_of(const ckpt::Commit& commit) {
  uint64_t bytes = 0;
  for (const ckpt::TensorEntry& entry : commit.tensors) bytes += bytes_of(entry.info);
  return bytes;
}

uint64_t holders_of(const ckpt::TensorEntry& entry) {
  uint64_t count = 0;
  for (const ckpt::PartRun& run : entry.holders) count += run.count;
  return count;
}

std::string counted(uint64_t n, const std::string& thing) {
  return std::to_string(n) + " " + thing + (n == 1 ? "" : "s");
}

std::string describe(const std::optional<ckpt::Owner>& owner) {
  if (!owner) return "nobody";
  return "job '" + printable(owner->job) + "' generation " + std::to_string(owner->generation) +
         " (" + printable(owner->who) + ") since " + format_time(owner->wall_ns) + " UTC" +
         (owner->released ? ", which has ended" : "");
}

std::string who_am_i(const std::string& command) {
  std::array<char, 256> host = {};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
  return "convoy ckpt " + command + ", " + host.data() + ":" + std::to_string(::getpid());
}

std::function<bool(const std::string&)> name_filter(const std::vector<std::string>& patterns) {
  return [patterns](const std::string& name) {
    return patterns.empty() || std::ranges::any_of(patterns, [&](const std::string& pattern) {
             return pattern == name || ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
           });
  };
}

void add_ckpt(CLI::App& root, Invocation& invocation) {
  CLI::App* group = root.add_subcommand("ckpt", "Look at, check, clean and convert checkpoints");
  group->require_subcommand(1);
  group->footer(kFooter);
  add_ckpt_ls(*group, invocation);
  add_ckpt_inspect(*group, invocation);
  add_ckpt_verify(*group, invocation);
  add_ckpt_scrub(*group, invocation);
  add_ckpt_diff(*group, invocation);
  add_ckpt_gc(*group, invocation);
  add_ckpt_formats(*group, invocation);
}

}  // namespace convoy::cli
