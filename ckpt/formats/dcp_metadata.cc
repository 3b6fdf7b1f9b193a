#include "ckpt/formats/dcp_metadata.h"

#include "ckpt/formats/tensor_reader.h"
#include "ckpt/formats/torch_values.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace convoy::ckpt {
namespace {

constexpr std::string_view kMetadata = "torch.distributed.checkpoint.metadata ";

class Reader {
 public:
  Reader(const Pickle& pickle, const std::string& what) : pickle_(pickle), what_(what) {}
  Result<DcpMetadata> read();

 private:
  Status bad(const std::string& text) const { return {Code::kDataLoss, what_ + ": " + text + "."}; }
  bool is(PickleId id, std::string_view name) const {
    return pickle_.is_call(id, std::string(kMetadata) + std::string(name));
  }
  bool counts(PickleId id, std::vector<int64_t>& out) const;
  bool number(PickleId id, uint64_t& out) const {
    if (id == kNoPickle || pickle_[id].kind != PickleKind::kInt || pickle_[id].number < 0)
      return false;
    out = static_cast<uint64_t>(pickle_[id].number);
    return true;
  }
  Status read_places();
  Status read_tensor(const std::string& name, PickleId id, DcpTensor& out);
  Status read_chunk(const DcpTensor& tensor, PickleId id, DcpItem& out);
  Status place(const std::string& name, DcpItem& item);
  Status read_paths(DcpMetadata& out);

  const Pickle& pickle_;
  const std::string& what_;
  using Key = std::pair<std::string, std::vector<int64_t>>;
  std::map<Key, PickleId> places_;
};

bool Reader::counts(PickleId id, std::vector<int64_t>& out) const {
  if (pickle_.is_call(id, "torch Size")) {
    const auto& arguments = pickle_[pickle_[id].arguments].items;
    id = arguments.size() == 1 ? arguments[0] : kNoPickle;
  }
  if (id == kNoPickle || pickle_[id].kind != PickleKind::kTuple ||
      pickle_[id].items.size() > kDimsMax)
    return false;
  out.clear();
  for (const PickleId item : pickle_[id].items) {
    uint64_t count = 0;
    if (!number(item, count)) return false;
    out.push_back(static_cast<int64_t>(count));
  }
  return true;
}

// storage_data: {MetadataIndex(fqn, offset): _StorageInfo}
Status Reader::read_places() {
  const PickleId id = pickle_.find(pickle_.root(), "storage_data");
  if (id == kNoPickle || pickle_[id].kind != PickleKind::kDict)
    return bad("it has no storage_data");
  const auto& items = pickle_[id].items;
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    const PickleId name = pickle_.find(items[i], "fqn");
    if (!is(items[i], "MetadataIndex") || name == kNoPickle ||
        pickle_[name].kind != PickleKind::kText) {
      return bad("an entry of storage_data has no name");
    }
    Key key{std::string(pickle_[name].text), {}};
    const PickleId offset = pickle_.find(items[i], "offset");
    if (offset != kNoPickle && pickle_[offset].kind != PickleKind::kNone &&
        !counts(offset, key.second)) {
      return bad("an entry of storage_data has no offset");
    }
    places_[std::move(key)] = items[i + 1];
  }
  return ok_status();
}

Status Reader::place(const std::string& name, DcpItem& item) {
  const auto found = places_.find(Key{name, item.begin});
  if (found == places_.end()) return bad(name + " is not in storage_data");
  const PickleId info = found->second;
  const PickleId file = pickle_.find(info, "relative_path");
  if (!pickle_.is_call(info, "torch.distributed.checkpoint.filesystem _StorageInfo") ||
      file == kNoPickle || pickle_[file].kind != PickleKind::kText ||
      !number(pickle_.find(info, "offset"), item.offset) ||
      !number(pickle_.find(info, "length"), item.bytes) || item.bytes == 0) {
    return bad("the place of " + name + " is no file, offset and length");
  }
  const PickleId transforms = pickle_.find(info, "transform_descriptors");
  if (transforms != kNoPickle && pickle_[transforms].kind != PickleKind::kNone &&
      !pickle_[transforms].items.empty()) {
    return {Code::kInvalidArgument,
            what_ + ": " + name + " was written through an extension of DCP, which is not known."};
  }
  item.file = pickle_[file].text;
  const Status inside = check_path(item.file);
  return inside.ok() ? inside : bad("the file of " + name + " is not in the folder");
}

Status Reader::read_chunk(const DcpTensor& tensor, PickleId id, DcpItem& out) {
  const std::vector<int64_t>& shape = tensor.info.shape;
  if (!is(id, "ChunkStorageMetadata") || !counts(pickle_.find(id, "offsets"), out.begin) ||
      !counts(pickle_.find(id, "sizes"), out.extent) || out.begin.size() != shape.size() ||
      out.extent.size() != shape.size()) {
    return bad(tensor.info.name + " has a chunk without offsets and sizes");
  }
  for (size_t d = 0; d < shape.size(); ++d) {
    if (out.begin[d] > shape[d] || out.extent[d] > shape[d] - out.begin[d])
      return bad(tensor.info.name + " has a chunk outside of it");
  }
  return ok_status();
}

