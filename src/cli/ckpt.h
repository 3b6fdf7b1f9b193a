#pragma once

#include "src/cli/commands.h"
#include <convoy/ckpt/catalog.h>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// What the commands of `convoy ckpt` share.
namespace convoy::cli {

using Json = nlohmann::ordered_json;

inline constexpr int kExitDamaged = 65;
inline constexpr int kExitHeld = 69;

// `convoy ckpt …`: one function for each file.
void add_ckpt_ls(CLI::App& group, Invocation& invocation);
void add_ckpt_inspect(CLI::App& group, Invocation& invocation);
void add_ckpt_verify(CLI::App& group, Invocation& invocation);
void add_ckpt_scrub(CLI::App& group, Invocation& invocation);
void add_ckpt_diff(CLI::App& group, Invocation& invocation);
void add_ckpt_gc(CLI::App& group, Invocation& invocation);
void add_ckpt_formats(CLI::App& group, Invocation& invocation);  // export, import

// An open checkpoint folder.
struct Folder {
  std::string name;
  std::unique_ptr<ckpt::Store> store;
  std::unique_ptr<ckpt::Catalog> catalog;
};
// The one place that knows what a FOLDER on the command line may be: today a path.
Result<Folder> open_folder(const std::string& name);

// The commit of `step`, or the newest.
Result<ckpt::Commit> load_step(Folder& folder, const std::optional<uint64_t>& step);
// The commit whose record this is.
Result<ckpt::Commit> load_record(Folder& folder, const ckpt::StepInfo& info);

// Fails if a newer Convoy has written in the folder: nobody else may claim it then.
Status check_version(Folder& folder);
// A failure to get or keep the folder's claim, so that its exit code is that of a held folder.
Status as_held(const Status& status);

// As fail(), where a record of a newer Convoy is 65 and a full disk is 71.
int fail_ckpt(const Status& status);
// Prints one line; bytes that are no UTF-8 are replaced.
void print_json(const Json& json);
Json json_of(const ckpt::Owner& owner);

// "2026-11-25 22:44:34", in UTC.
std::string format_time(int64_t wall_ns);
// "[100, 64]", or "scalar".
std::string format_shape(const std::vector<int64_t>& shape);
uint64_t bytes_of(const ckpt::TensorInfo& tensor);
// Of all tensors of the step.
uint64_t bytes_of(const ckpt::Commit& commit);
uint64_t holders_of(const ckpt::TensorEntry& entry);
// "1 tensor", "2 tensors".
std::string counted(uint64_t n, const std::string& thing);
// "job 'x' generation 3 (host:12), since 2026-…"; "nobody".
std::string describe(const std::optional<ckpt::Owner>& owner);
// "convoy ckpt gc (host, process 12)": for owner records.
std::string who_am_i(const std::string& command);

// Whether a name matches any of the patterns, in which * and ? stand for any text and any
// character; without patterns: always.
std::function<bool(const std::string&)> name_filter(const std::vector<std::string>& patterns);

}  // namespace convoy::cli
