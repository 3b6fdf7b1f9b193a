// `convoy ckpt diff`: what differs between two steps.
#include "src/cli/ckpt.h"
#include "src/cli/progress.h"
#include "src/cli/table.h"
#include <convoy/base/units.h>
#include <convoy/ckpt/compare.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <sys/stat.h>

namespace convoy::cli {
namespace {

constexpr int kExitDiffers = 1;

struct Arguments {
  std::string a;
  std::string b;
  std::vector<std::string> tensors;
  bool json = false;
};

struct Side {
  Folder folder;
  ckpt::Commit commit;
};

constexpr const char* kFooter = R"(Examples:
  convoy ckpt diff runs/a/checkpoints@1000 runs/a/checkpoints@1200
  convoy ckpt diff runs/a/checkpoints runs/b/checkpoints --tensor 'model.*'
      the newest step of each; the meshes that wrote them don't matter

Equal means: the same bytes. Where both steps are cut alike, checksums are compared, else the data is
read. MAX |A-B| is of float types.
Exit codes: 0 equal; 1 different; 64 bad option; 65 something is damaged; 66 no such folder or step.)";

// "FOLDER" or "FOLDER@STEP". A folder whose own name ends like that wins. In a URI the step may
// stand before its options, too: "s3://bucket/run@1000?region=…".
Result<Side> open_side(const std::string& text) {
  std::string name = text;
  std::optional<uint64_t> step;
  const bool is_uri = ckpt::is_store_uri(text);
  size_t end = text.size();
  size_t at = text.rfind('@');
  const size_t query = text.find('?');
  if (is_uri && query != std::string::npos && (at == std::string::npos || at < query)) end = query;
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  // Credentials end with an @, too.
  if (is_uri && at != std::string::npos) {
    const bool number =
        at + 1 < end && std::all_of(text.begin() + static_cast<ptrdiff_t>(at) + 1,
                                    text.begin() + static_cast<ptrdiff_t>(end), is_digit);
    if (!number) at = std::string::npos;
  }
  struct stat info = {};
  if (at != std::string::npos && (is_uri || ::stat(text.c_str(), &info) != 0)) {
    uint64_t number = 0;
    const char* const last = text.data() + end;
    const auto [stop, error] = std::from_chars(text.data() + at + 1, last, number);
    if (error != std::errc() || stop != last) {
      return Status(Code::kInvalidArgument,
                    "'" + text + "' is no FOLDER@STEP: behind the @ stands a step's number.");
    }
    step = number;
    name = text.substr(0, at) + text.substr(end);
  }
  Side side;
  CONVOY_ASSIGN_OR_RETURN(side.folder, open_folder(name));
  CONVOY_ASSIGN_OR_RETURN(side.commit, load_step(side.folder, step));
  return side;
}

std::string kind_name(ckpt::DifferenceKind kind) {
  switch (kind) {
    case ckpt::DifferenceKind::kOnlyInA:
      return "only in A";
    case ckpt::DifferenceKind::kOnlyInB:
      return "only in B";
    case ckpt::DifferenceKind::kForm:
      return "other form";
    case ckpt::DifferenceKind::kContent:
      return "differs";
    case ckpt::DifferenceKind::kDamaged:
      return "damaged";
  }
  return "?";
}

std::string format_info(const ckpt::TensorInfo& info) {
  return ckpt::dtype_name(info.dtype) + " " + format_shape(info.shape);
}

std::string format_number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.4g", value);
  return text;
}

Json to_json(const ckpt::TensorDifference& difference) {
  Json json = {{"name", difference.a.name}, {"kind", kind_name(difference.kind)}};
  const auto form = [](const ckpt::TensorInfo& info) {
    return Json{{"dtype", ckpt::dtype_name(info.dtype)}, {"shape", info.shape}};
  };
  if (difference.kind != ckpt::DifferenceKind::kOnlyInB) json["a"] = form(difference.a);
  if (difference.kind != ckpt::DifferenceKind::kOnlyInA) json["b"] = form(difference.b);
  if (difference.kind == ckpt::DifferenceKind::kContent) {
    json["elements"] = difference.elements;
    json["differing"] = difference.differing;
    json["max_abs_difference"] = nullptr;
    const bool is_number = difference.has_max_abs && std::isfinite(difference.max_abs);
    if (is_number) json["max_abs_difference"] = difference.max_abs;
  }
  if (!difference.status.ok()) json["reason"] = difference.status.message();
  return json;
}

