#include "ckpt/formats/dcp_metadata.h"
#include "ckpt/formats/tensor_reader.h"
#include "ckpt/formats/torch_import.h"
#include "ckpt/formats/torch_write.h"
#include "ckpt/formats/work_folder.h"
#include <convoy/ckpt/torch_files.h>

#include <filesystem>
#include <map>
#include <memory>
#include <utility>

namespace convoy::ckpt {
namespace {

using Json = nlohmann::json;
constexpr uint64_t kValueBytesMax = uint64_t{256} << 20;
constexpr const char* kDataFile = "__0_0.distcp";
constexpr const char* kDcp = "torch.distributed.checkpoint.metadata";

// One tensor or value that is to be written.
struct Planned {
  const TensorEntry* entry = nullptr;
  bool is_value = false;
  std::string bytes;  // of a value: as it is stored
};

// Reads the step for both formats.
class Exporter {
 public:
  Exporter(Store& store, const Commit& commit, const TorchExport& options,
           const ByteProgress& progress)
      : commit_(commit), reader_(store, commit), options_(options), progress_(progress) {}

  Status choose();
  Status write_bytes(const TensorEntry& entry, TorchZipWriter& zip);
  // The value as Python's, into a pickle.
  Status write_value(const Planned& planned, PickleWriter& pickle);
  // How the name nests: texts and numbers.
  Json path_of(const std::string& name) const {
    const auto found = paths_.find(name);
    return found != paths_.end() && found->is_array() && !found->empty() ? *found
                                                                         : Json::array({name});
  }

  const std::vector<Planned>& planned() const { return planned_; }
  Exported finish(const std::string& file, uint64_t bytes);

 private:
  Result<std::string> read_value(const TensorEntry& entry);
  Status advance(uint64_t bytes);

