// What the views show, as JSON. Nothing here looks into the registry but verdict_json() and
// hint_json(), which are called on the sink's side.
#include "trace/summary/impl.h"
#include <convoy/trace/summary.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace convoy::trace {

using Json = nlohmann::ordered_json;

namespace {

constexpr size_t kStepsShown = 400;
constexpr int64_t kSilentNs = 3'000'000'000;

int64_t whole(double value) {
  return std::llround(value);
}

Json parts_json(const Parts& parts, size_t count) {
  Json out = Json::array();
  for (size_t i = 0; i < count; ++i) out.push_back(whole(parts[i]));
  return out;
}

template <class T>
Json first_of(const std::vector<T>& list) {
  Json out = Json::array();
  for (size_t i = 0; i < std::min(list.size(), kListMax); ++i) out.push_back(list[i]);
  return out;
}

Json group_json(uint32_t group, const Registry& registry) {
  const bool known = group < registry.groups().size();
  return {{"id", group}, {"name", known ? registry.groups()[group].name : "?"}};
}

Json evidence_json(const std::vector<Evidence>& evidence, const Registry& registry) {
  Json out = Json::array();
  for (size_t i = 0; i < std::min(evidence.size(), kListMax); ++i) {
    const Evidence& e = evidence[i];
    out.push_back({{"rank", e.rank},
                   {"group", group_json(e.group, registry)},
                   {"sequence", e.sequence},
                   {"text", e.text}});
  }
  return out;
}

Json steps_json(const JobSteps& steps, size_t parts) {
  const std::vector<JobStep> all = steps.all();
  const size_t stride = (all.size() + kStepsShown - 1) / kStepsShown;
  Json out = {
      {"step", Json::array()},      {"begin_us", Json::array()},    {"end_us", Json::array()},
      {"median_us", Json::array()}, {"shortest_us", Json::array()}, {"longest_us", Json::array()},
      {"slowest", Json::array()},   {"ranks", Json::array()},       {"parts_us", Json::array()}};
  // From the back, so that the newest is always among them.
  std::vector<const JobStep*> shown;
  for (size_t i = all.size(); i > 0; i -= std::min(i, std::max<size_t>(1, stride))) {
    shown.push_back(&all[i - 1]);
  }
  for (auto at = shown.rbegin(); at != shown.rend(); ++at) {
    const JobStep& s = **at;
    out["step"].push_back(s.step);
    out["begin_us"].push_back(micros(s.begin));
    out["end_us"].push_back(micros(s.end));
    out["median_us"].push_back(whole(s.median));
    out["shortest_us"].push_back(whole(s.shortest));
    out["longest_us"].push_back(whole(s.longest));
    out["slowest"].push_back(s.slowest);
    out["ranks"].push_back(s.ranks);
    out["parts_us"].push_back(parts_json(s.parts, parts));
  }
  return out;
}

}  // namespace

Json verdict_json(const Verdict& v, const Registry& registry) {
  Json groups = Json::array();
  for (size_t i = 0; i < std::min(v.culprit.groups.size(), kListMax); ++i) {
    groups.push_back(group_json(v.culprit.groups[i], registry));
  }
  return {{"class", name_of(v.cls)},
          {"description", description_of(v.cls)},
          {"summary", v.summary},
          {"action", v.action.empty() ? action_of(v.cls) : v.action},
          {"culprit",
           {{"ranks", first_of(v.culprit.ranks)},
            {"hosts", first_of(v.culprit.hosts)},
            {"links", first_of(v.culprit.links)},
            {"groups", groups},
            {"stage", v.culprit.stage},
            {"all_ranks", v.culprit.ranks.size()},
            {"all_links", v.culprit.links.size()}}},
          {"onset_us", micros(v.onset)},
          {"told_us", micros(v.told)},
          {"due_us", v.due == 0 ? Json() : Json(micros(v.due))},
          {"cleared_us", micros(v.cleared)},
          {"confidence", v.confidence},
          {"runner_up", name_of(v.runner_up)},
          {"runner_up_confidence", v.runner_up_confidence},
          {"cost", v.cost},
          {"period_s", v.period_s},
          {"evidence", evidence_json(v.evidence, registry)}};
}

Json hint_json(const Hint& h, const Registry& registry) {
  return {{"name", h.name},
          {"gain", h.gain},
          {"confidence", h.confidence},
          {"summary", h.summary},
          {"evidence", evidence_json(h.evidence, registry)}};
}

std::string Summary::Impl::group_name(uint32_t group) const {
  const Group* const g = collectives.find(group);
  return g == nullptr ? "?" : g->info.name;
}

std::string Summary::Impl::signature_text(uint32_t number) const {
  return number < signatures.size() ? signatures[number].text : "?";
}

