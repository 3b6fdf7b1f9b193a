// From names and boxes to chunks. Each tensor is a reshard problem of its own, in elements: a
// source holder is a distinct box in a stream, a destination holder is a wanted box. Of equal boxes
// in several streams the first in the order of parts is taken, and of overlapping ones the planner
// takes the first too: so all ranks that want an element want it from the same chunk, and it need
// be read only once.
#include "ckpt/restore/load_plan.h"

#include "src/mesh/box.h"
#include <convoy/mesh/reshard.h>

#include <algorithm>
#include <map>
#include <set>
#include <string_view>
#include <tuple>
#include <unordered_map>

namespace convoy::ckpt {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t d = 0; d < shape.size(); ++d) text += (d > 0 ? ", " : "") + std::to_string(shape[d]);
  return text + "]";
}

std::vector<int64_t> dense_strides(const std::vector<int64_t>& extent) {
  std::vector<int64_t> strides(extent.size(), 1);
  for (size_t d = extent.size(); d > 1; --d) strides[d - 2] = strides[d - 1] * extent[d - 1];
  return strides;
}

// A part's pieces by tensor.
struct PartIndex {
  struct Place {
    uint32_t tensor, stream, piece;
    auto operator<=>(const Place&) const = default;
  };
  std::unordered_map<std::string_view, uint32_t> tensors;
  std::vector<Place> places;  // sorted

  explicit PartIndex(const Part& part) {
    for (uint32_t i = 0; i < part.tensors.size(); ++i) tensors.emplace(part.tensors[i].name, i);
    for (uint32_t s = 0; s < part.streams.size(); ++s) {
      const std::vector<StoredPiece>& pieces = part.streams[s].pieces;
      for (uint32_t p = 0; p < pieces.size(); ++p) places.push_back({pieces[p].tensor, s, p});
    }
    std::ranges::sort(places);
  }
};

// A box that the step holds, and where.
struct SourceBox {
  uint32_t stream = 0;  // of the plan
  uint64_t offset = 0;
  Box box;
};

class Planning {
 public:
  Planning(PartHomes& homes, const State& wanted, const LoadOptions& options, LoadReport& report)
      : homes_(homes), wanted_(wanted), options_(options), report_(report) {
    for (const TensorEntry& entry : homes.source().commit().tensors) {
      entries_.emplace(entry.info.name, &entry);
    }
  }

  Result<LoadPlan> run() {
    for (uint32_t t = 0; t < wanted_.size(); ++t) {
      CONVOY_RETURN_IF_ERROR(add_tensor(t).with_context("tensor " + wanted_[t].info.name));
    }
    report_.bytes_wanted = plan_.bytes_wanted;
    CONVOY_RETURN_IF_ERROR(missing());
    list_chunks();
    return std::move(plan_);
  }

 private:
  using Indexed = std::pair<PartHomes::Home, PartIndex>;

  Status add_tensor(uint32_t t) {
    const StateTensor& wanted = wanted_[t];
    plan_.elements.emplace_back();
    plan_.tensor_names.push_back(wanted.info.name);
    const auto found = entries_.find(wanted.info.name);
    if (found == entries_.end()) {
      report_.missing.push_back({wanted.info.name, ""});
      return ok_status();
    }
    const TensorInfo& saved = found->second->info;
    if (saved.shape != wanted.info.shape) {
      return {Code::kInvalidArgument,
              "it is saved with shape " + shape_text(saved.shape) + " and wanted with shape " +
                  shape_text(wanted.info.shape) + ", in " + homes_.source().name()};
    }
    CONVOY_ASSIGN_OR_RETURN(const Convert convert, converter(saved.dtype, wanted.info.dtype));
    plan_.elements[t] = {convert, dtype_bytes(saved.dtype), dtype_bytes(wanted.info.dtype)};
    if (wanted.boxes.empty()) return ok_status();
    CONVOY_ASSIGN_OR_RETURN(const std::vector<SourceBox> sources, source_boxes(*found->second));
    return add_moves(t, sources);
  }

  Result<Indexed*> indexed(uint32_t part) {
    if (const auto found = parts_.find(part); found != parts_.end()) return &found->second;
    CONVOY_ASSIGN_OR_RETURN(const PartHomes::Home home, homes_.home(part));
    return &parts_.emplace(part, Indexed{home, PartIndex(*home.part)}).first->second;
  }

