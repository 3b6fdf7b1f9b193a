#include <convoy/trace/join.h>

#include <algorithm>
#include <bit>

namespace convoy::trace {
namespace {

constexpr size_t kDissentsMax = 4096;
constexpr uint32_t kDissentsOfOne = 8;
// Nobody is ahead of the others by so much: such a number is damaged.
constexpr uint32_t kAheadMax = 1U << 24;

// What all ranks of one instance must agree on.
Signature agreed(const Signature& s) {
  Signature kind = s;
  if (s.uneven) kind.bytes = 0;
  if (s.is_message()) {
    kind.operation = "message";
    kind.reduction.clear();
    kind.root = kind.peer = -1;
  }
  return kind;
}

}  // namespace

struct Join::KindNumbers {
  Registry registry;
};

Join::Join(const Registry& registry, const JoinOptions& options)
    : registry_(registry), options_(options), kind_numbers_(std::make_unique<KindNumbers>()) {
  options_.depth_min = std::bit_ceil(std::max(options_.depth_min, 2U));
  options_.depth = std::bit_ceil(std::max(options_.depth, options_.depth_min));
  options_.depth_max = std::bit_ceil(std::max(options_.depth_max, options_.depth));
  channels_.resize(256);
}

Join::~Join() = default;

void Join::learn_signatures() {
  const auto& signatures = registry_.signatures();
  for (size_t i = kinds_.size(); i < signatures.size(); ++i) {
    const Signature& s = signatures[i];
    const uint32_t kind = kind_numbers_->registry.signature(agreed(s));
    kinds_.push_back({s.is_message() ? kNone : ring_for_group(s.group), kind});
  }
}

uint32_t Join::ring_for_group(uint32_t group) {
  if (group >= ring_of_group_.size()) ring_of_group_.resize(group + 1, kNone);
  uint32_t& ring = ring_of_group_[group];
  const size_t size =
      group < registry_.groups().size() ? registry_.groups()[group].ranks.size() : 0;
  if (ring == kNone) ring = add_ring(group, kNone, kNone, static_cast<uint32_t>(size));
  return ring;
}

uint32_t Join::add_ring(uint32_t group, uint32_t sender, uint32_t receiver, uint32_t size) {
  const bool is_full = bytes_ + options_.depth * sizeof(Instance) > options_.bytes_max;
  const uint32_t depth = is_full ? options_.depth_min : options_.depth;
  memory_.push_back(std::make_unique<Instance[]>(depth));
  bytes_ += depth * sizeof(Instance);
  rings_.push_back({memory_.back().get(), depth - 1, size});
  owners_.push_back({0, group, sender, receiver});
  return static_cast<uint32_t>(rings_.size() - 1);
}

uint32_t Join::channel(uint32_t rank, uint32_t signature) {
  const uint64_t key = (uint64_t{rank} << 32 | signature) + 1;
  const size_t mask = channels_.size() - 1;
  size_t at = (key * 0x9e3779b97f4a7c15) >> 20 & mask;
  while (channels_[at].key != key) {
    if (channels_[at].key == 0) return add_channel(rank, signature);
    at = (at + 1) & mask;
  }
  return channels_[at].ring;
}

uint32_t Join::add_channel(uint32_t rank, uint32_t signature) {
  const Signature& s = registry_.signatures()[signature];
  const bool sends = s.operation != "recv";
  const auto peer = static_cast<uint32_t>(s.peer);
  const uint32_t sender = sends ? rank : peer, receiver = sends ? peer : rank;
  // A ring of its own number space: the pair's name in the registry of kinds.
  Signature pair;
  pair.group = s.group;
  pair.operation = "channel";
  pair.root = static_cast<int32_t>(sender);
  pair.peer = static_cast<int32_t>(receiver);
  const auto [at, is_new] =
      channel_of_pair_.try_emplace(kind_numbers_->registry.signature(pair), 0U);
  if (is_new) at->second = add_ring(s.group, sender, receiver, 2);
  if (++channels_used_ * 2 > channels_.size()) {
    std::vector<Channel> old(channels_.size() * 2);
    old.swap(channels_);
    for (const Channel& c : old) {
      if (c.key != 0) insert(c);
    }
  }
  insert({(uint64_t{rank} << 32 | signature) + 1, at->second});
  return at->second;
}

void Join::insert(const Channel& channel) {
  const size_t mask = channels_.size() - 1;
  size_t at = (channel.key * 0x9e3779b97f4a7c15) >> 20 & mask;
  while (channels_[at].key != 0) at = (at + 1) & mask;
  channels_[at] = channel;
}

Instance* Join::place(uint32_t number, uint32_t sequence, uint32_t signature) {
  Ring& ring = rings_[number];
  Owner& owner = owners_[number];
  Instance* x = &ring.slots[sequence & ring.mask];
  if (x->sequence > sequence && x->sequence - sequence < kAheadMax) {
    // A ring that has grown keeps what it holds; what it had dropped before is gone.
    if (grow(number)) x = &ring.slots[sequence & ring.mask];
    if (x->sequence > sequence) {
      ++late_;
      return nullptr;
    }
  }
  if (x->sequence != sequence) {
    *x = Instance{};
    x->sequence = sequence;
    x->signature = signature;
  }
  if (sequence > owner.newest && (owner.newest == 0 || sequence - owner.newest < kAheadMax)) {
    owner.newest = sequence;
  }
  if (ring.size == 0 && owner.group < registry_.groups().size()) {
    ring.size = static_cast<uint32_t>(registry_.groups()[owner.group].ranks.size());
  }
  return x;
}

bool Join::grow(uint32_t number) {
  Ring& ring = rings_[number];
  const uint32_t depth = ring.mask + 1;
  if (depth >= options_.depth_max || bytes_ + depth * sizeof(Instance) > options_.bytes_max) {
    return false;
  }
  auto slots = std::make_unique<Instance[]>(size_t{depth} * 2);
  for (uint32_t i = 0; i < depth; ++i) {
    if (ring.slots[i].sequence == 0) continue;
    slots[ring.slots[i].sequence & (depth * 2 - 1)] = ring.slots[i];
  }
  bytes_ += depth * sizeof(Instance);
  ring.mask = depth * 2 - 1;
  ring.slots = slots.get();
  memory_[number] = std::move(slots);
  return true;
}

void Join::dissent(uint32_t ring, Instance& x, uint32_t rank, uint32_t signature) {
  if (++x.dissents > kDissentsOfOne || dissents_.size() >= kDissentsMax) return;
  // The second of all to tell: who told first may be the one who is wrong.
  if (x.count == 2) {
    const uint32_t first = x.issued_first != rank ? x.issued_first : x.issued_last;
    dissents_.push_back({ring, x.sequence, first, x.signature});
  }
  dissents_.push_back({ring, x.sequence, rank, signature});
}

std::vector<Join::Dissent> Join::take_dissents() {
  std::vector<Dissent> taken;
  taken.swap(dissents_);
  return taken;
}

}  // namespace convoy::trace
