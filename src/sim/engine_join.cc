// Where ranks meet: collectives end when the last has come, messages when both sides are ready.
#include "src/sim/engine.h"
#include <convoy/base/check.h>

#include <algorithm>

namespace convoy::sim {

// From the host's call to the device, of operations.
constexpr Time kHandOver = 4000;

Engine::Instance& Engine::instance(uint32_t group, uint32_t sequence) {
  Communicator& g = groups_[group];
  Instance& at = g.instances[sequence & (g.instances.size() - 1)];
  if (at.sequence != sequence) {
    CONVOY_CHECK(at.sequence == 0 || at.arrived == g.size, "a collective is still needed");
    at = Instance{.sequence = sequence};
  }
  return at;
}

Time Engine::started(const Open& open) const {
  if (open.ready == kNever || open.lane >= kSlots || open.sequence == 1) return open.ready;
  const auto& instances = groups_[open.group].instances;
  const Instance& before = instances[(open.sequence - 1) & (instances.size() - 1)];
  if (before.sequence != open.sequence - 1) return open.ready;
  return before.end == kNever ? kNever : std::max(open.ready, before.end);
}

bool Engine::has_come(uint32_t rank, uint8_t slot, uint32_t sequence) const {
  const Rank& r = ranks_[rank];
  for (const Open& o : r.open) {
    if (o.lane == slot && o.sequence == sequence) return o.ready != kNever;
  }
  return r.sequence[slot] >= sequence;
}

bool Engine::collective(uint32_t rank, const Instruction& i) {
  Rank& r = ranks_[rank];
  if (r.blocked) {  // it has come here before, and waits
    const Open open = r.open.back();
    if (!resolve(rank, open)) return false;
    r.open.pop_back();
    r.blocked = false;
    return true;
  }
  const Slot slot = catalog_[i.collective].slot;
  const uint32_t group = layout_.group_of[slot][rank];
  const Open open{.issued = r.host,
                  .ready = r.device == kNever ? kNever : std::max(r.device, r.host + kHandOver),
                  .signature = catalog_.signature(i.collective, group),
                  .sequence = ++r.sequence[slot],
                  .group = group,
                  .collective = i.collective,
                  .lane = slot,
                  .async = i.op == Op::kAsync};
  r.open.push_back(open);
  const bool dies = (*r.program)[r.counter + 1].op == Op::kDie;
  arrive(open, rank, i.breaks || dies);
  if (dies) {
    r.halted = true;
    r.died = open.ready + 300'000;
    faults_.note_trap(rank, r.step, r.died);
    return false;
  }
  if (i.op == Op::kAsync) return true;
  r.blocked = true;
  return collective(rank, i);
}

void Engine::arrive(const Open& open, uint32_t rank, bool breaks) {
  Communicator& group = groups_[open.group];
  Instance& at = instance(open.group, open.sequence);
  if (at.arrived == 0) at.collective = open.collective;
  if (at.collective != open.collective) {
    const Collective &a = catalog_[at.collective], &b = catalog_[open.collective];
    const bool agree = a.operation == b.operation && a.root == b.root &&
                       (a.bytes == b.bytes || (a.uneven && b.uneven));
    if (!agree) at.broken = true;
  }
  if (breaks || open.ready == kNever) at.broken = true;
  if (open.ready != kNever && open.ready >= at.begin) {
    at.begin = open.ready;
    at.last = layout_.position[layout_.groups[open.group].slot][rank];
  }
  if (++at.arrived == group.size) complete(group, open.group, at, ranks_[rank].step);
}

void Engine::complete(Communicator& group, uint32_t index, Instance& at, uint32_t step) {
  if (at.broken || group.stuck) {  // a communicator does one thing after the other
    group.stuck = true;
    return;
  }
  at.before = group.free;
  at.begin = std::max(at.begin, at.before);
  const Transfer transfer =
      fabric_.collective(at.collective, index, at.begin, step, network_jitter_.draw(group.random));
  at.end = group.free = at.begin + transfer.duration;
  at.slow = transfer.slow;
  at.touch = transfer.touch;
  for (uint32_t rank = at.waiters; rank != kNone;) {
    ready_.push_back(rank);
    const uint32_t next = ranks_[rank].next_waiter;
    ranks_[rank].next_waiter = kNone;
    rank = next;
  }
  at.waiters = kNone;
}

// Records an operation if it is over; else the rank is woken when a collective is.
bool Engine::resolve(uint32_t rank, const Open& open) {
  Rank& r = ranks_[rank];
  if (open.lane >= kSlots) {
    const bool sender = open.lane < kReceiveLane;
    const Message& m = message(open.group, open.sequence);
    if (m.end == kNever) return false;
    finish_message(r, open, m, sender);
    return true;
  }
  Instance& at = instance(open.group, open.sequence);
  if (at.end == kNever) {
    r.next_waiter = at.waiters;
    at.waiters = rank;
    return false;
  }
  finish(rank, open, at);
  return true;
}

// Where a rank's time in a ring went. Behind whoever is late or slow nothing comes, before him
// there is no room; in between both.
void Engine::share_waits(Done& done, uint32_t position, const Instance& at, uint32_t size) const {
  const auto distance = [&](uint32_t from) { return (position + size - from) % size; };
  const auto late = static_cast<float>(at.begin - done.started);
  if (position != at.last && late > 0) {
    const float share =
        size > 2 ? static_cast<float>(distance(at.last) - 1) / static_cast<float>(size - 2) : 0;
    done.receive += late * (1 - share);
    done.peer += late * share;
  }
  const auto whole = static_cast<float>(at.end - at.begin);
  const float usual = whole / at.slow;
  if (at.touch == nullptr) {
    done.send += 0.85F * usual;
    done.receive += 0.15F * usual;
    return;
  }
  if (done.lane == kEp) {  // no ring: each link is as slow as it is itself
    const auto& senders = at.touch->senders;
    const bool is_slow = std::ranges::find(senders, position) != senders.end();
    done.usual = 0.85F * usual;
    done.fault = at.touch->fault;
    done.send += is_slow ? whole : done.usual;
    done.receive += is_slow ? 0 : whole - done.usual;
    return;
  }
  uint32_t behind = size;  // the nearest slow edge's receiver
  for (const uint32_t sender : at.touch->senders) {
    if (sender == position) {
      done.send += whole;
      return;
    }
    behind = std::min(behind, distance((sender + 1) % size));
  }
  done.send += usual;
  const float share = static_cast<float>(behind) / static_cast<float>(size - 1);
  done.receive += (whole - usual) * (1 - share);
  done.peer += (whole - usual) * share;
}

void Engine::finish(uint32_t rank, const Open& open, const Instance& at) {
  Rank& r = ranks_[rank];
  Done done{.issued = open.issued,
            .started = std::max(open.ready, at.before),
            .completed = at.end + static_cast<Time>(r.random.next() & 2047),
            .signature = open.signature,
            .sequence = open.sequence,
            .lane = open.lane,
            .moved = static_cast<float>(fabric_.moved_bytes(open.collective)),
            .source = static_cast<float>(open.ready - open.issued)};
  share_waits(done, layout_.position[open.lane][rank], at, groups_[open.group].size);
  r.done.push_back(done);
  if (!open.async) r.device = std::max(r.device, done.completed);
}

bool Engine::await_async(uint32_t rank) {
  Rank& r = ranks_[rank];
  while (!r.open.empty()) {
    const auto first = std::ranges::find_if(r.open, &Open::async);
    if (first == r.open.end()) break;
    if (!resolve(rank, *first)) return false;
    r.device = std::max(r.device, r.done.back().completed);
    r.open.erase(first);
  }
  r.host = std::max(r.host, r.device);
  return true;
}

uint32_t Engine::peer_of(uint32_t rank, uint8_t channel) const {
  return channel == 0 ? layout_.next[rank] : layout_.previous[rank];
}

uint32_t Engine::incoming(uint32_t rank, uint8_t channel) const {
  // With two stages the only neighbour is the next one, both ways.
  const uint32_t there = layout_.stages == 2 ? 0 : 1U - channel;
  return peer_of(rank, channel) * 2 + there;
}

Engine::Message& Engine::message(uint32_t channel, uint32_t sequence) {
  Channel& c = channels_[channel];
  Message& at = c.messages[sequence & (c.messages.size() - 1)];
  if (at.sequence != sequence) at = Message{.sequence = sequence};
  return at;
}

void Engine::send(uint32_t rank, uint8_t channel, bool breaks) {
  Rank& r = ranks_[rank];
  const uint32_t at = outgoing(rank, channel);
  Message& m = begin_message(r, at, ++r.sent[channel], r.send_signature[channel],
                             static_cast<uint8_t>(kSendLane + channel));
  m.sent = r.open.back().ready;
  m.broken = breaks;
  try_transfer(at, m, r.step);
}

void Engine::receive(uint32_t rank, uint8_t channel) {
  Rank& r = ranks_[rank];
  const uint32_t at = incoming(rank, channel);
  Message& m = begin_message(r, at, ++r.received[channel], r.receive_signature[channel],
                             static_cast<uint8_t>(kReceiveLane + channel));
  m.posted = r.open.back().ready;
  try_transfer(at, m, r.step);
}

// One side of it, which is ready once the host has handed it over.
Engine::Message& Engine::begin_message(Rank& r, uint32_t channel, uint32_t sequence,
                                       uint32_t signature, uint8_t lane) {
  r.open.push_back({.issued = r.host,
                    .ready = r.host + kHandOver,
                    .signature = signature,
                    .sequence = sequence,
                    .group = channel,
                    .lane = lane});
  return message(channel, sequence);
}

void Engine::try_transfer(uint32_t channel, Message& m, uint32_t step) {
  if (m.sent == kNever || m.posted == kNever) return;
  Channel& c = channels_[channel];
  if (m.broken) c.free = kNever;  // and nothing comes after it
  if (c.free == kNever) return;
  const uint32_t from = channel / 2;
  const uint32_t to = peer_of(from, static_cast<uint8_t>(channel % 2));
  const Time begin = std::max({m.sent, m.posted, c.free});
  const Transfer transfer = fabric_.message(from, to, builder_.message_bytes(), begin, step,
                                            network_jitter_.draw(c.random));
  m.end = c.free = begin + transfer.duration;
  m.slow = transfer.slow;
  if (m.sender_waits) ready_.push_back(from);
  if (m.receiver_waits) ready_.push_back(to);
  m.sender_waits = m.receiver_waits = false;
}

void Engine::finish_message(Rank& r, const Open& open, const Message& m, bool sender) {
  Done done{.issued = open.issued,
            .started = open.ready,
            .completed = m.end + static_cast<Time>(r.random.next() & 1023),
            .signature = open.signature,
            .sequence = open.sequence,
            .lane = open.lane,
            .moved = static_cast<float>(builder_.message_bytes())};
  const Time begin = std::max(m.sent, m.posted);
  const auto wire = static_cast<float>(m.end - begin);
  const auto waited = static_cast<float>(begin - open.ready);
  if (sender) {
    done.peer = waited;
    done.send = wire;
  } else {
    done.receive = waited + wire;
  }
  r.done.push_back(done);
}

bool Engine::await_message(uint32_t rank, const Instruction& i) {
  Rank& r = ranks_[rank];
  const auto lane = static_cast<uint8_t>(kReceiveLane + i.channel);
  const uint32_t sequence = r.received_before[i.channel] + i.value + 1;
  const auto open = std::ranges::find_if(
      r.open, [&](const Open& o) { return o.lane == lane && o.sequence == sequence; });
  CONVOY_CHECK(open != r.open.end(), "a message is posted before it is waited for");
  if (!r.blocked) {
    r.open_spans.push_back({kNameAwait, 0, r.host, 0, peer_of(rank, i.channel)});
    r.blocked = true;
  }
  if (!resolve(rank, *open)) {
    message(open->group, sequence).receiver_waits = true;
    return false;
  }
  r.open.erase(open);
  r.blocked = false;
  r.host = r.device = std::max(r.host, r.done.back().completed);
  end_span(r, kNameAwait);
  return true;
}

bool Engine::await_sends(uint32_t rank) {
  Rank& r = ranks_[rank];
  for (;;) {
    const auto open = std::ranges::find_if(
        r.open, [](const Open& o) { return o.lane >= kSendLane && o.lane < kReceiveLane; });
    if (open == r.open.end()) break;
    if (!resolve(rank, *open)) {
      message(open->group, open->sequence).sender_waits = true;
      return false;
    }
    r.host = std::max(r.host, r.done.back().completed);
    r.open.erase(open);
  }
  r.device = std::max(r.device, r.host);
  return true;
}

}  // namespace convoy::sim