  uint32_t stream_plan(uint32_t part, uint32_t stream, const Part& record) {
    const auto [at, added] = streams_.try_emplace({part, stream}, plan_.streams.size());
    if (added) plan_.streams.push_back({part, stream, &record.streams[stream], {}});
    return at->second;
  }

  // The distinct boxes of a tensor.
  Result<std::vector<SourceBox>> source_boxes(const TensorEntry& entry) {
    std::vector<SourceBox> boxes;
    std::set<Box> seen;
    for (const PartRun& run : entry.holders) {
      for (uint32_t p = run.first; p < run.first + run.count; ++p) {
        CONVOY_ASSIGN_OR_RETURN(Indexed * part, indexed(p));
        CONVOY_RETURN_IF_ERROR(add_boxes(p, *part, entry.info, seen, boxes));
      }
    }
    return boxes;
  }

  Status add_boxes(uint32_t p, const Indexed& part, const TensorInfo& info, std::set<Box>& seen,
                   std::vector<SourceBox>& boxes) {
    const auto& [home, index] = part;
    const auto tensor = index.tensors.find(info.name);
    if (tensor == index.tensors.end()) return ok_status();
    if (!(home.part->tensors[tensor->second] == info)) {
      return {Code::kDataLoss, "the commit record and the part of node " +
                                   std::to_string(home.part->node) +
                                   " disagree on its dtype or shape, in " + home.source->name()};
    }
    auto place = std::ranges::lower_bound(index.places, PartIndex::Place{tensor->second, 0, 0});
    for (; place != index.places.end() && place->tensor == tensor->second; ++place) {
      const StoredPiece& piece = home.part->streams[place->stream].pieces[place->piece];
      Box box{piece.begin, piece.extent};
      if (!seen.insert(box).second) continue;
      boxes.push_back({stream_plan(p, place->stream, *home.part), piece.offset, std::move(box)});
    }
    return ok_status();
  }

  Status add_moves(uint32_t t, const std::vector<SourceBox>& sources) {
    const StateTensor& wanted = wanted_[t];
    ReshardProblem problem;
    problem.shape = wanted.info.shape;
    problem.sources_are_ranks = false;
    for (const SourceBox& source : sources) {
      Piece piece{source.box.begin, source.box.extent, 0, dense_strides(source.box.extent)};
      problem.sources.push_back({static_cast<int>(problem.sources.size()), -1, {std::move(piece)}});
    }
    for (const StateBox& box : wanted.boxes) {
      problem.destinations.push_back({static_cast<int>(problem.destinations.size()),
                                      -1,
                                      {{box.begin, box.extent, 0, box.strides}}});
    }
    CONVOY_ASSIGN_OR_RETURN(const ReshardPlanner planner,
                            ReshardPlanner::create(std::move(problem)));
    for (size_t b = 0; b < wanted.boxes.size(); ++b) {
      const Result<DestinationPlan> part = planner.plan_for_destination(static_cast<int>(b));
      if (!part.ok() && part.status().code() != Code::kNotFound) return part.status();
      if (!part.ok()) {
        note_missing(wanted.info.name, wanted.boxes[b], sources);
        continue;
      }
      for (const Transfer& transfer : part->receives) {
        add_move(t, wanted.boxes[b], sources[static_cast<size_t>(transfer.src_rank)], transfer);
      }
    }
    return ok_status();
  }

  void add_move(uint32_t t, const StateBox& box, const SourceBox& source, const Transfer& in) {
    const Element& element = plan_.elements[t];
    Move move;
    move.from = source.offset + static_cast<uint64_t>(in.src_offset) * element.from_bytes;
    move.bytes = static_cast<uint64_t>(in.bytes) * element.from_bytes;
    move.count = static_cast<uint64_t>(in.count);
    move.stride = static_cast<uint64_t>(in.src_stride) * element.from_bytes;
    move.to = box.data + in.dst_offset * element.to_bytes;
    move.to_stride = in.dst_stride * element.to_bytes;
    move.tensor = t;
    CONVOY_CHECK(move.count == 1 || move.stride >= move.bytes, "runs of a dense box overlap");
    plan_.bytes_wanted += move.bytes * move.count;
    plan_.streams[source.stream].moves.push_back(move);
  }

  void note_missing(const std::string& name, const StateBox& box,
                    const std::vector<SourceBox>& sources) {
    std::vector<Box> left{{box.begin, box.extent}};
    for (const SourceBox& source : sources) {
      std::vector<Box> rest;
      for (const Box& part : left) {
        const std::optional<Box> common = intersect(part, source.box);
        if (common) {
          subtract(part, *common, rest);
        } else {
          rest.push_back(part);
        }
      }
      left = std::move(rest);
    }
    for (const Box& part : left) report_.missing.push_back({name, part.to_string()});
  }

