// Faults that change what a rank calls, as changes of its program: hangs, crashes, wrong calls.
#include "src/sim/faults.h"

#include <algorithm>
#include <functional>
#include <optional>

namespace convoy::sim {
namespace {

using trace::Class;
using Where = std::function<bool(const Instruction&)>;

std::vector<size_t> places(const Program& program, const Where& where) {
  std::vector<size_t> found;
  for (size_t i = 0; i < program.size(); ++i) {
    if (where(program[i])) found.push_back(i);
  }
  return found;
}

bool is_call(const Instruction& i) {
  return i.op == Op::kCollective || i.op == Op::kAsync;
}

// A place among those that fit, the same for all ranks of a fault.
std::optional<size_t> pick(const ActiveFault& f, const Program& program, const Where& where) {
  const std::vector<size_t> found = places(program, where);
  if (found.empty()) return std::nullopt;
  return found[mix(f.seed, 0x91ace) % found.size()];
}

bool insert(const ActiveFault& f, Program& program, Op op, size_t behind, const Where& where) {
  const auto at = pick(f, program, where);
  if (!at) return false;
  program.insert(program.begin() + static_cast<ptrdiff_t>(*at + behind), {.op = op, .trap = true});
  return true;
}

// The same call, but for one thing that is wrong; a collective of its own in the catalog.
bool call_wrongly(const ActiveFault& f, uint32_t rank, const Layout& layout, Catalog& catalog,
                  Program& program, const std::function<bool(Collective&)>& change) {
  const auto at = pick(f, program, [&](const Instruction& i) {
    if (!is_call(i)) return false;
    Collective c = catalog[i.collective];
    return layout.groups[layout.group_of[c.slot][rank]].size() > 2 && change(c);
  });
  if (!at) return false;
  Collective wrong = catalog[program[*at].collective];
  change(wrong);
  program[*at].collective = catalog.add(wrong);
  program[*at].trap = true;
  return true;
}

bool halve(Collective& c) {
  if (c.bytes < 8 || c.uneven) return false;
  c.bytes = c.bytes / 8 * 4;
  return true;
}
bool retype(Collective& c) {
  if (c.dtype != "bfloat16" || c.uneven) return false;
  c.dtype = "float16";
  return true;
}
bool move_root(Collective& c) {
  if (c.root < 0) return false;
  c.root = 1;
  return true;
}
bool average(Collective& c) {
  if (c.reduction != "sum") return false;
  c.reduction = "avg";
  return true;
}

// Two calls to one group that follow each other, of different operations, change places.
bool swap_neighbours(const ActiveFault& f, uint32_t rank, const Layout& layout,
                     const Catalog& catalog, Program& program) {
  std::vector<std::pair<size_t, size_t>> pairs;
  const std::vector<size_t> calls = places(program, is_call);
  for (size_t k = 1; k < calls.size(); ++k) {
    const Instruction& a = program[calls[k - 1]];
    const Instruction& b = program[calls[k]];
    const Collective &ca = catalog[a.collective], &cb = catalog[b.collective];
    if (a.op == Op::kCollective && b.op == Op::kCollective && ca.slot == cb.slot &&
        ca.operation != cb.operation && layout.groups[layout.group_of[ca.slot][rank]].size() > 2) {
      pairs.emplace_back(calls[k - 1], calls[k]);
    }
  }
  if (pairs.empty()) return false;
  const auto [a, b] = pairs[mix(f.seed, 0x5a9) % pairs.size()];
  std::swap(program[a].collective, program[b].collective);
  program[a].trap = true;
  return true;
}

// The last blocking call to the data group goes before the one to the other group of the cycle.
bool swap_groups(const Layout& layout, const Catalog& catalog, Program& program) {
  const Slot inner = layout.has(kTp) ? kTp : kModel;
  std::optional<size_t> first, second;
  for (size_t i = 0; i < program.size(); ++i) {
    if (program[i].op != Op::kCollective) continue;
    const Slot slot = catalog[program[i].collective].slot;
    if (slot == kData) second = i;
    if (slot == inner && catalog[program[i].collective].operation == "all_reduce") first = i;
  }
  if (!first || !second || *first > *second) return false;
  std::swap(program[*first].collective, program[*second].collective);
  program[*first].trap = true;
  return true;
}

bool forget_receive(const ActiveFault& f, const Layout& layout, uint32_t rank, Program& program) {
  const auto sender = static_cast<uint32_t>(f.fault.rank);
  const uint8_t channel = layout.next[rank] == sender ? 0 : 1;
  const std::vector<size_t> receives = places(
      program, [&](const Instruction& i) { return i.op == Op::kReceive && i.channel == channel; });
  if (receives.empty()) return false;
  const auto which = static_cast<uint32_t>(mix(f.seed, 0x4ec) % receives.size());
  program.erase(program.begin() + static_cast<ptrdiff_t>(receives[which]));
  program[receives[which]].trap = true;
  std::erase_if(program, [&](const Instruction& i) {
    return i.op == Op::kAwait && i.channel == channel && i.value == which;
  });
  for (Instruction& i : program) {
    if (i.op == Op::kAwait && i.channel == channel && i.value > which) --i.value;
  }
  return true;
}

bool break_network(const ActiveFault& f, const Catalog& catalog, const Layout& layout,
                   Program& program) {
  const auto from = static_cast<uint32_t>(f.fault.rank), to = static_cast<uint32_t>(f.fault.peer);
  const auto at = pick(f, program, [&](const Instruction& i) {
    if (!is_call(i)) return false;
    const Collective& c = catalog[i.collective];
    const Group& group = layout.groups[layout.group_of[c.slot][from]];
    const uint32_t next = (layout.position[c.slot][from] + 1) % group.size();
    return c.bytes >= 4096 && group.ranks[next] == to;
  });
  const auto message = pick(f, program, [&](const Instruction& i) {
    return i.op == Op::kSend && (i.channel == 0 ? layout.next : layout.previous)[from] == to;
  });
  if (!at && !message) return false;
  Instruction& call = program[at ? *at : *message];
  call.breaks = call.trap = true;
  return true;
}

bool is_device_work(const Instruction& i) {
  return i.op == Op::kCompute || i.op == Op::kData;
}

}  // namespace

bool is_program_fault(Class cls) {
  return (cls >= Class::kDesyncOrder && cls <= Class::kMessageUnmatched);
}

bool is_persistent(Class cls) {
  return cls == Class::kMismatchDtype || cls == Class::kMismatchReduction;
}

bool apply_to_program(const ActiveFault& f, uint32_t rank, const Layout& layout, Catalog& catalog,
                      Program& program) {
  switch (f.fault.cls) {
    case Class::kDesyncOrder:
      return swap_neighbours(f, rank, layout, catalog, program);
    case Class::kMismatchSize:
      return call_wrongly(f, rank, layout, catalog, program, halve);
    case Class::kMismatchDtype:
      return call_wrongly(f, rank, layout, catalog, program, retype);
    case Class::kMismatchRoot:
      return call_wrongly(f, rank, layout, catalog, program, move_root);
    case Class::kMismatchReduction:
      return call_wrongly(f, rank, layout, catalog, program, average);
    case Class::kMissingCall: {
      const auto at =
          pick(f, program, [](const Instruction& i) { return i.op == Op::kCollective; });
      if (!at) return false;
      program.erase(program.begin() + static_cast<ptrdiff_t>(*at));
      program[*at].trap = true;
      return true;
    }
    case Class::kNotJoined:
      program.insert(program.begin(), {.op = Op::kHalt, .trap = true});
      return true;
    case Class::kCrash:
      return insert(f, program, Op::kDie, 1, is_call);
    case Class::kHostHang:
      return insert(f, program, Op::kHalt, 0, is_device_work);
    case Class::kGpuStuck:
      return insert(f, program, Op::kStick, 0, is_call);
    case Class::kNetHang:
      return break_network(f, catalog, layout, program);
    case Class::kDeadlockCycle:
      return swap_groups(layout, catalog, program);
    case Class::kMessageUnmatched:
      return forget_receive(f, layout, rank, program);
    default:
      return true;
  }
}

}  // namespace convoy::sim
