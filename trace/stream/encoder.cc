#include "trace/stream/bytes.h"
#include <convoy/trace/operation.h>
#include <convoy/trace/stream.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

namespace convoy::trace {

using wire::units;

// Numbers of a Registry and those of the stream, which come in the order of first use.
struct BatchEncoder::Impl {
  explicit Impl(const Registry& r) : registry(r) {}

  const Registry& registry;
  std::vector<int64_t> groups, signatures, names;  // by the Registry's number; -1: not told yet
  uint32_t group_count = 0, signature_count = 0, name_count = 0;
  std::map<wire::Channel, uint32_t> channels;
  std::vector<uint32_t> channel_of, last;                       // by signature, by channel
  std::map<std::pair<uint64_t, int32_t>, uint64_t> last_value;  // of counters
  bool restarting = true;

  // What this batch is the first to need.
  std::string new_groups, new_signatures, new_names;
  uint64_t new_group_count = 0, new_signature_count = 0, new_name_count = 0;
  std::string rows;  // all that follows the definitions

  void forget();
  uint64_t group(uint32_t id);
  uint64_t signature(uint32_t id);
  uint64_t name(uint32_t id);
  void operations(const std::vector<Operation>& list, int64_t base, bool with_started);
  void spans(const std::vector<SpanEvent>& list, int64_t base);
  void counters(const std::vector<CounterEvent>& list, int64_t base);
  void state(const RankState& state);
};

namespace {

int64_t& slot(std::vector<int64_t>& table, uint32_t id) {
  if (table.size() <= id) table.resize(id + 1, -1);
  return table[id];
}

void write_runs(wire::Writer& w, const std::vector<uint32_t>& ranks) {
  std::vector<std::array<uint64_t, 3>> runs;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i + 1;
    const auto step = [&](size_t at) { return int64_t{ranks[at]} - ranks[at - 1]; };
    while (end < ranks.size() && step(end) == step(i + 1)) ++end;
    runs.push_back({ranks[i], wire::zigzag(end > i + 1 ? step(i + 1) : 0), end - i});
    i = end;
  }
  w.number(runs.size());
  for (const auto& [begin, step, count] : runs) {
    w.number(begin);
    w.number(step);
    w.number(count);
  }
}

int64_t base_of(const Batch& batch) {
  int64_t base = INT64_MAX;
  for (const Operation& o : batch.operations) base = std::min(base, o.issued);
  if (base == INT64_MAX && !batch.spans.empty()) base = batch.spans.front().begin;
  if (base == INT64_MAX && !batch.counters.empty()) base = batch.counters.front().time;
  return base == INT64_MAX ? 0 : units(base);
}

}  // namespace

void BatchEncoder::Impl::forget() {
  groups.clear();
  signatures.clear();
  names.clear();
  group_count = signature_count = name_count = 0;
  channels.clear();
  channel_of.clear();
  last.clear();
  last_value.clear();
}

uint64_t BatchEncoder::Impl::group(uint32_t id) {
  int64_t& to = slot(groups, id);
  if (to < 0) {
    to = group_count++;
    ++new_group_count;
    wire::Writer w(new_groups);
    w.text(registry.groups()[id].name);
    write_runs(w, registry.groups()[id].ranks);
  }
  return static_cast<uint64_t>(to);
}

uint64_t BatchEncoder::Impl::signature(uint32_t id) {
  if (const int64_t known = slot(signatures, id); known >= 0) return static_cast<uint64_t>(known);
  const Signature& s = registry.signatures()[id];
  const uint64_t in_group = group(s.group);
  wire::Writer w(new_signatures);
  w.number(in_group);
  w.text(operation_text({s.operation, s.dtype, s.reduction, s.uneven}));
  w.signed_number(s.root);
  w.signed_number(s.peer);
  w.number(s.bytes);
  const auto [channel, is_new] =
      channels.try_emplace(wire::channel_of(s), static_cast<uint32_t>(last.size()));
  if (is_new) last.push_back(0);
  channel_of.push_back(channel->second);
  ++new_signature_count;
  signatures[id] = signature_count++;
  return static_cast<uint64_t>(signatures[id]);
}

uint64_t BatchEncoder::Impl::name(uint32_t id) {
  int64_t& to = slot(names, id);
  if (to < 0) {
    to = name_count++;
    ++new_name_count;
    wire::Writer(new_names).text(registry.names()[id]);
  }
  return static_cast<uint64_t>(to);
}

