// The one checksum of all formats, by libxxhash; kept out of the header so that nobody else needs
// it.
#include <convoy/base/check.h>
#include <convoy/base/checksum.h>

#include <xxhash.h>

namespace convoy {

struct Xxh3Stream::State {
  XXH3_state_t* xxh = XXH3_createState();  // aligned as XXH3 demands
  State() { CONVOY_CHECK(xxh != nullptr, "out of memory for a checksum state"); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { XXH3_freeState(xxh); }
};

uint64_t xxh3(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

Xxh3Stream::Xxh3Stream() : state_(std::make_unique<State>()) {
  XXH3_64bits_reset(state_->xxh);
}
Xxh3Stream::Xxh3Stream(Xxh3Stream&&) noexcept = default;
Xxh3Stream& Xxh3Stream::operator=(Xxh3Stream&&) noexcept = default;
Xxh3Stream::~Xxh3Stream() = default;

void Xxh3Stream::update(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_->xxh, bytes.data(), bytes.size());
}

uint64_t Xxh3Stream::digest() const {
  return XXH3_64bits_digest(state_->xxh);
}

}  // namespace convoy
