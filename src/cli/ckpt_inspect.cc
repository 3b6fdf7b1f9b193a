// `convoy ckpt inspect`: what a step holds, and where a tensor's bytes lie.
#include "src/cli/ckpt.h"
#include "src/cli/table.h"
#include <convoy/base/units.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

namespace convoy::cli {
namespace {

struct Arguments {
  std::string folder;
  std::optional<uint64_t> step;
  std::vector<std::string> tensors;
  bool json = false;
};

// Neighbouring chunks of a piece that lie one behind the other in a file.
struct Run {
  uint64_t first_chunk = 0;
  uint64_t chunks = 0;
  std::string file;
  uint64_t offset = 0;
  uint64_t stored_bytes = 0;
  uint64_t compressed = 0;  // chunks
};

struct Piece {
  uint32_t rank = 0;
  uint32_t node = 0;
  uint64_t stream_offset = 0;
  ckpt::StoredPiece box;
  std::vector<Run> runs;
};

struct Found {
  const ckpt::TensorEntry* entry = nullptr;
  uint64_t pieces = 0;
  std::set<uint32_t> ranks;
  std::vector<Piece> details;  // if it is the only one that was asked for
};

// What the parts tell.
struct Inspection {
  ckpt::Commit commit;
  std::map<std::string, Found> tensors;   // that were asked for
  std::map<std::string, uint64_t> files;  // with their sizes
  std::vector<Status> damaged;            // parts that can't be read
  bool details = false;
};

constexpr const char* kFooter = R"(Examples:
  convoy ckpt inspect runs/a/checkpoints
      tensors, notes and files of the newest step
  convoy ckpt inspect runs/a/checkpoints --step 1200 --tensor 'model.layers.0.*'
  convoy ckpt inspect runs/a/checkpoints --tensor model.embed.weight
      a single tensor: its boxes, and in which file, where and in how many chunks each lies

Reads the records, not the data: `convoy ckpt verify` does that.
Exit codes: 0; 64 bad option; 65 a record is damaged (what can be read is shown), or made by a newer
Convoy; 66 no such folder, step or tensor.)";

uint64_t piece_bytes(const ckpt::Part& part, const ckpt::StoredPiece& piece) {
  uint64_t bytes = ckpt::dtype_bytes(part.tensors[piece.tensor].dtype);
  for (const int64_t extent : piece.extent) bytes *= static_cast<uint64_t>(extent);
  return bytes;
}

std::vector<Run> runs_of(const ckpt::Part& part, const ckpt::Stream& stream,
                         const ckpt::StoredPiece& piece) {
  std::vector<Run> runs;
  const uint64_t last = (piece.offset + piece_bytes(part, piece) - 1) / stream.chunk_bytes;
  for (uint64_t i = piece.offset / stream.chunk_bytes; i <= last; ++i) {
    const ckpt::Chunk& chunk = stream.chunks[i];
    const std::string& file = part.files[chunk.file].path;
    const bool goes_on = !runs.empty() && runs.back().file == file &&
                         runs.back().offset + runs.back().stored_bytes == chunk.offset;
    if (!goes_on) runs.push_back({i, 0, file, chunk.offset, 0, 0});
    ++runs.back().chunks;
    runs.back().stored_bytes += chunk.bytes;
    runs.back().compressed += chunk.codec == ckpt::Codec::kZstd ? 1 : 0;
  }
  return runs;
}

void add_part(const ckpt::Part& part, Inspection& out) {
  for (const ckpt::File& file : part.files) out.files[file.path] = file.bytes;
  for (const ckpt::Stream& stream : part.streams) {
    for (const ckpt::StoredPiece& piece : stream.pieces) {
      const auto found = out.tensors.find(part.tensors[piece.tensor].name);
      if (found == out.tensors.end()) continue;
      ++found->second.pieces;
      found->second.ranks.insert(stream.rank);
      if (!out.details) continue;
      found->second.details.push_back(
          {stream.rank, part.node, piece.offset, piece, runs_of(part, stream, piece)});
    }
  }
}

Result<Inspection> look(Folder& folder, const Arguments& arguments) {
  Inspection out;
  CONVOY_ASSIGN_OR_RETURN(out.commit, load_step(folder, arguments.step));
  const auto wanted = name_filter(arguments.tensors);
  std::set<uint32_t> parts;  // that are needed
  for (const ckpt::TensorEntry& entry : out.commit.tensors) {
    if (!wanted(entry.info.name)) continue;
    out.tensors[entry.info.name].entry = &entry;
    for (const ckpt::PartRun& run : entry.holders) {
      for (uint32_t i = 0; i < run.count; ++i) parts.insert(run.first + i);
    }
  }
  if (out.tensors.empty() && !arguments.tensors.empty()) {
    return Status(Code::kNotFound, "step " + std::to_string(out.commit.step) + " in " +
                                       folder.name + " has no tensor " + arguments.tensors[0] +
                                       "; `convoy ckpt inspect " + folder.name +
                                       "` lists what it has.");
  }
  out.details = out.tensors.size() == 1 && !arguments.tensors.empty();
  for (uint32_t i = 0; i < out.commit.parts.size(); ++i) {
    if (!arguments.tensors.empty() && !parts.contains(i)) continue;
    const Result<ckpt::Part> part = folder.catalog->load_part(out.commit.parts[i]);
    if (part.ok()) {
      add_part(*part, out);
    } else {
      out.damaged.push_back(part.status());
    }
  }
  return out;
}

// The step in whose folder a file lies: "data/s000000000120/…".
uint64_t step_of(const std::string& path) {
  const size_t begin = path.find("/s");
  return begin == std::string::npos ? 0 : std::strtoull(path.c_str() + begin + 2, nullptr, 10);
}

Json to_json(const Piece& piece) {
  Json json = {{"rank", piece.rank},
               {"node", piece.node},
               {"begin", piece.box.begin},
               {"extent", piece.box.extent},
               {"stream_offset", piece.stream_offset},
               {"runs", Json::array()}};
  for (const Run& run : piece.runs) {
    json["runs"].push_back({{"first_chunk", run.first_chunk},
                            {"chunks", run.chunks},
                            {"file", run.file},
                            {"offset", run.offset},
                            {"stored_bytes", run.stored_bytes},
                            {"compressed_chunks", run.compressed}});
  }
  return json;
}

Json to_json(const Folder& folder, const Inspection& inspection) {
  const ckpt::Commit& commit = inspection.commit;
  Json json = {{"folder", folder.name},
               {"step", commit.step},
               {"claim", commit.claim},
               {"wall_ns", commit.wall_ns},
               {"job", commit.job},
               {"generation", commit.generation},
               {"world_size", commit.world_size},
               {"mesh", commit.mesh},
               {"tensors", Json::array()},
               {"notes", Json::object()},
               {"files", Json::array()},
               {"damaged", Json::array()}};
  for (const auto& [name, found] : inspection.tensors) {
    Json one = {{"name", name},
                {"dtype", ckpt::dtype_name(found.entry->info.dtype)},
                {"shape", found.entry->info.shape},
                {"bytes", bytes_of(found.entry->info)},
                {"pieces", found.pieces},
                {"ranks", found.ranks.size()},
                {"nodes", holders_of(*found.entry)}};
    if (inspection.details) {
      one["boxes"] = Json::array();
      for (const Piece& piece : found.details) one["boxes"].push_back(to_json(piece));
    }
    json["tensors"].push_back(std::move(one));
  }
  for (const auto& [key, value] : commit.notes) json["notes"][key] = value;
  for (const auto& [path, bytes] : inspection.files) {
    json["files"].push_back({{"path", path}, {"bytes", bytes}, {"step", step_of(path)}});
  }
  for (const Status& status : inspection.damaged) json["damaged"].push_back(status.message());
  return json;
}

void print_head(const ckpt::Commit& commit) {
  std::printf("step %s of job '%s' generation %s: %s%s, committed %s UTC under claim %s\n",
              std::to_string(commit.step).c_str(), printable(commit.job).c_str(),
              std::to_string(commit.generation).c_str(), counted(commit.world_size, "rank").c_str(),
              commit.mesh.empty() ? "" : (" (" + printable(commit.mesh) + ")").c_str(),
              format_time(commit.wall_ns).c_str(), std::to_string(commit.claim).c_str());
}

void print_tensors(const Inspection& inspection) {
  Table table({"TENSOR", "DTYPE", "SHAPE", ">SIZE", ">PIECES", ">RANKS", ">NODES"}, 0);
  for (const auto& [name, found] : inspection.tensors) {
    table.add({printable(name), ckpt::dtype_name(found.entry->info.dtype),
               format_shape(found.entry->info.shape), format_bytes(bytes_of(found.entry->info)),
               std::to_string(found.pieces), std::to_string(found.ranks.size()),
               std::to_string(holders_of(*found.entry))});
  }
  table.print();
}

// "[0:16, 32:64]"
std::string format_box(const ckpt::StoredPiece& box) {
  if (box.begin.empty()) return "scalar";
  std::string text;
  for (size_t d = 0; d < box.begin.size(); ++d) {
    text += (d == 0 ? "[" : ", ") + std::to_string(box.begin[d]) + ":" +
            std::to_string(box.begin[d] + box.extent[d]);
  }
  return text + "]";
}

void print_boxes(const Found& found) {
  std::printf("\n");
  Table table({">RANK", "BOX", ">CHUNKS", "FILE", ">AT BYTE", ">STORED"}, 3);
  for (const Piece& piece : found.details) {
    for (const Run& run : piece.runs) {
      const std::string chunks = run.chunks == 1
                                     ? std::to_string(run.first_chunk)
                                     : std::to_string(run.first_chunk) + "–" +
                                           std::to_string(run.first_chunk + run.chunks - 1);
      table.add({std::to_string(piece.rank), format_box(piece.box), chunks, run.file,
                 std::to_string(run.offset),
                 format_bytes(run.stored_bytes) + (run.compressed != 0 ? " zstd" : "")});
    }
  }
  table.print();
}

void print_rest(const Inspection& inspection) {
  if (!inspection.commit.notes.empty()) {
    std::printf("\n");
    Table notes({"NOTE", "VALUE"}, 1);
    for (const auto& [key, value] : inspection.commit.notes) {
      notes.add({printable(key), printable(value)});
    }
    notes.print();
  }
  if (inspection.files.empty()) return;
  std::printf("\n");
  Table files({"FILE", ">SIZE", "OF STEP"}, 0);
  for (const auto& [path, bytes] : inspection.files) {
    const bool own = step_of(path) == inspection.commit.step;
    files.add({path, format_bytes(bytes), own ? "this" : std::to_string(step_of(path))});
  }
  files.print();
}

Result<int> inspect(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(Folder folder, open_folder(arguments.folder));
  CONVOY_ASSIGN_OR_RETURN(const Inspection inspection, look(folder, arguments));
  if (arguments.json) {
    print_json(to_json(folder, inspection));
  } else {
    print_head(inspection.commit);
    print_tensors(inspection);
    if (inspection.details) print_boxes(inspection.tensors.begin()->second);
    if (arguments.tensors.empty()) print_rest(inspection);
    for (const Status& status : inspection.damaged) {
      std::printf("damaged: %s\n", status.message().c_str());
    }
  }
  return inspection.damaged.empty() ? 0 : kExitDamaged;
}

}  // namespace

void add_ckpt_inspect(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("inspect", "Say what a step holds, and where it lies");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("FOLDER", arguments->folder, "a checkpoint folder")->required();
  app->add_option("--step", arguments->step, "a committed step; default: the newest")
      ->type_name("N");
  app->add_option("--tensor", arguments->tensors, "a name, or a pattern with * and ?; repeatable")
      ->take_all()
      ->expected(1)
      ->type_name("NAME");
  app->add_flag("--json", arguments->json, "print it as one line of JSON");
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Result<int> code = inspect(*arguments);
    invocation.exit_code = code.ok() ? *code : fail_ckpt(code.status());
  });
}

}  // namespace convoy::cli