  // An error for what is missing and may not be.
  Status missing() const {
    std::string text;
    size_t count = 0;
    for (const MissingTensor& m : report_.missing) {
      if (m.box.empty() && options_.skip_missing) continue;
      if (++count > kMissingNamedMax) continue;
      text += (count > 1 ? ", " : "") + m.name + (m.box.empty() ? "" : " " + m.box);
    }
    if (count == 0) return ok_status();
    if (count > kMissingNamedMax) {
      text += " and " + std::to_string(count - kMissingNamedMax) + " more";
    }
    return {Code::kNotFound, homes_.source().name() + " does not hold " + text +
                                 ". Nothing was read. Ask for what it holds" +
                                 (options_.skip_missing ? "." : ", or set skip_missing.")};
  }

  void list_chunks() {
    for (uint32_t s = 0; s < plan_.streams.size(); ++s) {
      StreamPlan& stream = plan_.streams[s];
      std::vector<std::pair<uint64_t, uint32_t>> uses;  // chunk, move
      for (uint32_t m = 0; m < stream.moves.size(); ++m) {
        mark(stream.moves[m], m, stream.record->chunk_bytes, uses);
      }
      std::ranges::sort(uses);
      for (const auto& [chunk, move] : uses) {
        if (plan_.chunks.empty() || plan_.chunks.back().stream != s ||
            plan_.chunks.back().id.chunk != chunk) {
          plan_.chunks.push_back({{stream.part, stream.stream, chunk}, s, 0, plan_.uses.size()});
        }
        ++plan_.chunks.back().uses;
        plan_.uses.push_back(move);
      }
    }
    std::ranges::stable_sort(plan_.chunks, [&](const ChunkWork& a, const ChunkWork& b) {
      const Chunk& x = plan_.chunk_of(a);
      const Chunk& y = plan_.chunk_of(b);
      return std::tie(a.id.part, x.file, x.offset) < std::tie(b.id.part, y.file, y.offset);
    });
  }

  // The chunks that hold bytes of the move, ascending.
  static void mark(const Move& move, uint32_t index, uint64_t chunk_bytes,
                   std::vector<std::pair<uint64_t, uint32_t>>& uses) {
    // Where runs begin at least once a chunk, no chunk between the first and the last is without.
    const bool everywhere = move.count == 1 || move.stride <= chunk_bytes;
    const uint64_t runs = everywhere ? 1 : move.count;
    const uint64_t span = everywhere ? (move.count - 1) * move.stride + move.bytes : move.bytes;
    uint64_t next = 0;  // the first chunk that is not marked yet
    for (uint64_t r = 0; r < runs; ++r) {
      const uint64_t begin = move.from + r * move.stride;
      const uint64_t last = (begin + span - 1) / chunk_bytes;
      for (uint64_t c = std::max(next, begin / chunk_bytes); c <= last; ++c) {
        uses.emplace_back(c, index);
      }
      next = last + 1;
    }
  }

  PartHomes& homes_;
  const State& wanted_;
  const LoadOptions& options_;
  LoadReport& report_;
  LoadPlan plan_;
  std::unordered_map<std::string_view, const TensorEntry*> entries_;
  std::map<uint32_t, Indexed> parts_;
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> streams_;
};

}  // namespace

std::byte* LoadPlan::dense_destination(const ChunkWork& work) const {
  if (work.uses != 1) return nullptr;
  const StreamPlan& stream = stream_of(work);
  const Move& move = stream.moves[uses[work.first_use]];
  if (elements[move.tensor].convert != nullptr) return nullptr;
  const uint64_t begin = work.id.chunk * stream.record->chunk_bytes;
  const uint64_t run = move.first_run(begin);
  const uint64_t at = move.from + run * move.stride;
  if (at > begin || at + move.bytes < begin + size_of(work)) return nullptr;
  return move.to + static_cast<ptrdiff_t>(run) * move.to_stride + (begin - at);
}

Result<LoadPlan> plan_load(PartHomes& homes, const State& wanted, const LoadOptions& options,
                           LoadReport& report) {
  CONVOY_RETURN_IF_ERROR(check(wanted));
  return Planning(homes, wanted, options, report).run();
}

}  // namespace convoy::ckpt