bool Summary::Impl::differ(const Instance& instance) const {
  if (instance.signature >= signatures.size()) return false;
  for (const Member& m : instance.members) {
    if (m.issued == 0 || m.signature == instance.signature) continue;
    if (m.signature >= signatures.size()) return true;
    Signature other = signatures[m.signature].signature;
    const Signature& first_one = signatures[instance.signature].signature;
    if (other.uneven && first_one.uneven) other.bytes = first_one.bytes;
    if (!(other == first_one)) return true;
  }
  return false;
}

std::vector<std::string> Summary::Impl::part_names() const {
  std::vector<std::string> all(kPhaseNames.begin(), kPhaseNames.end());
  for (const std::string& kind : collectives.kinds()) all.push_back(kind + " collectives");
  return all;
}

bool Summary::Impl::silent(const RankSummary& r) const {
  const bool ended = r.life == Life::kExited || r.life == Life::kKilled;
  return r.heard && !ended && r.last != 0 && now - r.last > kSilentNs;
}

const char* Summary::Impl::life_of(const RankSummary& r) const {
  if (!r.heard) return "not heard";
  if (silent(r)) return "silent";
  return name_of(r.life);
}

std::string Summary::overview() const {
  const Impl& s = *impl_;
  Json mesh = Json::array();
  for (const Dimension& d : s.info.mesh) mesh.push_back({{"name", d.name}, {"size", d.size}});
  std::array<uint64_t, 6> lives{};
  uint64_t heard = 0, silent = 0, missing = 0, lost = 0, shed = 0;
  double tokens = 0;
  for (const RankSummary& r : s.ranks) {
    if (!r.heard) continue;
    ++heard;
    ++lives[std::min<size_t>(static_cast<size_t>(r.life), lives.size() - 1)];
    silent += s.silent(r) ? 1 : 0;
    missing += r.missing;
    lost += r.lost;
    shed += r.shed;
    const double seconds = r.counters.recent_s();
    if (seconds > 0) {
      tokens += static_cast<double>(r.counters[ProcessFigure::kTokens].recent()) / seconds;
    }
  }
  Json ranks = {{"heard", heard}, {"silent", silent}};
  for (size_t i = 0; i < lives.size(); ++i) ranks[name_of(static_cast<Life>(i))] = lives[i];
  int64_t clock_error = 0;
  for (uint32_t host = 0; host < s.clocks.hosts().size(); ++host) {
    clock_error = std::max(clock_error, s.clocks.host_error(host));
  }
  const std::vector<std::string> parts = s.part_names();
  return Json{{"job", s.info.job},
              {"generation", s.info.generation},
              {"world_size", s.ranks.size()},
              {"mesh", mesh},
              {"hosts", s.clocks.hosts().size()},
              {"first_us", micros(s.first)},
              {"now_us", micros(s.now)},
              {"window_steps", s.options.window_steps},
              {"ranks", ranks},
              {"parts", parts},
              {"phases", kPhases},
              {"tokens_per_s", whole(tokens)},
              {"clock_error_us",
               clock_error >= ClockModel::kErrorUnknown ? Json() : Json(micros(clock_error))},
              {"recorded",
               {{"operations", s.operations},
                {"spans", s.spans},
                {"batches", s.batches},
                {"batches_missing", missing},
                {"lost", lost},
                {"shed", shed},
                {"ignored", s.ignored}}},
              {"steps", steps_json(s.steps, parts.size())},
              {"verdicts", s.verdicts},
              {"hints", s.hints}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string Summary::ranks() const {
  const Impl& s = *impl_;
  const std::vector<std::string> names = s.part_names();
  Json host = Json::array(), life = Json::array(), age = Json::array(), step = Json::array();
  Json total = Json::array(), late = Json::array(), lost = Json::array(), pid = Json::array();
  std::vector<Json> parts(names.size(), Json::array());
  for (uint32_t rank = 0; rank < s.ranks.size(); ++rank) {
    const RankSummary& r = s.ranks[rank];
    const uint32_t on = s.clocks.host_of(rank);
    host.push_back(on == ClockModel::kNone ? -1 : static_cast<int64_t>(on));
    pid.push_back(r.pid);
    life.push_back(s.life_of(r));
    age.push_back(r.last == 0 ? -1 : micros(s.now - r.last));
    step.push_back(r.steps.window().empty() ? 0 : r.steps.window().back().step);
    total.push_back(whole(r.steps.median()));
    late.push_back(whole(r.steps.mean_late()));
    lost.push_back(r.lost + r.shed);
    const Parts mean = r.steps.mean_parts();
    for (size_t i = 0; i < parts.size(); ++i) parts[i].push_back(whole(mean[i]));
  }
  Json hosts = Json::array();
  for (const std::string& name : s.clocks.hosts()) hosts.push_back(name);
  return Json{{"hosts", hosts}, {"host", host},   {"pid", pid},       {"life", life},
              {"age_us", age},  {"step", step},   {"step_us", total}, {"late_us", late},
              {"lost", lost},   {"parts", names}, {"parts_us", parts}}
      .dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace convoy::trace