void print(const Side& a, const Side& b, const ckpt::Comparison& result) {
  std::printf("A: step %s in %s\nB: step %s in %s\n", std::to_string(a.commit.step).c_str(),
              a.folder.name.c_str(), std::to_string(b.commit.step).c_str(), b.folder.name.c_str());
  if (!result.differences.empty()) {
    Table table({"TENSOR", "", "IN A", "IN B", ">ELEMENTS", ">MAX |A-B|"}, 0);
    for (const ckpt::TensorDifference& one : result.differences) {
      const bool content = one.kind == ckpt::DifferenceKind::kContent;
      const bool form = one.kind == ckpt::DifferenceKind::kForm;
      table.add(
          {printable(one.a.name), kind_name(one.kind),
           one.kind == ckpt::DifferenceKind::kOnlyInB ? "-" : format_info(one.a),
           one.kind == ckpt::DifferenceKind::kOnlyInA ? "-"
           : form                                     ? format_info(one.b)
                                                      : "same form",
           content ? std::to_string(one.differing) + " of " + std::to_string(one.elements) : "",
           content && one.has_max_abs ? format_number(one.max_abs) : ""});
    }
    table.print();
  }
  for (const ckpt::TensorDifference& one : result.differences) {
    if (!one.status.ok()) std::printf("damaged: %s\n", one.status.message().c_str());
  }
  std::printf("%s equal (%s by their checksums), %s different; %s read\n",
              counted(result.equal, "tensor").c_str(), std::to_string(result.by_checksum).c_str(),
              std::to_string(result.differences.size()).c_str(),
              format_bytes(result.bytes_read).c_str());
}

Result<int> diff(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(Side a, open_side(arguments.a));
  CONVOY_ASSIGN_OR_RETURN(Side b, open_side(arguments.b));
  Progress progress("compared");
  CONVOY_ASSIGN_OR_RETURN(
      const ckpt::Comparison result,
      ckpt::compare_steps(*a.folder.store, a.commit, *b.folder.store, b.commit,
                          name_filter(arguments.tensors), [&](uint64_t done, uint64_t total) {
                            progress.show(done, total);
                            return true;
                          }));
  progress.end();
  if (arguments.json) {
    Json json = {{"a", {{"folder", a.folder.name}, {"step", a.commit.step}}},
                 {"b", {{"folder", b.folder.name}, {"step", b.commit.step}}},
                 {"equal", result.equal},
                 {"equal_by_checksum", result.by_checksum},
                 {"bytes_read", result.bytes_read},
                 {"differences", Json::array()}};
    for (const auto& one : result.differences) json["differences"].push_back(to_json(one));
    print_json(json);
  } else {
    print(a, b, result);
  }
  const bool damaged =
      std::ranges::any_of(result.differences, [](const auto& one) { return !one.status.ok(); });
  if (damaged) return kExitDamaged;
  return result.differences.empty() ? 0 : kExitDiffers;
}

}  // namespace

void add_ckpt_diff(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("diff", "Compare two steps, tensor by tensor");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("A", arguments->a, "a checkpoint folder; its newest step, or FOLDER@STEP")
      ->required();
  app->add_option("B", arguments->b, "another, or the same")->required();
  app->add_option("--tensor", arguments->tensors, "a name, or a pattern with * and ?; repeatable")
      ->take_all()
      ->expected(1)
      ->type_name("NAME");
  app->add_flag("--json", arguments->json, "print the result as one line of JSON");
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Result<int> code = diff(*arguments);
    invocation.exit_code = code.ok() ? *code : fail_ckpt(code.status());
  });
}

}  // namespace convoy::cli
