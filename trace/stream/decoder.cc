#include "trace/stream/bytes.h"
#include <convoy/trace/operation.h>
#include <convoy/trace/stream.h>

#include <map>
#include <unordered_map>
#include <utility>

namespace convoy::trace {
namespace {

constexpr size_t kSourcesMax = 1 << 17;
constexpr int64_t kUnitsMax = INT64_MAX / wire::kTimeUnit;

// Times that a hostile stream makes up must not overflow.
int64_t ns(int64_t units) {
  if (units > kUnitsMax) return kUnitsMax * wire::kTimeUnit;
  return units < -kUnitsMax ? -kUnitsMax * wire::kTimeUnit : units * wire::kTimeUnit;
}
int64_t add(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}

// What one rank's stream has told so far: its numbers, and the Registry's.
struct Source {
  struct Known {
    uint32_t id = 0;       // Registry
    uint32_t channel = 0;  // in `last`
  };
  std::vector<uint32_t> groups, names;
  std::vector<Known> signatures;
  std::map<wire::Channel, uint32_t> channels;
  std::vector<uint32_t> last;
  std::map<std::pair<uint64_t, int64_t>, uint64_t> last_value;
  uint64_t group_ranks = 0;
};

class Decoding {
 public:
  Decoding(std::span<const std::byte> bytes, Registry& registry, Batch& to)
      : r_(bytes), registry_(registry), to_(to) {}

  // The part before anything that needs the source.
  uint8_t head() {
    to_.rank = static_cast<uint32_t>(r_.number_to(wire::kRankMax));
    to_.generation = r_.number();
    to_.number = r_.number();
    const uint8_t flags = r_.byte();
    to_.received = ns(r_.signed_number());
    to_.host.clear();
    to_.pid = 0;
    if ((flags & wire::kHost) != 0) {
      to_.host = r_.text();
      to_.pid = static_cast<int32_t>(r_.signed_number());
    }
    return flags;
  }

  void body(Source& source, uint8_t flags) {
    groups(source);
    signatures(source);
    names(source);
    const int64_t base = r_.signed_number();
    operations(source, base, (flags & wire::kStarted) != 0);
    spans(source, base);
    counters(source, base);
    to_.state.reset();
    if ((flags & wire::kState) != 0) state(source);
    if (!r_.at_end()) r_.fail();
  }

  bool failed() const { return r_.failed(); }

 private:
  void groups(Source& source) {
    for (uint64_t n = r_.count(wire::kDefinitionsMax - source.groups.size(), 2); n > 0; --n) {
      GroupInfo group{std::string(r_.text()), {}};
      for (uint64_t runs = r_.count(wire::kRankMax, 3); runs > 0; --runs) run(group, source);
      if (r_.failed()) return;
      source.groups.push_back(registry_.group(group));
    }
  }

  void run(GroupInfo& group, Source& source) {
    const auto begin = static_cast<int64_t>(r_.number_to(wire::kRankMax));
    const int64_t step = r_.signed_number();
    const auto count = static_cast<int64_t>(r_.number_to(wire::kRankMax));
    source.group_ranks += static_cast<uint64_t>(count);
    const auto most = static_cast<int64_t>(wire::kRankMax);
    if (step < -most || step > most || source.group_ranks > wire::kGroupRanksMax || count == 0 ||
        begin + step * (count - 1) < 0 || begin + step * (count - 1) > most) {
      return r_.fail();
    }
    for (int64_t i = 0; i < count; ++i) {
      group.ranks.push_back(static_cast<uint32_t>(begin + step * i));
    }
  }

  void signatures(Source& source) {
    for (uint64_t n = r_.count(wire::kDefinitionsMax - source.signatures.size(), 5); n > 0; --n) {
      Signature s;
      s.group = look_up(source.groups);
      OperationKind kind = parse_operation(r_.text());
      s.operation = std::move(kind.operation);
      s.dtype = std::move(kind.dtype);
      s.reduction = std::move(kind.reduction);
      s.uneven = kind.uneven;
      s.root = rank_or_none();
      s.peer = rank_or_none();
      s.bytes = r_.number();
      if (r_.failed()) return;
      const auto [channel, is_new] = source.channels.try_emplace(
          wire::channel_of(s), static_cast<uint32_t>(source.last.size()));
      if (is_new) source.last.push_back(0);
      source.signatures.push_back({registry_.signature(s), channel->second});
    }
  }

  void names(Source& source) {
    for (uint64_t n = r_.count(wire::kDefinitionsMax - source.names.size(), 1); n > 0; --n) {
      const std::string_view name = r_.text();
      if (r_.failed()) return;
      source.names.push_back(registry_.name(name));
    }
  }

  void operations(Source& source, int64_t base, bool with_started) {
    const uint64_t count = r_.count(wire::kRowsMax, 3);
    to_.operations.resize(count);
    for (Operation& o : to_.operations) {
      const uint64_t key = r_.number();
      const bool is_explicit = key == 0;
      const uint64_t id = is_explicit ? r_.number() : key - 1;
      if (id >= source.signatures.size()) return r_.fail();
      const Source::Known known = source.signatures[id];
      uint32_t& last = source.last[known.channel];
      last = is_explicit ? static_cast<uint32_t>(r_.number_to(UINT32_MAX)) : last + 1;
      o.signature = known.id;
      o.sequence = last;
      base = add(base, static_cast<int64_t>(r_.number()));
      o.issued = ns(base);
      int64_t from = base;
      const auto after = [&]() -> int64_t {
        const uint64_t value = r_.number();
        if (value == 0) return 0;
        from = add(from, static_cast<int64_t>(value - 1));
        return ns(from);
      };
      o.started = with_started ? after() : 0;
      o.completed = after();
    }
  }

