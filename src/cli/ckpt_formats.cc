// `convoy ckpt export` and `import`: to and from the files of others.
#include "src/cli/ckpt.h"
#include "src/cli/progress.h"
#include "src/cli/table.h"
#include <convoy/base/config.h>
#include <convoy/base/units.h>
#include <convoy/ckpt/import.h>
#include <convoy/ckpt/safetensors.h>
#include <convoy/ckpt/torch_files.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <sys/stat.h>

namespace convoy::cli {
namespace {

struct ExportArguments {
  std::string folder;
  std::string output;
  std::optional<uint64_t> step;
  std::string format;
  std::string shard_size = "5GB";
  std::string dtype;
  std::vector<std::string> tensors;
  bool json = false;
};

struct ImportArguments {
  std::string input;
  std::string folder;
  std::string format;
  std::string job = "import";
  uint64_t step = 0;
  bool force = false;
  bool json = false;
};

constexpr const char* kExportFooter = R"(Examples:
  convoy ckpt export runs/a/checkpoints --format safetensors -o model --tensor 'model.*'
      model/model.safetensors, or, above --shard-size, model/model-00001-of-00003.safetensors …
      and model/model.safetensors.index.json, as Hugging Face's tools expect them
  convoy ckpt export runs/a/checkpoints --step 1200 --format safetensors -o model --dtype bfloat16
  convoy ckpt export runs/a/checkpoints --format dcp -o for-dcp      (dcp.load() reads it)
  convoy ckpt export runs/a/checkpoints --format torch -o model.pt   (torch.load() reads it)

Names are kept, tensors are put together from all ranks' pieces, checksums are verified on the way.
--dtype converts float tensors (float32, float64, float16, bfloat16; nearest, ties to even). DIR
appears when all of it is on disk; until then the work lies in DIR.partial, which the next export into
DIR replaces.
To safetensors, tensors of dtype bytes (random state and the like) can't be exported and are named.
Exit codes: 0; 64 bad option, or DIR is there; 65 the step is damaged; 66 no such folder or step;
69 another export is writing DIR; 71 no room.)";

constexpr const char* kImportFooter = R"(Examples:
  convoy ckpt import model.safetensors --format safetensors -o checkpoints
  convoy ckpt import llama/ --format safetensors -o checkpoints --step 5000 --job pretrain
      llama/ has one file, or several and a model.safetensors.index.json
  convoy ckpt import model.pt --format torch -o checkpoints
  convoy ckpt import dcp/ --format dcp -o checkpoints       (has .metadata and .distcp files)

Pickles in files of PyTorch are read as data and never executed; what is not plain data is refused.
The tensors become a committed step, which any mesh can load. FOLDER is made if it isn't there. It then
belongs to job --job, which can go on in it.
Exit codes: 0; 64 bad option, or the step is there; 65 an input is damaged; 66 an input is missing;
69 FOLDER belongs to a job that has not ended, or to another one; 71 no room.)";

Status no_format(const std::string& format) {
  const std::vector<std::string> known = {"dcp", "safetensors", "torch"};
  const std::string near = nearest_name(format, known);
  return {Code::kInvalidArgument,
          "there is no format '" + format + "'" +
              (near.empty() ? ": use dcp, safetensors or torch." : "; did you mean " + near + "?")};
}

// The inputs of an import, checked.
Result<std::unique_ptr<ckpt::ImportSource>> open_source(const ImportArguments& arguments) {
  if (arguments.format == "safetensors") return ckpt::open_safetensors(arguments.input);
  if (arguments.format == "dcp") return ckpt::open_dcp_folder(arguments.input);
  if (arguments.format == "torch") return ckpt::open_torch_file(arguments.input);
  return no_format(arguments.format);
}

// Hugging Face's "5GB" is decimal; "4GiB" and bytes are as everywhere.
Result<uint64_t> parse_shard_size(const std::string& text) {
  constexpr std::array<std::pair<std::string_view, uint64_t>, 4> kDecimal{
      {{"KB", 1'000}, {"MB", 1'000'000}, {"GB", 1'000'000'000}, {"TB", 1'000'000'000'000}}};
  for (const auto& [unit, factor] : kDecimal) {
    if (!text.ends_with(unit)) continue;
    CONVOY_ASSIGN_OR_RETURN(
        const int64_t count,
        parse_integer("--shard-size", text.substr(0, text.size() - unit.size()), 1, 1'000'000));
    return static_cast<uint64_t>(count) * factor;
  }
  CONVOY_ASSIGN_OR_RETURN(const uint64_t bytes, parse_bytes("--shard-size", text));
  if (bytes > 0) return bytes;
  return Status(Code::kInvalidArgument, "--shard-size must be more than nothing, such as 5GB.");
}

