#include "src/resilience/chaos/invariants.h"

#include <convoy/resilience/policy.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <string_view>

namespace convoy::resilience::chaos {
namespace {

constexpr size_t kTextsKept = 5;  // of one invariant
// An incident's time is a whole second.
constexpr double kClockSlack = 1.5;
constexpr int kMajority = 3;  // so many replicas tell which one is wrong
// Of losses behind a flip that one replica was healed of.
constexpr double kHealedTolerance = 0.05;

// Whether some part of the model has no rank left that holds it.
bool loses_a_part(const std::set<int>& ranks, const Mesh& mesh) {
  const auto groups = mesh.groups({"dp"});
  return std::any_of(groups.begin(), groups.end(), [&](const std::vector<int>& group) {
    return std::all_of(group.begin(), group.end(), [&](int r) { return ranks.contains(r); });
  });
}

bool is_equal(double a, double b, double tolerance) {
  if (a == b || (std::isnan(a) && std::isnan(b))) return true;
  return std::abs(a - b) <= tolerance * std::max(std::abs(a), std::abs(b));
}

void check_number(int64_t step, const char* name, const std::map<std::string, double>& has,
                  const std::map<std::string, double>& should, const char* invariant,
                  double tolerance, Invariants* invariants) {
  const auto a = has.find(name), b = should.find(name);
  if (a == has.end() || b == should.end()) return;
  std::array<char, 160> text{};
  std::snprintf(text.data(), text.size(), "%s of step %lld is %.17g, undisturbed %.17g", name,
                static_cast<long long>(step), a->second, b->second);
  invariants->check(invariant, is_equal(a->second, b->second, tolerance), text.data());
}

// What it looks like that a bit has flipped: that it was found, in time, and whose it was. Two
// replicas know that only when they come to the step again: the rank's log tells.
void check_flip(const Done& flip, const std::vector<IncidentRecord>& incidents, const Mesh& mesh,
                const Promise& promise, Invariants* invariants) {
  const std::string name = "fault " + std::to_string(flip.id) + " (" + describe(flip.fault) +
                           ", after step " + std::to_string(flip.struck.flipped_step) + ")";
  const IncidentRecord* found = found_by(flip, incidents);
  const int64_t step = found == nullptr ? -1 : differing_step(*found);
  const int64_t last = flip.struck.flipped_step + promise.check_steps;
  // Most are gone with the step: it is repeated for its norm, or the gradient was not needed again.
  const bool is_of_it = step >= flip.struck.flipped_step && step <= last;
  if (flip.fault.kind == Kind::kFlipGradient && !is_of_it) return;
  invariants->check("found", step >= 0 && step <= last,
                    name + (step < 0 ? " was not found"
                                     : " was found after step " + std::to_string(step) +
                                           ", promised: " + std::to_string(last)));
  if (found == nullptr || mesh.size("dp") < kMajority) return;
  invariants->check("culprit", found->ranks == flip.struck.ranks,
                    name + " is said to be " + found->what);
}

}  // namespace

const IncidentRecord* found_by(const Done& flip, const std::vector<IncidentRecord>& incidents) {
  const auto at = std::find_if(incidents.begin(), incidents.end(), [&](const IncidentRecord& r) {
    return r.generation == flip.generation && differing_step(r) >= 0;
  });
  return at == incidents.end() ? nullptr : &*at;
}

int64_t differing_step(const IncidentRecord& incident) {
  static constexpr std::string_view kBefore = "after step ";
  if (incident.kind != name_of(FaultKind::kCorruption)) return -1;
  const size_t at = incident.what.find(kBefore);
  if (at == std::string::npos) return -1;
  return std::strtoll(incident.what.c_str() + at + kBefore.size(), nullptr, 10);
}

void Invariants::check(const std::string& name, bool holds, const std::string& text) {
  auto at =
      std::find_if(list_.begin(), list_.end(), [&](const Invariant& i) { return i.name == name; });
  if (at == list_.end()) at = list_.insert(list_.end(), Invariant{.name = name});
  ++at->checked;
  if (holds) return;
  if (at->broken.size() < kTextsKept) at->broken.push_back(text);
}

bool Invariants::all_hold() const {
  return std::all_of(list_.begin(), list_.end(),
                     [](const Invariant& i) { return i.broken.empty(); });
}

std::vector<const Done*> causes_of(const IncidentRecord& incident, const std::vector<Done>& done) {
  const double end = incident.unix_time + kClockSlack + std::max(incident.first_step, 0.0);
  const auto belongs = [&](const Done& d) {
    return d.generation >= incident.generation && d.generation <= incident.next_generation &&
           d.why_not.empty() && d.unix_time <= end;
  };
  std::vector<const Done*> causes;
  bool is_chain = false;  // the one behind it came while the job was recovering from this one
  for (auto d = done.rbegin(); d != done.rend(); ++d) {
    const bool is_cause = belongs(*d) || (is_chain && d->why_not.empty());
    is_chain = is_cause ? d->was_recovering : is_chain && !d->why_not.empty();
    if (is_cause) causes.push_back(&*d);
  }
  return causes;
}

int64_t promised(const IncidentRecord& incident, const std::vector<Done>& done, const Mesh& mesh,
                 const Promise& promise) {
  std::set<int> lost(incident.ranks.begin(), incident.ranks.end());
  bool has_memory = true;  // the agent's, which holds the newest snapshots
  for (const Done* cause : causes_of(incident, done)) {
    if (cause->fault.kind == Kind::kCorrupt) return promise.folder_steps;
    if (flips(cause->fault.kind)) {
      if (mesh.size("dp") >= kMajority) return 0;
      return promise.check_steps + promise.folder_steps;
    }
    const bool is_recent = cause->step + promise.steps + 1 >= incident.step;
    if (cause->fault.kind == Kind::kKillAgent && is_recent) has_memory = false;
    if (breaks_ranks(cause->fault.kind)) {
      lost.insert(cause->struck.ranks.begin(), cause->struck.ranks.end());
    }
  }
  if (!promise.is_sharded && !loses_a_part(lost, mesh)) return 0;
  return has_memory ? promise.steps : std::max(promise.steps, promise.folder_steps);
}

void check_incidents(const std::vector<IncidentRecord>& incidents, const std::vector<Done>& done,
                     const Mesh& mesh, const Promise& promise, Invariants* invariants) {
  for (const IncidentRecord& r : incidents) {
    const std::string name = "incident " + std::to_string(r.id) + " (" + r.what + ")";
    invariants->check("survived", r.survived, name + " ended the job: " + r.reason);
    const auto causes = causes_of(r, done);
    const bool is_caused = std::any_of(causes.begin(), causes.end(),
                                       [](const Done* d) { return needs_recovery(d->fault); });
    invariants->check("caused", is_caused, name + ": nothing was done that should need a recovery");
    const int64_t most = promised(r, done, mesh, promise);
    invariants->check("steps_lost", !r.survived || r.steps_lost() <= most,
                      name + " lost " + std::to_string(r.steps_lost()) +
                          " steps, promised: " + std::to_string(most));
    for (const Done* cause : causes) {
      if (cause->struck.damaged_step < 0) continue;
      invariants->check("damage_refused", r.resumed != cause->struck.damaged_step,
                        name + ": training went on from step " + std::to_string(r.resumed) +
                            ", which had been damaged in the folder");
    }
  }
  for (const Done& d : done) {
    if (d.struck.flipped_step >= 0) check_flip(d, incidents, mesh, promise, invariants);
  }
}

Result<Metrics> read_metrics(const std::string& path) {
  std::ifstream file(path);
  if (!file) return Status(Code::kNotFound, "there is no " + path);
  Metrics metrics;
  for (std::string line; std::getline(file, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("step") || !json.contains("loss")) continue;
    std::map<std::string, double> numbers;
    for (const auto& [name, value] : json.items()) {
      if (value.is_number()) numbers[name] = value.get<double>();
    }
    metrics.emplace(static_cast<int64_t>(numbers["step"]), std::move(numbers));
  }
  return metrics;
}

std::vector<Spoilt> spoilt_by(const std::vector<Done>& done, const Mesh& mesh,
                              const Promise& promise) {
  std::vector<Spoilt> spoilt;
  for (const Done& d : done) {
    const int64_t flipped = d.struck.flipped_step;
    if (flipped < 0) continue;
    spoilt.push_back({flipped + 1, flipped + promise.check_steps, mesh.size("dp") < kMajority});
  }
  return spoilt;
}

void check_metrics(const Metrics& metrics, const Metrics& reference, double tolerance,
                   const std::vector<Spoilt>& spoilt, Invariants* invariants) {
  if (metrics.empty()) return;
  for (int64_t step = metrics.begin()->first; step <= metrics.rbegin()->first; ++step) {
    invariants->check("every_step", metrics.contains(step),
                      "step " + std::to_string(step) + " was never done");
  }
  for (auto at = metrics.begin(); at != metrics.end(); ++at) {
    const auto& [step, has] = *at;
    const auto should = reference.find(step);
    if (should == reference.end()) continue;
    const bool is_last = std::next(at) == metrics.end() || std::next(at)->first != step;
    double allowed = tolerance;  // of the loss; a gradient's norm jumps too much to be near another
    bool is_exact = true;
    bool counts = true;
    for (const Spoilt& s : spoilt) {
      if (!s.are_redone && step >= s.first) is_exact = false;
      if (s.are_redone && step >= s.first && step <= s.last) counts = counts && is_last;
    }
    if (!counts) continue;
    if (!is_exact) allowed = std::max(allowed, kHealedTolerance);
    check_number(step, "loss", has, should->second, "numbers", allowed, invariants);
    if (is_exact)
      check_number(step, "grad_norm", has, should->second, "numbers", tolerance, invariants);
    check_number(step, "tokens", has, should->second, "sample_order", 0, invariants);
  }
}

}  // namespace convoy::resilience::chaos
