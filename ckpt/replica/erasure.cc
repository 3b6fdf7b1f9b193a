#include "ckpt/replica/erasure.h"

#include <convoy/base/check.h>

#include <algorithm>
#include <climits>
#include <isa-l/erasure_code.h>

namespace convoy::ckpt {
namespace {

constexpr size_t kTableBytes = 32;  // isa-l's, for one coefficient

// isa-l takes pointers without const, and reads only.
unsigned char* plain(const std::byte* at) {
  return reinterpret_cast<unsigned char*>(const_cast<std::byte*>(at));
}

}  // namespace

ErasureCode::ErasureCode(const ReplicaScheme& scheme)
    : scheme_(scheme),
      matrix_(size_t{scheme.pieces()} * scheme.k),
      tables_(kTableBytes * scheme.k * scheme.m) {
  CONVOY_CHECK(scheme.k >= 1 && scheme.pieces() <= kReplicaPiecesMax,
               "an erasure code out of range");
  ::gf_gen_cauchy1_matrix(matrix_.data(), static_cast<int>(scheme.pieces()),
                          static_cast<int>(scheme.k));
  if (scheme.m == 0) return;
  // One data piece: its copies, so that every piece is the snapshot itself.
  if (scheme.k == 1) matrix_.assign(matrix_.size(), 1);
  ::ec_init_tables(static_cast<int>(scheme.k), static_cast<int>(scheme.m),
                   matrix_.data() + size_t{scheme.k} * scheme.k, tables_.data());
}

void ErasureCode::encode(std::span<const std::byte* const> data, std::span<std::byte* const> parity,
                         size_t bytes) const {
  CONVOY_CHECK(data.size() == scheme_.k && parity.size() == scheme_.m && bytes <= INT_MAX,
               "an erasure code's pieces");
  if (parity.empty()) return;
  std::vector<unsigned char*> from, to;
  for (const std::byte* piece : data) from.push_back(plain(piece));
  for (std::byte* piece : parity) to.push_back(plain(piece));
  ::ec_encode_data(static_cast<int>(bytes), static_cast<int>(scheme_.k),
                   static_cast<int>(scheme_.m), const_cast<unsigned char*>(tables_.data()),
                   from.data(), to.data());
}

void ErasureCode::rebuild(std::span<const uint32_t> pieces, std::span<const std::byte* const> have,
                          uint32_t wanted, std::byte* to, size_t bytes) const {
  const size_t k = scheme_.k;
  CONVOY_CHECK(pieces.size() == k && have.size() == k && bytes <= INT_MAX, "too few pieces");
  // data = inverse(rows that we have) · have; the wanted row times that.
  std::vector<unsigned char> rows(k * k), inverse(k * k), row(k);
  for (size_t i = 0; i < k; ++i) {
    std::copy_n(matrix_.data() + size_t{pieces[i]} * k, k, rows.data() + i * k);
  }
  CONVOY_CHECK(::gf_invert_matrix(rows.data(), inverse.data(), static_cast<int>(k)) == 0,
               "pieces named twice");
  for (size_t column = 0; column < k; ++column) {
    unsigned char sum = 0;
    for (size_t i = 0; i < k; ++i) {
      sum ^= ::gf_mul(matrix_[size_t{wanted} * k + i], inverse[i * k + column]);
    }
    row[column] = sum;
  }
  std::vector<unsigned char> tables(kTableBytes * k);
  ::ec_init_tables(static_cast<int>(k), 1, row.data(), tables.data());
  std::vector<unsigned char*> from;
  for (const std::byte* piece : have) from.push_back(plain(piece));
  unsigned char* out = plain(to);
  ::ec_encode_data(static_cast<int>(bytes), static_cast<int>(k), 1, tables.data(), from.data(),
                   &out);
}

}  // namespace convoy::ckpt