void print(const ExportArguments& arguments, const ckpt::Commit& commit,
           const ckpt::Exported& result) {
  if (arguments.json) {
    Json json = {{"step", commit.step},       {"output", arguments.output},
                 {"tensors", result.tensors}, {"bytes", result.bytes},
                 {"files", Json::array()},    {"left_out", Json::array()}};
    for (const auto& file : result.files) {
      json["files"].push_back(
          {{"name", file.name}, {"tensors", file.tensors}, {"bytes", file.bytes}});
    }
    for (const auto& info : result.left_out) json["left_out"].push_back(info.name);
    print_json(json);
    return;
  }
  Table table({"FILE", ">TENSORS", ">SIZE"}, 0);
  for (const auto& file : result.files) {
    table.add({file.name, std::to_string(file.tensors), format_bytes(file.bytes)});
  }
  table.print();
  std::printf("step %s: %s, %s, in %s\n", std::to_string(commit.step).c_str(),
              counted(result.tensors, "tensor").c_str(), format_bytes(result.bytes).c_str(),
              arguments.output.c_str());
  for (const auto& info : result.left_out) {
    std::printf("left out: %s, which safetensors can't hold (dtype bytes)\n",
                printable(info.name).c_str());
  }
}

using Exporter = std::function<Result<ckpt::Exported>(ckpt::Store&, const ckpt::Commit&,
                                                      const ckpt::ByteProgress&)>;

Result<Exporter> safetensors_exporter(const ExportArguments& arguments) {
  ckpt::SafetensorsExport options;
  options.folder = arguments.output;
  options.want = name_filter(arguments.tensors);
  CONVOY_ASSIGN_OR_RETURN(options.shard_bytes, parse_shard_size(arguments.shard_size));
  if (!arguments.dtype.empty()) {
    CONVOY_ASSIGN_OR_RETURN(options.dtype, ckpt::parse_dtype(arguments.dtype));
  }
  return Exporter([options](auto& store, const auto& commit, const auto& progress) {
    return ckpt::export_safetensors(store, commit, options, progress);
  });
}

Result<Exporter> find_exporter(const ExportArguments& arguments) {
  if (arguments.format == "safetensors") return safetensors_exporter(arguments);
  if (arguments.format != "dcp" && arguments.format != "torch") return no_format(arguments.format);
  if (!arguments.dtype.empty() || arguments.shard_size != ExportArguments().shard_size) {
    return Status(Code::kInvalidArgument, "--dtype and --shard-size are for safetensors.");
  }
  const ckpt::TorchExport options{arguments.output, name_filter(arguments.tensors)};
  const auto write = arguments.format == "dcp" ? ckpt::export_dcp : ckpt::export_torch;
  return Exporter([options, write](auto& store, const auto& commit, const auto& progress) {
    return write(store, commit, options, progress);
  });
}

Status export_step(const ExportArguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(const Exporter exporter, find_exporter(arguments));
  CONVOY_ASSIGN_OR_RETURN(Folder folder, open_folder(arguments.folder));
  CONVOY_ASSIGN_OR_RETURN(const ckpt::Commit commit, load_step(folder, arguments.step));
  Progress progress("exported");
  CONVOY_ASSIGN_OR_RETURN(const ckpt::Exported result,
                          exporter(*folder.store, commit, [&](uint64_t done, uint64_t total) {
                            progress.show(done, total);
                            return true;
                          }));
  progress.end();
  print(arguments, commit, result);
  return ok_status();
}

// Claims the folder for the import; a job that may be running keeps it.
Status claim(Folder& folder, const ImportArguments& arguments) {
  ckpt::Catalog& catalog = *folder.catalog;
  CONVOY_ASSIGN_OR_RETURN(const auto owner, catalog.owner());
  const bool is_same = owner && owner->job == arguments.job;
  if (is_same && !owner->released && !arguments.force) {
    return {Code::kUnavailable, folder.name + " belongs to " + describe(owner) +
                                    ", which has not said that it ended. If it was killed, say so "
                                    "with --force."};
  }
  if (is_same && !arguments.force) return catalog.follow(*owner, who_am_i("import"));
  const uint64_t generation = is_same ? owner->generation : 0;
  return catalog.take_over({arguments.job, generation, who_am_i("import")}, arguments.force);
}

