// Histories of byte ranges in an ordered map of segments, split where accesses begin and end.
#include "src/standin/core/order.h"

#include <algorithm>
#include <cstdio>
#include <iterator>

namespace convoy::standin {

void OrderChecker::merge_clock(Clock& clock, const Clock& other) {
  if (clock.size() < other.size()) clock.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) clock[i] = std::max(clock[i], other[i]);
}

OrderChecker::Actor OrderChecker::add(std::string name) {
  const std::lock_guard lock(mutex_);
  names_.push_back(std::move(name));
  const auto actor = static_cast<Actor>(names_.size() - 1);
  // Made by the host, so it begins with what the host knows.
  Clock begin = clocks_[kHost];
  begin.resize(names_.size());
  clocks_.push_back(std::move(begin));
  return actor;
}

bool OrderChecker::knows(const Clock& clock, const Event& event) const {
  return event.tick == 0 || (event.actor < clock.size() && clock[event.actor] >= event.tick);
}

void OrderChecker::split(uintptr_t at) {
  auto found = segments_.upper_bound(at);
  if (found == segments_.begin()) return;
  --found;
  if (found->first == at || found->second.end <= at) return;
  Segment right = found->second;
  found->second.end = at;
  segments_.emplace(at, std::move(right));
}

// Makes segments so that [begin, end) is made of whole ones, without gaps.
void OrderChecker::cover(uintptr_t begin, uintptr_t end) {
  split(begin);
  split(end);
  uintptr_t at = begin;
  for (auto it = segments_.lower_bound(begin); at < end;) {
    const uintptr_t next = it == segments_.end() ? end : std::min(end, it->first);
    if (at < next) {
      Segment fresh;
      fresh.end = next;
      segments_.emplace(at, std::move(fresh));
      at = next;
      continue;
    }
    at = it->second.end;
    ++it;
  }
}

OrderChecker::Clock OrderChecker::perform(Actor actor, const std::string& task,
                                          const std::vector<Access>& accesses, const Clock& after,
                                          std::vector<std::string>& findings) {
  const std::lock_guard lock(mutex_);
  Clock& clock = clocks_[actor];
  merge_clock(clock, after);
  const Event now{actor, ++clock[actor], task};
  std::vector<Event> told;
  for (const Access& access : accesses) {
    if (access.bytes == 0) continue;
    const auto begin = reinterpret_cast<uintptr_t>(access.data);
    const uintptr_t end = begin + access.bytes;
    const auto complain = [&](const Event& before, bool was_write) {
      const bool again = std::any_of(told.begin(), told.end(), [&](const Event& e) {
        return e.actor == before.actor && e.task == before.task;
      });
      if (again) return;
      told.push_back(before);
      findings.push_back(text(before, now, was_write, access.writes, begin, end));
    };
    cover(begin, end);
    for (auto it = segments_.lower_bound(begin); it != segments_.end() && it->first < end; ++it) {
      Segment& segment = it->second;
      if (!knows(clock, segment.writer)) complain(segment.writer, true);
      if (access.writes) {
        for (const Event& reader : segment.readers) {
          if (!knows(clock, reader)) complain(reader, false);
        }
        segment.writer = now;
        segment.readers.clear();
        continue;
      }
      const auto mine = std::find_if(segment.readers.begin(), segment.readers.end(),
                                     [&](const Event& e) { return e.actor == actor; });
      if (mine != segment.readers.end()) {
        *mine = now;
      } else {
        segment.readers.push_back(now);
      }
    }
    merge(begin, end);
  }
  return clock;
}

// Neighbours with the same history become one segment again, so that the map stays as small as the
// number of tensors.
void OrderChecker::merge(uintptr_t begin, uintptr_t end) {
  const auto same = [](const Segment& a, const Segment& b) {
    const auto equal = [](const Event& x, const Event& y) {
      return x.actor == y.actor && x.tick == y.tick;
    };
    return equal(a.writer, b.writer) && a.readers.size() == b.readers.size() &&
           std::equal(a.readers.begin(), a.readers.end(), b.readers.begin(), equal);
  };
  auto it = segments_.lower_bound(begin);
  while (it != segments_.end() && it->first < end) {
    const auto next = std::next(it);
    const bool one = next != segments_.end() && next->first < end &&
                     it->second.end == next->first && same(it->second, next->second);
    if (!one) {
      it = next;
      continue;
    }
    it->second.end = next->second.end;
    segments_.erase(next);
  }
}

std::string OrderChecker::text(const Event& before, const Event& now, bool was_write, bool is_write,
                               uintptr_t begin, uintptr_t end) const {
  char where[80];
  std::snprintf(where, sizeof where, "%zu bytes at 0x%zx", static_cast<size_t>(end - begin),
                static_cast<size_t>(begin));
  const std::string& mine = names_[now.actor];
  const std::string& other = names_[before.actor];
  std::string text = now.task + " on " + mine + (is_write ? " writes " : " reads ") + where +
                     ", which " + before.task + " on " + other +
                     (was_write ? " writes" : " reads") + ", and nothing orders the two. ";
  if (now.actor == kHost) {
    text += "Synchronise with " + other + " (cudaStreamSynchronize, or an event recorded behind " +
            before.task + ") before.";
  } else {
    text += "Record an event on " + other + " behind " + before.task + ", and let " + mine +
            " wait for it.";
  }
  return text;
}

void OrderChecker::join(Actor actor, const Clock& clock) {
  const std::lock_guard lock(mutex_);
  merge_clock(clocks_[actor], clock);
}

OrderChecker::Clock OrderChecker::clock(Actor actor) const {
  const std::lock_guard lock(mutex_);
  return clocks_[actor];
}

void OrderChecker::forget(const void* data, size_t bytes) {
  if (bytes == 0) return;
  const std::lock_guard lock(mutex_);
  const auto begin = reinterpret_cast<uintptr_t>(data);
  split(begin);
  split(begin + bytes);
  segments_.erase(segments_.lower_bound(begin), segments_.lower_bound(begin + bytes));
}

}  // namespace convoy::standin
