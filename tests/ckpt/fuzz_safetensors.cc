// libFuzzer target: no bytes, however made, may crash the readers of safetensors headers and
// indexes or make them accept tensors that lie outside of the file; what is accepted comes back the
// same when it is written. The first byte chooses: a whole file, a header that gets a right length
// and a data size of the input's own, or an index.
#include <convoy/base/check.h>
#include <convoy/ckpt/safetensors.h>

#include <algorithm>
#include <cstring>

namespace {

using namespace convoy::ckpt;

void check_header(std::span<const std::byte> bytes, uint64_t file_bytes) {
  const auto header = parse_safetensors_header(bytes, file_bytes, "fuzz");
  if (!header.ok()) return;
  std::vector<TensorInfo> infos;
  uint64_t at = 0;
  for (const SafetensorsTensor& tensor : header->tensors) {
    CONVOY_CHECK(tensor.begin == at && tensor.end >= at, "tensors are not dense");
    at = tensor.end;
    infos.push_back(tensor.info);
  }
  CONVOY_CHECK(header->data_offset + at == file_bytes, "tensors do not end with the file");
  const auto again = encode_safetensors_header(infos, header->metadata);
  CONVOY_CHECK(again.ok(), again.status().to_string());
  const auto parsed = parse_safetensors_header(*again, again->size() + at, "again");
  CONVOY_CHECK(parsed.ok(), parsed.status().to_string());
  CONVOY_CHECK(parsed->metadata == header->metadata, "metadata changed on its way");
  CONVOY_CHECK(parsed->tensors.size() == infos.size(), "tensors were lost");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::span rest(reinterpret_cast<const std::byte*>(data) + 2, size - 2);
  if (data[0] % 4 == 0) {
    check_header(rest, rest.size());
  } else if (data[0] % 4 == 1) {
    (void)parse_safetensors_index(rest, "fuzz").ok();
  } else {
    std::vector<std::byte> bytes(8 + rest.size());
    for (size_t i = 0; i < 8; ++i)
      bytes[i] = static_cast<std::byte>(uint64_t{rest.size()} >> (8 * i));
    std::ranges::copy(rest, bytes.begin() + 8);
    check_header(bytes, bytes.size() + data[1]);
  }
  return 0;
}