  const Commit& commit_;
  TensorReader reader_;
  const TorchExport& options_;
  const ByteProgress& progress_;
  std::vector<Planned> planned_;
  Json paths_ = Json::object();
  uint64_t done_ = 0, total_ = 0;
};

Status Exporter::advance(uint64_t bytes) {
  done_ += bytes;
  return !progress_ || progress_(done_, total_) ? ok_status()
                                                : Status(Code::kAborted, "the export was stopped");
}

Result<std::string> Exporter::read_value(const TensorEntry& entry) {
  if (tensor_bytes(entry.info) > kValueBytesMax) {
    return Status(Code::kInvalidArgument,
                  entry.info.name + " has more bytes than an exported value may have.");
  }
  std::string bytes(tensor_bytes(entry.info), '\0');
  if (!bytes.empty())
    CONVOY_RETURN_IF_ERROR(reader_.read(entry, 0, std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

Status Exporter::choose() {
  for (const TensorEntry& entry : commit_.tensors) {
    const bool is_value = entry.info.dtype == Dtype::kBytes;
    const bool is_paths = entry.info.name == kPathsName && is_value;
    if (!is_paths && options_.want && !options_.want(entry.info.name)) continue;
    Planned planned{&entry, is_value, ""};
    if (is_value) {
      CONVOY_ASSIGN_OR_RETURN(planned.bytes, read_value(entry));
    }
    if (is_paths) {
      if (planned.bytes.starts_with(kValueMark))
        paths_ = Json::parse(planned.bytes.substr(kValueMark.size()), nullptr, false);
      continue;
    }
    total_ += tensor_bytes(entry.info);
    planned_.push_back(std::move(planned));
  }
  if (!planned_.empty()) return ok_status();
  return {Code::kInvalidArgument,
          "step " + std::to_string(commit_.step) +
              " has no tensor to export by that name; `convoy ckpt inspect` lists them."};
}

Status Exporter::write_bytes(const TensorEntry& entry, TorchZipWriter& zip) {
  const uint64_t element = dtype_bytes(entry.info.dtype);
  const int64_t count = tensor_elements(entry.info);
  const auto most = static_cast<int64_t>(kWindowBytes / element);
  std::vector<std::byte> buffer;
  for (int64_t first = 0; first < count; first += most) {
    buffer.resize(static_cast<uint64_t>(std::min(most, count - first)) * element);
    CONVOY_RETURN_IF_ERROR(reader_.read(entry, first, buffer));
    CONVOY_RETURN_IF_ERROR(zip.append(buffer));
    CONVOY_RETURN_IF_ERROR(advance(buffer.size()));
  }
  return ok_status();
}

Status Exporter::write_value(const Planned& planned, PickleWriter& pickle) {
  CONVOY_RETURN_IF_ERROR(advance(planned.bytes.size()));
  std::string text = planned.bytes;
  if (text.starts_with("PK\3\4")) {  // what DCP has pickled
    const std::string what = "value " + planned.entry->info.name;
    CONVOY_ASSIGN_OR_RETURN(TorchZip zip,
                            TorchZip::open(std::as_bytes(std::span(planned.bytes)), what));
    CONVOY_ASSIGN_OR_RETURN(std::vector<std::byte> bytes, zip.pickle());
    CONVOY_ASSIGN_OR_RETURN(const Pickle read, parse_pickle(std::move(bytes), what));
    CONVOY_ASSIGN_OR_RETURN(text, torch_value(read, read.root(), what));
  }
  const Json value = text.starts_with(kValueMark)
                         ? Json::parse(text.substr(kValueMark.size()), nullptr, false)
                         : Json(Json::value_t::discarded);
  if (value.is_discarded()) {
    pickle.bytes(planned.bytes);
    return ok_status();
  }
  return pickle.value(value).with_context(planned.entry->info.name);
}

Exported Exporter::finish(const std::string& file, uint64_t bytes) {
  Exported out;
  out.files.push_back({file, planned_.size(), bytes});
  out.tensors = planned_.size();
  out.bytes = done_;
  return out;
}

// ---- a state dict as Python nests it

struct Tree {
  // Text, a place in a list, or {"key": n}: as paths have them, in the order of their text.
  std::map<std::string, std::pair<Json, std::unique_ptr<Tree>>> inner;
  const Planned* leaf = nullptr;
};

Status insert(Tree& tree, const Json& path, const Planned& planned) {
  Tree* at = &tree;
  for (const Json& word : path) {
    if (at->leaf != nullptr) break;
    // Numbers sort as such.
    const std::string order =
        word.is_number_unsigned()
            ? std::string(20 - std::to_string(word.get<uint64_t>()).size(), ' ') + word.dump()
            : word.dump();
    auto& next = at->inner[order];
    next.first = word;
    if (next.second == nullptr) next.second = std::make_unique<Tree>();
    at = next.second.get();
  }
  if (at->leaf != nullptr || !at->inner.empty()) {
    return {Code::kInvalidArgument, "tensor " + planned.entry->info.name +
                                        " has the place of another one in the state dict."};
  }
  at->leaf = &planned;
  return ok_status();
}

bool is_list(const Tree& tree) {
  uint64_t next = 0;
  for (const auto& [order, inner] : tree.inner) {
    if (!inner.first.is_number_unsigned() || inner.first.get<uint64_t>() != next++) return false;
  }
  return next > 0;
}

Status write_tree(const Tree& tree, Exporter& exporter, PickleWriter& pickle,
                  std::vector<const TensorEntry*>& tensors) {
  if (tree.leaf != nullptr && tree.leaf->is_value) return exporter.write_value(*tree.leaf, pickle);
  if (tree.leaf != nullptr) {
    pickle.tensor(tree.leaf->entry->info, std::to_string(tensors.size()));
    tensors.push_back(tree.leaf->entry);
    return ok_status();
  }
  const bool list = is_list(tree);
  pickle.op(list ? ']' : '}');
  pickle.mark();
  for (const auto& [order, inner] : tree.inner) {
    const Json& word =
        inner.first.is_object() && inner.first.contains("key") ? inner.first["key"] : inner.first;
    if (!list) CONVOY_RETURN_IF_ERROR(pickle.value(word));
    CONVOY_RETURN_IF_ERROR(write_tree(*inner.second, exporter, pickle, tensors));
  }
  pickle.op(list ? 'e' : 'u');
  return ok_status();
}

// ---- DCP's .metadata

struct Place {
  uint64_t offset = 0, bytes = 0;
};

void begin_object(PickleWriter& pickle, std::string_view module, std::string_view name) {
  pickle.global(module, name);
  pickle.op(')');
  pickle.op('\x81');  // made without arguments
  pickle.op('}');
  pickle.mark();
}
void end_object(PickleWriter& pickle) {
  pickle.op('u');
  pickle.op('b');  // the dict becomes its state
}
void size(PickleWriter& pickle, std::span<const int64_t> numbers) {
  pickle.global("torch", "Size");
  pickle.mark();
  pickle.counts(numbers);
  pickle.tuple();
  pickle.reduce();
}

void write_properties(PickleWriter& pickle, Dtype dtype) {
  pickle.global(kDcp, "TensorProperties");
  pickle.op(')');
  pickle.op('\x81');
  pickle.mark();
  pickle.dtype(dtype);
  pickle.global("torch.serialization", "_get_layout");
  pickle.mark();
  pickle.text("torch.strided");
  pickle.tuple();
  pickle.reduce();
  pickle.boolean(false);
  pickle.global(kDcp, "_MEM_FORMAT_ENCODING");
  pickle.mark();
  pickle.integer(0);
  pickle.tuple();
  pickle.reduce();
  pickle.boolean(false);
  pickle.tuple();
  pickle.op('b');
}

void write_item(PickleWriter& pickle, const Planned& planned) {
  const std::vector<int64_t>& shape = planned.entry->info.shape;
  const std::vector<int64_t> zeros(shape.size(), 0);
  begin_object(pickle, kDcp, planned.is_value ? "BytesStorageMetadata" : "TensorStorageMetadata");
  if (!planned.is_value) {
    pickle.text("properties");
    write_properties(pickle, planned.entry->info.dtype);
    pickle.text("size");
    size(pickle, shape);
    pickle.text("chunks");
    pickle.op(']');
    begin_object(pickle, kDcp, "ChunkStorageMetadata");
    pickle.text("offsets");
    size(pickle, zeros);
    pickle.text("sizes");
    size(pickle, shape);
    end_object(pickle);
    pickle.op('a');
  }
  end_object(pickle);
}

void write_place(PickleWriter& pickle, const Planned& planned, const Place& place) {
  begin_object(pickle, kDcp, "MetadataIndex");
  pickle.text("fqn");
  pickle.text(planned.entry->info.name);
  if (!planned.is_value) {
    pickle.text("offset");
    size(pickle, std::vector<int64_t>(planned.entry->info.shape.size(), 0));
  }
  pickle.text("index");
  planned.is_value ? pickle.none() : pickle.integer(0);
  end_object(pickle);
  begin_object(pickle, "torch.distributed.checkpoint.filesystem", "_StorageInfo");
  pickle.text("relative_path");
  pickle.text(kDataFile);
  pickle.text("offset");
  pickle.integer(static_cast<int64_t>(place.offset));
  pickle.text("length");
  pickle.integer(static_cast<int64_t>(place.bytes));
  end_object(pickle);
}

Result<std::string> dcp_metadata(const Exporter& exporter, const std::vector<Place>& places) {
  PickleWriter pickle;
  begin_object(pickle, kDcp, "Metadata");
  pickle.text("state_dict_metadata");
  pickle.op('}');
  pickle.mark();
  for (const Planned& planned : exporter.planned()) {
    pickle.text(planned.entry->info.name);
    write_item(pickle, planned);
  }
  pickle.op('u');
  pickle.text("planner_data");
  pickle.op('}');
  pickle.mark();
  for (const Planned& planned : exporter.planned()) {
    pickle.text(planned.entry->info.name);
    pickle.mark();
    for (const Json& word : exporter.path_of(planned.entry->info.name)) {
      CONVOY_RETURN_IF_ERROR(
          pickle.value(word.is_object() && word.contains("key") ? word["key"] : word));
    }
    pickle.tuple();
  }
  pickle.op('u');
  pickle.text("storage_data");
  pickle.op('}');
  pickle.mark();
  for (size_t i = 0; i < places.size(); ++i) write_place(pickle, exporter.planned()[i], places[i]);
  pickle.op('u');
  pickle.text("storage_meta");
  pickle.none();
  pickle.text("version");
  pickle.text("1.0.0");
  end_object(pickle);
  return std::move(pickle).finish();
}

// One item of a .distcp file: a zip file of its own.
Status write_dcp_item(const Planned& planned, Exporter& exporter, AtomicFile& file) {
  if (planned.is_value && planned.bytes.starts_with("PK\3\4"))
    return file.append(std::as_bytes(std::span(planned.bytes)));
  TorchZipWriter zip(file);
  PickleWriter pickle;
  if (planned.is_value) {
    CONVOY_RETURN_IF_ERROR(exporter.write_value(planned, pickle));
  } else {
    pickle.tensor(planned.entry->info, "0");
  }
  CONVOY_RETURN_IF_ERROR(zip.record("archive/data.pkl", std::move(pickle).finish()));
  if (!planned.is_value) {
    CONVOY_RETURN_IF_ERROR(zip.begin("archive/data/0", tensor_bytes(planned.entry->info)));
    CONVOY_RETURN_IF_ERROR(exporter.write_bytes(*planned.entry, zip));
    CONVOY_RETURN_IF_ERROR(zip.end());
  }
  return zip.finish();
}

bool is_ours(const std::string& name) {
  return name == kDataFile || name == kDcpMetadataName ||
         name.starts_with(std::string(".") + kDataFile) ||
         name.starts_with(std::string(".") + kDcpMetadataName);
}

}  // namespace

Result<Exported> export_torch(Store& store, const Commit& commit, const TorchExport& options,
                              const ByteProgress& progress) {
  std::error_code error;
  if (std::filesystem::exists(std::filesystem::symlink_status(options.path, error))) {
    return Status(Code::kInvalidArgument, options.path + " is there already; give a new file.");
  }
  Exporter exporter(store, commit, options, progress);
  CONVOY_RETURN_IF_ERROR(exporter.choose());
  Tree tree;
  for (const Planned& planned : exporter.planned()) {
    CONVOY_RETURN_IF_ERROR(insert(tree, exporter.path_of(planned.entry->info.name), planned));
  }
  CONVOY_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(options.path));
  TorchZipWriter zip(file);
  PickleWriter pickle;
  std::vector<const TensorEntry*> tensors;
  CONVOY_RETURN_IF_ERROR(write_tree(tree, exporter, pickle, tensors));
  CONVOY_RETURN_IF_ERROR(zip.record("archive/data.pkl", std::move(pickle).finish()));
  for (size_t i = 0; i < tensors.size(); ++i) {
    CONVOY_RETURN_IF_ERROR(
        zip.begin("archive/data/" + std::to_string(i), tensor_bytes(tensors[i]->info)));
    CONVOY_RETURN_IF_ERROR(exporter.write_bytes(*tensors[i], zip));
    CONVOY_RETURN_IF_ERROR(zip.end());
  }
  CONVOY_RETURN_IF_ERROR(zip.finish());
  const uint64_t bytes = file.size();
  CONVOY_RETURN_IF_ERROR(file.commit());
  return exporter.finish(std::filesystem::path(options.path).filename().string(), bytes);
}

Result<Exported> export_dcp(Store& store, const Commit& commit, const TorchExport& options,
                            const ByteProgress& progress) {
  Exporter exporter(store, commit, options, progress);
  CONVOY_RETURN_IF_ERROR(exporter.choose());
  CONVOY_ASSIGN_OR_RETURN(WorkFolder work, WorkFolder::create(options.path, is_ours));
  CONVOY_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(work.path() + "/" + kDataFile));
  std::vector<Place> places;
  for (const Planned& planned : exporter.planned()) {
    const uint64_t offset = file.size();
    CONVOY_RETURN_IF_ERROR(write_dcp_item(planned, exporter, file));
    places.push_back({offset, file.size() - offset});
  }
  const uint64_t bytes = file.size();
  CONVOY_RETURN_IF_ERROR(file.commit());
  CONVOY_ASSIGN_OR_RETURN(const std::string metadata, dcp_metadata(exporter, places));
  CONVOY_ASSIGN_OR_RETURN(AtomicFile index,
                          AtomicFile::create(work.path() + "/" + kDcpMetadataName));
  CONVOY_RETURN_IF_ERROR(index.append(std::as_bytes(std::span(metadata))));
  CONVOY_RETURN_IF_ERROR(index.commit());
  CONVOY_RETURN_IF_ERROR(work.finish());
  return exporter.finish(kDataFile, bytes);
}

}  // namespace convoy::ckpt