Status check_step_is_free(Folder& folder, uint64_t step) {
  const Status status = folder.catalog->load_commit(step).status();
  if (status.code() == Code::kNotFound || status.code() == Code::kAborted) return ok_status();
  if (!status.ok()) return status;
  return {Code::kInvalidArgument,
          folder.name + " has a step " + std::to_string(step) + " already; give another --step."};
}

Status import_step(const ImportArguments& arguments) {
  // All inputs are checked before anything is made.
  CONVOY_ASSIGN_OR_RETURN(const auto source, open_source(arguments));
  if (::mkdir(arguments.folder.c_str(), 0755) != 0 && errno != EEXIST) {
    return errno_status("cannot make folder " + arguments.folder, errno);
  }
  CONVOY_ASSIGN_OR_RETURN(Folder folder, open_folder(arguments.folder));
  CONVOY_RETURN_IF_ERROR(check_version(folder));
  CONVOY_RETURN_IF_ERROR(check_step_is_free(folder, arguments.step));
  CONVOY_RETURN_IF_ERROR(as_held(claim(folder, arguments)));
  Progress progress("imported");
  const Status status = ckpt::import_step(*source, *folder.store, *folder.catalog, arguments.step,
                                          [&](uint64_t done, uint64_t total) {
                                            progress.show(done, total);
                                            return true;
                                          });
  progress.end();
  const Status released = folder.catalog->release();  // whatever came of it
  CONVOY_RETURN_IF_ERROR(as_held(status));
  CONVOY_RETURN_IF_ERROR(as_held(released));
  if (arguments.json) {
    print_json({{"folder", folder.name},
                {"step", arguments.step},
                {"job", arguments.job},
                {"tensors", source->tensors().size()},
                {"bytes", source->bytes()},
                {"files", source->files()}});
  } else {
    std::printf("step %s: %s, %s, from %s, in %s\n", std::to_string(arguments.step).c_str(),
                counted(source->tensors().size(), "tensor").c_str(),
                format_bytes(source->bytes()).c_str(),
                counted(source->files().size(), "file").c_str(), folder.name.c_str());
  }
  return ok_status();
}

void add_export(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("export", "Write a step in another format");
  const auto arguments = std::make_shared<ExportArguments>();
  app->add_option("FOLDER", arguments->folder, "a checkpoint folder")->required();
  app->add_option("--format", arguments->format, "safetensors, dcp or torch")
      ->required()
      ->type_name("FORMAT");
  app->add_option("-o,--output", arguments->output, "a new or empty folder; with torch, a new file")
      ->required()
      ->type_name("DIR");
  app->add_option("--step", arguments->step, "a committed step; default: the newest")
      ->type_name("N");
  app->add_option("--shard-size", arguments->shard_size, "most bytes of a file; default: 5GB")
      ->type_name("SIZE");
  app->add_option("--dtype", arguments->dtype, "float tensors become this type")
      ->type_name("DTYPE");
  app->add_option("--tensor", arguments->tensors, "a name, or a pattern with * and ?; repeatable")
      ->take_all()
      ->expected(1)
      ->type_name("NAME");
  app->add_flag("--json", arguments->json, "print the result as one line of JSON");
  app->footer(kExportFooter);
  app->callback([&invocation, arguments] {
    const Status status = export_step(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail_ckpt(status);
  });
}

void add_import(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("import", "Make a step from files of another format");
  const auto arguments = std::make_shared<ImportArguments>();
  app->add_option("INPUT", arguments->input, "a file, or a folder of files")->required();
  app->add_option("--format", arguments->format, "safetensors, dcp or torch")
      ->required()
      ->type_name("FORMAT");
  app->add_option("-o,--output", arguments->folder, "a checkpoint folder")
      ->required()
      ->type_name("FOLDER");
  app->add_option("--step", arguments->step, "the step's number; default: 0")->type_name("N");
  app->add_option("--job", arguments->job, "the job that is to go on from it; default: import")
      ->type_name("NAME");
  app->add_flag("--force", arguments->force, "even if FOLDER is another's: you know it has ended");
  app->add_flag("--json", arguments->json, "print the result as one line of JSON");
  app->footer(kImportFooter);
  app->callback([&invocation, arguments] {
    const Status status = import_step(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail_ckpt(status);
  });
}

}  // namespace

void add_ckpt_formats(CLI::App& group, Invocation& invocation) {
  add_export(group, invocation);
  add_import(group, invocation);
}

}  // namespace convoy::cli
