// libFuzzer target: no bytes, however made, may crash a decoder or make it return a record that
// breaks a rule: what is accepted can be encoded and comes back equal. The first byte chooses the
// kind, and whether the rest is a whole file or a payload that gets a right frame, as the fuzzer
// would never guess a checksum.
#include "ckpt/manifest/frame.h"
#include <convoy/base/check.h>
#include <convoy/ckpt/records.h>

#include <cstdint>

namespace convoy::ckpt {
namespace {

template <class Record>
void round_trip(const Result<Record>& record,
                Result<Record> (*decode)(std::span<const std::byte>, const std::string&)) {
  if (!record.ok()) return;
  const auto bytes = encode(*record);
  CONVOY_CHECK(bytes.ok(), bytes.status().to_string());
  const Result<Record> again = decode(*bytes, "again");
  CONVOY_CHECK(again.ok(), again.status().to_string());
  CONVOY_CHECK(*again == *record, "a record changed on its way");
}

}  // namespace
}  // namespace convoy::ckpt

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace convoy::ckpt;
  if (size < 1) return 0;
  const auto kind = static_cast<RecordKind>(1 + data[0] % 3);
  const std::span rest(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  const std::vector<std::byte> bytes = (data[0] & 4) != 0
                                           ? std::vector<std::byte>(rest.begin(), rest.end())
                                           : wrap(kind, kFormatVersion, rest);
  if (kind == RecordKind::kPart) round_trip(decode_part(bytes, "fuzz"), &decode_part);
  if (kind == RecordKind::kCommit) round_trip(decode_commit(bytes, "fuzz"), &decode_commit);
  if (kind == RecordKind::kOwner) round_trip(decode_owner(bytes, "fuzz"), &decode_owner);
  return 0;
}
