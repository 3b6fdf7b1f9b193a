// Gathers what parts say into one commit record.
#include "ckpt/store/names.h"
#include <convoy/ckpt/catalog.h>

#include <algorithm>
#include <set>

namespace convoy::ckpt {

Result<PartSummary> summarise(const PartRef& ref, const Part& part) {
  PartSummary out{part.step, ref, part.tensors, std::vector<bool>(part.tensors.size()), {}, {}};
  std::set<uint64_t> steps;
  for (const File& file : part.files) {
    const auto key = parse_data(file.path);
    if (!key) {
      return Status(Code::kInvalidArgument, "part " + ref.path + " names file " + file.path +
                                                ", which lies in no step's folder. Name data "
                                                "files by Catalog::data_path().");
    }
    steps.insert(key->step);
    if (key->step == part.step) out.files.push_back(file);
  }
  out.steps.assign(steps.begin(), steps.end());
  for (const Stream& stream : part.streams) {
    for (const StoredPiece& piece : stream.pieces) {
      CONVOY_CHECK(piece.tensor < out.held.size(), "a part whose piece names no tensor");
      out.held[piece.tensor] = true;
    }
  }
  return out;
}

Status CommitBuilder::add(const PartRef& ref, const Part& part) {
  CONVOY_ASSIGN_OR_RETURN(const PartSummary summary, summarise(ref, part));
  return add(summary);
}

Status CommitBuilder::add(const PartSummary& part) {
  if (part.step != commit_.step) {
    return {Code::kInvalidArgument, "part " + part.ref.path + " is of step " +
                                        std::to_string(part.step) + ", not of step " +
                                        std::to_string(commit_.step) + "."};
  }
  steps_.insert(part.steps.begin(), part.steps.end());
  for (size_t i = 0; i < part.tensors.size(); ++i) {
    const TensorInfo& tensor = part.tensors[i];
    Known& known =
        tensors_.try_emplace(tensor.name, Known{tensor, part.ref.node, {}}).first->second;
    if (!(known.info == tensor)) {
      const auto [first, second] = std::minmax(known.node, part.ref.node);
      return {Code::kMismatch, "nodes " + std::to_string(first) + " and " + std::to_string(second) +
                                   " disagree on tensor " + tensor.name + " of step " +
                                   std::to_string(part.step) +
                                   ": its dtype or global shape differs."};
    }
    if (part.held[i]) known.parts.push_back(static_cast<uint32_t>(commit_.parts.size()));
  }
  commit_.parts.push_back(part.ref);
  return ok_status();
}

Commit CommitBuilder::finish() && {
  // Parts in the order of their nodes, whatever order they came in.
  std::vector<uint32_t> order(commit_.parts.size());
  for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
  std::ranges::sort(order, [&](uint32_t a, uint32_t b) {
    return std::pair(commit_.parts[a].node, commit_.parts[a].path) <
           std::pair(commit_.parts[b].node, commit_.parts[b].path);
  });
  std::vector<uint32_t> place(order.size());
  std::vector<PartRef> parts;
  for (uint32_t i = 0; i < order.size(); ++i) {
    place[order[i]] = i;
    parts.push_back(std::move(commit_.parts[order[i]]));
  }
  commit_.parts = std::move(parts);
  for (auto& [name, known] : tensors_) {
    for (uint32_t& part : known.parts) part = place[part];
    std::ranges::sort(known.parts);
    TensorEntry& entry = commit_.tensors.emplace_back(TensorEntry{std::move(known.info), {}});
    for (const uint32_t part : known.parts) {
      if (!entry.holders.empty() &&
          entry.holders.back().first + entry.holders.back().count == part) {
        ++entry.holders.back().count;
      } else {
        entry.holders.push_back({part, 1});
      }
    }
  }
  steps_.insert(commit_.step);  // the parts' own
  commit_.steps.assign(steps_.begin(), steps_.end());
  return std::move(commit_);
}

}  // namespace convoy::ckpt