Status Reader::read_tensor(const std::string& name, PickleId id, DcpTensor& out) {
  out.info = {name, Dtype::kBytes, {}};
  if (is(id, "BytesStorageMetadata")) return place(name, out.items.emplace_back());
  if (!is(id, "TensorStorageMetadata")) return bad(name + " is neither a tensor nor a value");
  const PickleId properties = pickle_.find(id, "properties");
  const PickleId chunks = pickle_.find(id, "chunks");
  if (properties == kNoPickle || chunks == kNoPickle || pickle_[chunks].kind != PickleKind::kList ||
      !counts(pickle_.find(id, "size"), out.info.shape)) {
    return bad(name + " has no size or no chunks");
  }
  // TensorProperties.__getstate__() is a tuple that begins with the dtype.
  const PickleId state = pickle_[properties].state;
  const PickleId dtype = state != kNoPickle && pickle_[state].kind == PickleKind::kTuple &&
                                 !pickle_[state].items.empty()
                             ? pickle_[state].items[0]
                             : kNoPickle;
  if (dtype == kNoPickle || pickle_[dtype].kind != PickleKind::kGlobal)
    return bad(name + " has no dtype");
  CONVOY_ASSIGN_OR_RETURN(out.info.dtype, torch_dtype(pickle_[dtype].text, what_ + ": " + name));
  uint64_t covered = 0;
  for (const PickleId chunk : pickle_[chunks].items) {
    DcpItem item;
    CONVOY_RETURN_IF_ERROR(read_chunk(out, chunk, item));
    if (std::ranges::find(item.extent, 0) != item.extent.end()) continue;
    covered += static_cast<uint64_t>(tensor_elements({"", Dtype::kInt8, item.extent}));
    CONVOY_RETURN_IF_ERROR(place(name, item));
    out.items.push_back(std::move(item));
  }
  if (covered < static_cast<uint64_t>(tensor_elements(out.info)))
    return bad("chunks of " + name + " are missing");
  return ok_status();
}

// planner_data: {fqn: ("model", "layers", 0)}
Status Reader::read_paths(DcpMetadata& out) {
  const PickleId id = pickle_.find(pickle_.root(), "planner_data");
  if (id == kNoPickle || pickle_[id].kind != PickleKind::kDict) return ok_status();
  const auto& items = pickle_[id].items;
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    const PickleNode& path = pickle_[items[i + 1]];
    nlohmann::json words = nlohmann::json::array();
    bool plain = pickle_[items[i]].kind == PickleKind::kText && path.kind == PickleKind::kTuple &&
                 path.items.size() <= kPickleDepthMax;
    for (size_t k = 0; plain && k < path.items.size(); ++k) {
      const PickleNode& word = pickle_[path.items[k]];
      plain = word.kind == PickleKind::kText || word.kind == PickleKind::kInt;
      if (word.kind == PickleKind::kInt) {
        words.push_back(word.number);
      } else {
        words.push_back(std::string(word.text));
      }
    }
    if (!plain) return bad("planner_data has an entry that is no list of keys");
    out.paths[std::string(pickle_[items[i]].text)] =
        words.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  }
  return ok_status();
}

Result<DcpMetadata> Reader::read() {
  if (!is(pickle_.root(), "Metadata"))
    return bad("it holds no Metadata of torch.distributed.checkpoint");
  CONVOY_RETURN_IF_ERROR(read_places());
  const PickleId id = pickle_.find(pickle_.root(), "state_dict_metadata");
  if (id == kNoPickle || pickle_[id].kind != PickleKind::kDict)
    return bad("it has no state_dict_metadata");
  const auto& items = pickle_[id].items;
  if (items.size() / 2 > kTensorsMax) return bad("it has too many tensors");
  DcpMetadata out;
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    const PickleNode& name = pickle_[items[i]];
    if (name.kind != PickleKind::kText || name.text.empty() || name.text.size() > kNameBytesMax ||
        name.text.find('\0') != std::string_view::npos) {
      return bad("a name is no text, too long or has a NUL");
    }
    CONVOY_RETURN_IF_ERROR(
        read_tensor(std::string(name.text), items[i + 1], out.tensors.emplace_back()));
  }
  CONVOY_RETURN_IF_ERROR(read_paths(out));
  return out;
}

}  // namespace

Result<DcpMetadata> parse_dcp_metadata(std::vector<std::byte> bytes, const std::string& what) {
  CONVOY_ASSIGN_OR_RETURN(const Pickle pickle, parse_pickle(std::move(bytes), what));
  return Reader(pickle, what).read();
}

}  // namespace convoy::ckpt
