// libzip knows the format; here is what torch makes of it: one folder, nothing compressed.
#include "ckpt/formats/torch_zip.h"

#include "ckpt/formats/pickle.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <zip.h>

namespace convoy::ckpt {

struct TorchZip::Impl {
  std::string what;
  zip_t* zip = nullptr;
  std::string folder;  // "archive"
  // The record that was read last, and where it stands.
  std::string name;
  zip_file_t* file = nullptr;
  uint64_t at = 0;

  ~Impl() {
    if (file != nullptr) zip_fclose(file);
    if (zip != nullptr) zip_discard(zip);
  }
  Status bad(const std::string& text) const {
    return {Code::kDataLoss, what + " is no file of torch.save(): " + text + "."};
  }
  Result<uint64_t> stored_size(const std::string& record) const;
  Status read(const std::string& record, uint64_t offset, std::span<std::byte> out);
};

namespace {

zip_t* open_source(zip_source_t* source, zip_error_t& error) {
  if (source == nullptr) return nullptr;
  zip_t* zip = zip_open_from_source(source, ZIP_RDONLY, &error);
  if (zip == nullptr) zip_source_free(source);
  return zip;
}

std::string text_of(zip_error_t& error) {
  std::string text = zip_error_strerror(&error);
  zip_error_fini(&error);
  return text;
}

}  // namespace

TorchZip::TorchZip(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TorchZip::TorchZip(TorchZip&&) noexcept = default;
TorchZip& TorchZip::operator=(TorchZip&&) noexcept = default;
TorchZip::~TorchZip() = default;
const std::string& TorchZip::what() const {
  return impl_->what;
}

Result<TorchZip> TorchZip::open(const std::string& path, uint64_t offset, uint64_t bytes,
                                const std::string& what) {
  auto impl = std::make_unique<Impl>();
  impl->what = what;
  std::FILE* file = std::fopen(path.c_str(), "rbe");
  if (file == nullptr) return errno_status("cannot open " + path, errno);
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source =
      zip_source_filep_create(file, offset, bytes > 0 ? static_cast<int64_t>(bytes) : -1, &error);
  if (source == nullptr) std::fclose(file);
  impl->zip = open_source(source, error);
  const std::string text = text_of(error);
  if (impl->zip == nullptr) return impl->bad(text);
  return use(std::move(impl));
}

Result<TorchZip> TorchZip::open(std::span<const std::byte> bytes, const std::string& what) {
  auto impl = std::make_unique<Impl>();
  impl->what = what;
  zip_error_t error;
  zip_error_init(&error);
  impl->zip = open_source(zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error), error);
  const std::string text = text_of(error);
  if (impl->zip == nullptr) return impl->bad(text);
  return use(std::move(impl));
}

Result<TorchZip> TorchZip::use(std::unique_ptr<Impl> impl) {
  constexpr std::string_view kPickle = "/data.pkl";
  const int64_t entries = zip_get_num_entries(impl->zip, 0);
  for (int64_t i = 0; i < entries && impl->folder.empty(); ++i) {
    const char* name = zip_get_name(impl->zip, static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW);
    const std::string_view text = name != nullptr ? name : "";
    if (text.ends_with(kPickle)) impl->folder = text.substr(0, text.size() - kPickle.size());
  }
  if (impl->folder.empty()) return impl->bad("it has no data.pkl");
  std::string order = "little";
  const std::string record = impl->folder + "/byteorder";
  if (zip_name_locate(impl->zip, record.c_str(), ZIP_FL_ENC_RAW) >= 0) {
    CONVOY_ASSIGN_OR_RETURN(const uint64_t size, impl->stored_size(record));
    order.assign(std::min<uint64_t>(size, 16), ' ');
    CONVOY_RETURN_IF_ERROR(impl->read(record, 0, std::as_writable_bytes(std::span(order))));
  }
  if (order != "little") {
    return Status(
        Code::kInvalidArgument,
        impl->what +
            " was made on a machine of another byte order; save it on a little-endian one.");
  }
  return TorchZip(std::move(impl));
}

Result<uint64_t> TorchZip::Impl::stored_size(const std::string& record) const {
  zip_stat_t info;
  if (zip_stat(zip, record.c_str(), ZIP_FL_ENC_RAW, &info) != 0)
    return bad("it has no record " + record);
  constexpr zip_uint64_t kNeeded =
      ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
  if ((info.valid & kNeeded) != kNeeded || info.comp_method != ZIP_CM_STORE ||
      info.encryption_method != ZIP_EM_NONE) {
    return bad("its record " + record + " is compressed or encrypted");
  }
  return info.size;
}

Status TorchZip::Impl::read(const std::string& record, uint64_t offset, std::span<std::byte> out) {
  if (file == nullptr || name != record || at > offset) {
    if (file != nullptr) zip_fclose(file);
    name = record;
    at = 0;
    file = zip_fopen(zip, record.c_str(), ZIP_FL_ENC_RAW);
    if (file == nullptr) return bad("its record " + record + " can't be read");
  }
  if (at != offset) {
    if (zip_fseek(file, static_cast<int64_t>(offset), SEEK_SET) != 0)
      return bad("its record " + record + " ends too early");
    at = offset;
  }
  while (!out.empty()) {
    const int64_t n = zip_fread(file, out.data(), out.size());
    if (n <= 0)
      return bad("its record " + record + " is cut or damaged at byte " + std::to_string(at));
    out = out.subspan(static_cast<size_t>(n));
    at += static_cast<uint64_t>(n);
  }
  return ok_status();
}

Result<uint64_t> TorchZip::size_of(std::string_view key) const {
  return impl_->stored_size(impl_->folder + "/data/" + std::string(key));
}

Status TorchZip::read(std::string_view key, uint64_t offset, std::span<std::byte> out) {
  return impl_->read(impl_->folder + "/data/" + std::string(key), offset, out);
}

Result<std::vector<std::byte>> TorchZip::pickle() {
  const std::string record = impl_->folder + "/data.pkl";
  CONVOY_ASSIGN_OR_RETURN(const uint64_t size, impl_->stored_size(record));
  if (size > kPickleBytesMax) return impl_->bad("its data.pkl is too large");
  std::vector<std::byte> out;
  // What the directory says may be a lie: memory follows what is there.
  constexpr uint64_t kStep = uint64_t{1} << 20;
  for (uint64_t at = 0; at < size; at = out.size()) {
    out.resize(at + std::min(kStep, size - at));
    CONVOY_RETURN_IF_ERROR(impl_->read(record, at, std::span(out).subspan(at)));
  }
  return out;
}

}  // namespace convoy::ckpt