  void spans(Source& source, int64_t base) {
    to_.spans.resize(r_.count(wire::kRowsMax, 5));
    for (SpanEvent& s : to_.spans) {
      s.name = look_up(source.names);
      s.thread = static_cast<uint32_t>(r_.number_to(UINT32_MAX));
      base = add(base, r_.signed_number());
      s.begin = ns(base);
      const uint64_t length = r_.number();
      s.end = length == 0 ? 0 : ns(add(base, static_cast<int64_t>(length - 1)));
      s.value = r_.number();
    }
  }

  void counters(Source& source, int64_t base) {
    to_.counters.resize(r_.count(wire::kRowsMax, 4));
    for (CounterEvent& c : to_.counters) {
      const uint64_t name = r_.number();
      if (name >= source.names.size()) return r_.fail();
      c.name = source.names[name];
      const auto peer = static_cast<int64_t>(r_.number_to(wire::kRankMax + 1)) - 1;
      c.peer = static_cast<int32_t>(peer);
      base = add(base, r_.signed_number());
      c.time = ns(base);
      uint64_t& value = source.last_value[{name, peer}];
      value += static_cast<uint64_t>(r_.signed_number());
      c.value = value;
    }
  }

  void state(Source& source) {
    RankState& state = to_.state.emplace();
    const int64_t now = r_.signed_number();
    state.time = ns(now);
    state.life = static_cast<Life>(r_.byte());
    if (state.life > Life::kKilled) return r_.fail();
    state.exit_code = static_cast<int32_t>(r_.signed_number());
    state.lost = r_.number();
    state.shed = r_.number();
    const auto time = [&]() -> int64_t {
      const uint64_t before = r_.number();
      return before == 0 ? 0 : ns(add(now, -wire::unzigzag(before - 1)));
    };
    state.progress.resize(r_.count(wire::kDefinitionsMax, 4));
    for (GroupProgress& p : state.progress) {
      p.group = look_up(source.groups);
      p.issued = static_cast<uint32_t>(r_.number_to(UINT32_MAX));
      p.started = static_cast<uint32_t>(r_.number_to(UINT32_MAX));
      p.completed = static_cast<uint32_t>(r_.number_to(UINT32_MAX));
    }
    state.pending.resize(r_.count(wire::kRowsMax, 5));
    for (Operation& o : state.pending) {
      const uint64_t id = r_.number();
      if (id >= source.signatures.size()) return r_.fail();
      o.signature = source.signatures[id].id;
      o.sequence = static_cast<uint32_t>(r_.number_to(UINT32_MAX));
      o.issued = time();
      o.started = time();
      o.completed = time();
    }
    state.open.resize(r_.count(wire::kRowsMax, 4));
    for (SpanEvent& s : state.open) {
      s.name = look_up(source.names);
      s.thread = static_cast<uint32_t>(r_.number_to(UINT32_MAX));
      s.begin = time();
      s.end = 0;
      s.value = r_.number();
    }
  }

  uint32_t look_up(const std::vector<uint32_t>& table) {
    const uint64_t id = r_.number();
    if (id < table.size()) return table[id];
    r_.fail();
    return 0;
  }

  int32_t rank_or_none() {
    const int64_t rank = r_.signed_number();
    if (rank >= -1 && rank <= static_cast<int64_t>(wire::kRankMax)) {
      return static_cast<int32_t>(rank);
    }
    r_.fail();
    return -1;
  }

  wire::Reader r_;
  Registry& registry_;
  Batch& to_;
};

}  // namespace

struct BatchDecoder::Impl {
  explicit Impl(Registry& r) : registry(r) {}
  Registry& registry;
  std::unordered_map<uint32_t, Source> sources;  // by rank
};

BatchDecoder::BatchDecoder(Registry& registry) : impl_(std::make_unique<Impl>(registry)) {}
BatchDecoder::~BatchDecoder() = default;

Status BatchDecoder::decode(std::span<const std::byte> bytes, Batch& to) {
  Decoding decoding(bytes, impl_->registry, to);
  const uint8_t flags = decoding.head();
  auto& sources = impl_->sources;
  if (!decoding.failed()) {
    auto at = sources.find(to.rank);
    if ((flags & wire::kRestart) != 0) {
      if (at == sources.end() && sources.size() >= kSourcesMax) {
        return Status(Code::kResourceExhausted,
                      "a trace stream of more than " + std::to_string(kSourcesMax) + " ranks");
      }
      at = sources.insert_or_assign(to.rank, Source()).first;
    }
    if (at == sources.end()) {
      return Status(Code::kDataLoss, "rank " + std::to_string(to.rank) +
                                         "'s trace begins in the middle: an earlier batch "
                                         "is missing or damaged");
    }
    decoding.body(at->second, flags);
    if (!decoding.failed()) return Status();
    sources.erase(at);  // what follows would be read wrongly
  }
  return Status(Code::kDataLoss, "a damaged batch of rank " + std::to_string(to.rank) +
                                     "'s trace (" + std::to_string(bytes.size()) + " bytes)");
}

}  // namespace convoy::trace
