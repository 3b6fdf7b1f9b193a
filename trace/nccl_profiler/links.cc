#include "trace/nccl_profiler/links.h"

#include <new>
#include <sys/mman.h>
#include <type_traits>

namespace convoy::trace::nccl {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// Never kFree nor kReleased: the highest bit is set.
uint64_t key_of(const LinkName& name) {
  return uint64_t{1} << 63 | uint64_t{name.communicator} << 48 |
         uint64_t{name.peer & 0xffffff} << 16 | uint64_t{name.channel} << 1 |
         (name.is_send ? 1 : 0);
}

uint64_t mixed(uint64_t x) {  // splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

// A constructor would touch all of it; zero is what each would write.
Links::Links() {
  static_assert(std::is_trivially_destructible_v<Link>);
  void* at = ::mmap(nullptr, kLinksMax * sizeof(Link), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  links_ = static_cast<Link*>(at);
}

Links::~Links() {
  ::munmap(links_, kLinksMax * sizeof(Link));
}

LinkName Link::name() const {
  const uint64_t bits = key.load(kRelaxed);
  return {static_cast<uint8_t>(bits >> 48), static_cast<uint32_t>(bits >> 16) & 0xffffff,
          static_cast<uint8_t>(bits >> 1), (bits & 1) != 0};
}

bool Links::is_used(uint32_t place) const {
  return links_[place].key.load(std::memory_order_acquire) > kReleased;
}

uint32_t Links::find(const LinkName& name) {
  const uint64_t key = key_of(name);
  const uint64_t begin = mixed(key);
  uint32_t vacant = kLinksMax;
  for (uint32_t i = 0; i < kProbesMax; ++i) {
    const auto place = static_cast<uint32_t>((begin + i) % kLinksMax);
    const uint64_t found = links_[place].key.load(std::memory_order_acquire);
    if (found == key) return place;
    if (found <= kReleased && vacant == kLinksMax) vacant = place;
    if (found == kFree) break;
  }
  if (vacant == kLinksMax) return kLinksMax;
  uint64_t before = links_[vacant].key.load(kRelaxed);
  const bool is_ours = before <= kReleased && links_[vacant].key.compare_exchange_strong(
                                                  before, key, std::memory_order_acq_rel);
  return is_ours || before == key ? vacant : kLinksMax;
}

void Links::release(uint8_t communicator) {
  for (uint32_t i = 0; i < kLinksMax; ++i) {
    Link& link = links_[i];
    if (link.key.load(kRelaxed) <= kReleased || link.name().communicator != communicator) continue;
    link.bytes.store(0, kRelaxed);
    link.steps.store(0, kRelaxed);
    for (auto& wait : link.waits) wait.store(0, kRelaxed);
    link.step_time.clear();
    link.key.store(kReleased, std::memory_order_release);
  }
}

}  // namespace convoy::trace::nccl
