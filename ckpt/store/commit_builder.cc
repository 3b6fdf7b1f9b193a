// Gathers what parts say into one commit record.
#include "ckpt/store/names.h"
#include <convoy/ckpt/catalog.h>

#include <algorithm>

namespace convoy::ckpt {

Status CommitBuilder::add(const PartRef& ref, const Part& part) {
  if (part.step != commit_.step) {
    return {Code::kInvalidArgument, "part " + ref.path + " is of step " +
                                        std::to_string(part.step) + ", not of step " +
                                        std::to_string(commit_.step) + "."};
  }
  for (const File& file : part.files) {
    const auto key = parse_data(file.path);
    if (!key) {
      return {Code::kInvalidArgument, "part " + ref.path + " names file " + file.path +
                                          ", which lies in no step's folder. Name data files by "
                                          "Catalog::data_path()."};
    }
    steps_.insert(key->step);
  }
  std::vector<bool> held(part.tensors.size());
  for (const Stream& stream : part.streams) {
    for (const StoredPiece& piece : stream.pieces) {
      CONVOY_CHECK(piece.tensor < held.size(), "a part whose piece names no tensor");
      held[piece.tensor] = true;
    }
  }
  for (size_t i = 0; i < part.tensors.size(); ++i) {
    const TensorInfo& tensor = part.tensors[i];
    Known& known = tensors_.try_emplace(tensor.name, Known{tensor, part.node, {}}).first->second;
    if (!(known.info == tensor)) {
      return {Code::kMismatch, "nodes " + std::to_string(known.node) + " and " +
                                   std::to_string(part.node) + " disagree on tensor " +
                                   tensor.name + " of step " + std::to_string(part.step) +
                                   ": its dtype or global shape differs."};
    }
    if (held[i]) known.parts.push_back(static_cast<uint32_t>(commit_.parts.size()));
  }
  commit_.parts.push_back(ref);
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