void BatchEncoder::Impl::operations(const std::vector<Operation>& list, int64_t base,
                                    bool with_started) {
  std::vector<uint32_t> order(list.size());
  std::iota(order.begin(), order.end(), 0);
  const auto issued = [&](uint32_t i) { return list[i].issued; };
  if (!std::ranges::is_sorted(list, {}, &Operation::issued)) {
    std::ranges::stable_sort(order, {}, issued);
  }
  wire::Writer w(rows);
  w.number(list.size());
  for (const uint32_t i : order) {
    const Operation& o = list[i];
    const uint64_t id = signature(o.signature);
    uint32_t& before = last[channel_of[id]];
    if (o.sequence == before + 1) {
      w.number(id + 1);
    } else {
      w.number(0);
      w.number(id);
      w.number(o.sequence);
    }
    before = o.sequence;
    const int64_t begun = units(o.issued);
    w.number(static_cast<uint64_t>(std::max<int64_t>(begun - base, 0)));
    base = std::max(base, begun);
    int64_t from = begun;
    const auto after = [&](int64_t time) {
      if (time == 0) return w.number(0);
      const int64_t to = std::max(units(time), from);
      w.number(static_cast<uint64_t>(to - from) + 1);
      from = to;
    };
    if (with_started) after(o.started);
    after(o.completed);
  }
}

void BatchEncoder::Impl::spans(const std::vector<SpanEvent>& list, int64_t base) {
  wire::Writer w(rows);
  w.number(list.size());
  for (const SpanEvent& s : list) {
    w.number(name(s.name));
    w.number(s.thread);
    const int64_t begun = units(s.begin);
    w.signed_number(begun - base);
    base = begun;
    w.number(s.end == 0 ? 0
                        : static_cast<uint64_t>(std::max<int64_t>(units(s.end) - begun, 0)) + 1);
    w.number(s.value);
  }
}

void BatchEncoder::Impl::counters(const std::vector<CounterEvent>& list, int64_t base) {
  wire::Writer w(rows);
  w.number(list.size());
  for (const CounterEvent& c : list) {
    const uint64_t id = name(c.name);
    w.number(id);
    w.number(static_cast<uint64_t>(int64_t{c.peer} + 1));
    w.signed_number(units(c.time) - base);
    base = units(c.time);
    uint64_t& before = last_value[{id, c.peer}];
    w.signed_number(static_cast<int64_t>(c.value - before));
    before = c.value;
  }
}

void BatchEncoder::Impl::state(const RankState& state) {
  wire::Writer w(rows);
  const int64_t now = units(state.time);
  const auto time = [&](int64_t t) { w.number(t == 0 ? 0 : wire::zigzag(now - units(t)) + 1); };
  w.signed_number(now);
  w.byte(static_cast<uint8_t>(state.life));
  w.signed_number(state.exit_code);
  w.number(state.lost);
  w.number(state.shed);
  w.number(state.progress.size());
  for (const GroupProgress& p : state.progress) {
    w.number(group(p.group));
    w.number(p.issued);
    w.number(p.started);
    w.number(p.completed);
  }
  w.number(state.pending.size());
  for (const Operation& o : state.pending) {
    w.number(signature(o.signature));
    w.number(o.sequence);
    time(o.issued);
    time(o.started);
    time(o.completed);
  }
  w.number(state.open.size());
  for (const SpanEvent& s : state.open) {
    w.number(name(s.name));
    w.number(s.thread);
    time(s.begin);
    w.number(s.value);
  }
}

BatchEncoder::BatchEncoder(const Registry& registry) : impl_(std::make_unique<Impl>(registry)) {}
BatchEncoder::~BatchEncoder() = default;

void BatchEncoder::restart() {
  impl_->restarting = true;
}

void BatchEncoder::encode(const Batch& batch, std::string& to) {
  Impl& impl = *impl_;
  const bool is_full = std::max(impl.signature_count, impl.name_count) > wire::kDefinitionsMax / 2;
  const bool restarts = impl.restarting || is_full;
  if (restarts) impl.forget();
  impl.restarting = false;
  impl.new_groups.clear();
  impl.new_signatures.clear();
  impl.new_names.clear();
  impl.rows.clear();
  impl.new_group_count = impl.new_signature_count = impl.new_name_count = 0;

  const bool started =
      std::ranges::any_of(batch.operations, [](const Operation& o) { return o.started != 0; });
  const int64_t base = base_of(batch);
  impl.operations(batch.operations, base, started);
  impl.spans(batch.spans, base);
  impl.counters(batch.counters, base);
  if (batch.state) impl.state(*batch.state);

  wire::Writer w(to);
  w.number(batch.rank);
  w.number(batch.generation);
  w.number(batch.number);
  const bool has_host = !batch.host.empty();
  w.byte(static_cast<uint8_t>((restarts ? wire::kRestart : 0) | (has_host ? wire::kHost : 0) |
                              (batch.state ? wire::kState : 0) | (started ? wire::kStarted : 0)));
  w.signed_number(units(batch.received));
  if (has_host) {
    w.text(batch.host);
    w.signed_number(batch.pid);
  }
  w.number(impl.new_group_count);
  to += impl.new_groups;
  w.number(impl.new_signature_count);
  to += impl.new_signatures;
  w.number(impl.new_name_count);
  to += impl.new_names;
  w.signed_number(base);
  to += impl.rows;
}

}  // namespace convoy::trace
