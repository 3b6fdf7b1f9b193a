// What the ranks' reports say together. Ranks of one job make the same mistake with other numbers
// (their device, a stream, an allocation), so texts that differ in numbers only are one finding.
// Leaks are decided here, not by the process: only what ran to its end well had the time to free.
#include "src/launch/rehearsal.h"
#include <convoy/base/units.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <utility>

namespace convoy::launch {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kFindingsShown = 20;  // the reports have all
// torch's caching allocator never gives back at exit what it asked for; that is no leak.
constexpr std::string_view kCachingAllocator = "libc10_cuda.so";

// With every number (and hexadecimal address) as '#'.
std::string without_numbers(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (std::isdigit(static_cast<unsigned char>(text[i])) == 0) {
      out += text[i];
      continue;
    }
    const bool hexadecimal = text[i] == '0' && i + 1 < text.size() && text[i + 1] == 'x';
    if (hexadecimal) i += 2;
    const auto belongs = [&](char c) {
      const auto byte = static_cast<unsigned char>(c);
      return hexadecimal ? std::isxdigit(byte) != 0 : std::isdigit(byte) != 0;
    };
    while (i + 1 < text.size() && belongs(text[i + 1])) ++i;
    out += '#';
  }
  return out;
}

constexpr const char* kNeverMet = "collective never met";  // as the stand-in says

class Collector {
 public:
  explicit Collector(bool recovered) : recovered_(recovered) {}

  void add(int rank, const std::string& kind, const std::string& text, uint64_t count) {
    RehearsalFinding& finding = findings_[{kind, without_numbers(text)}];
    if (finding.count == 0) {
      finding.kind = kind;
      finding.text = text;
    }
    finding.seen.insert(text);
    finding.count += count;
    finding.ranks.insert(rank);
    active_.insert(rank);
  }

  void add_report(const RankExit& exit, const Json& report) {
    const bool ended = report.value("ended", false);
    if (!ended) unfinished_.insert(exit.rank);
    for (const Json& finding : report.value("findings", Json::array())) {
      const std::string kind = finding.value("kind", ""), text = finding.value("text", "");
      const auto count = finding.value("count", uint64_t{1});
      if (recovered_ && kind == kNeverMet) {  // whatever else had hung would not have recovered
        cut_off_ += count;
      } else {
        add(exit.rank, kind, text, count);
      }
    }
    for (const Json& device : report.value("devices", Json::array())) {
      add_device(exit, device, ended);
    }
  }

  bool is_unfinished(int rank) const { return unfinished_.count(rank) != 0; }
  // Has used no GPU, though it had the time.
  bool is_idle(int rank) const { return !is_unfinished(rank) && active_.count(rank) == 0; }

  void move_to(RehearsalSummary* summary) {
    for (auto& [key, finding] : findings_) summary->findings.push_back(std::move(finding));
    summary->devices = std::move(devices_);
    summary->cut_off = cut_off_;
  }

 private:
  void add_device(const RankExit& exit, const Json& device, bool ended) {
    const int number = device.value("device", 0);
    const auto peak = device.value("peak", uint64_t{0});
    if (peak == 0) return;
    active_.insert(exit.rank);
    devices_[number].capacity = device.value("capacity", uint64_t{0});
    devices_[number].peaks[exit.rank] += peak;
    if (!ended || !is_success(exit)) return;
    for (const Json& owner : device.value("owners", Json::array())) {
      const std::string who = owner.value("owner", "");
      if (who.find(kCachingAllocator) != std::string::npos) continue;
      const auto count = owner.value("count", uint64_t{0});
      add(exit.rank, "leak",
          std::to_string(count) + (count == 1 ? " allocation" : " allocations") + " of " +
              std::to_string(owner.value("bytes", uint64_t{0})) + " bytes on device " +
              std::to_string(number) + " (" + who + ") were not freed when the program ended",
          1);
    }
  }

  std::map<std::pair<std::string, std::string>, RehearsalFinding> findings_;
  std::map<int, RehearsalDevice> devices_;
  std::set<int> active_, unfinished_;
  bool recovered_;
  uint64_t cut_off_ = 0;
};

std::vector<Json> read_reports(const std::string& folder) {
  std::vector<std::filesystem::path> paths;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".json") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Json> reports;
  for (const auto& path : paths) {
    std::ifstream file(path);
    Json report = Json::parse(file, nullptr, false);  // one that is no JSON counts as unfinished
    reports.push_back(report.is_object() ? std::move(report) : Json::object());
  }
  return reports;
}

std::string number(uint64_t value, std::string_view noun) {
  return std::to_string(value) + " " + std::string(noun) + (value == 1 ? "" : "s");
}

std::string finding_text(const RehearsalFinding& finding) {
  std::string text = "  " + finding.kind + " (" + name_ranks(finding.ranks) + "; " +
                     number(finding.count, "time") + ")\n      " + finding.text;
  if (finding.seen.size() > 1) {
    text += "\n      and " + std::to_string(finding.seen.size() - 1) + " alike with other numbers";
  }
  return text + "\n";
}

std::string device_text(int device, const RehearsalDevice& use) {
  uint64_t peak = 0;
  std::set<int> ranks;
  for (const auto& [rank, bytes] : use.peaks) {
    peak += bytes;
    ranks.insert(rank);
  }
  std::string text = "  GPU " + std::to_string(device) + ": " + format_bytes(peak) + " of " +
                     format_bytes(use.capacity) + " at the peak, by " + name_ranks(ranks);
  if (ranks.size() > 1 && peak > use.capacity) {
    text +=
        ": together more than it has; on hardware they would run out of memory if their peaks "
        "meet";
  }
  return text + "\n";
}

// Ranks that ended alike share a line.
std::string unfinished_text(const std::vector<RankExit>& unfinished) {
  std::map<std::string, std::set<int>> ranks;
  for (const RankExit& exit : unfinished) {
    ranks[is_success(exit)
              ? "ended without running exit handlers (os._exit, or a subprocess was killed)"
              : "ended by " + how(exit)]
        .insert(exit.rank);
  }
  std::string text;
  for (const auto& [end, which] : ranks) {
    text += "  Not complete: " + name_ranks(which) + " " + end +
            " before the last report; leaks, red zones and the last peak are unknown.\n";
  }
  return text;
}

}  // namespace

std::string name_ranks(const std::set<int>& ranks) {
  std::vector<std::string> parts;
  for (auto it = ranks.begin(); it != ranks.end();) {
    const int first = *it;
    int last = first;
    while (++it != ranks.end() && *it == last + 1) last = *it;
    parts.push_back(std::to_string(first) + (last == first ? "" : "-" + std::to_string(last)));
  }
  return (ranks.size() == 1 ? "rank " : "ranks ") + enumerate(parts);
}

RehearsalSummary summarize_rehearsal(const std::string& run_dir, const std::vector<RankExit>& exits,
                                     bool recovered) {
  RehearsalSummary summary;
  Collector collector(recovered);
  for (const RankExit& exit : exits) {
    for (const Json& report :
         read_reports(exit.reports.empty() ? report_folder(run_dir, exit.rank) : exit.reports)) {
      collector.add_report(exit, report);
    }
    if (collector.is_unfinished(exit.rank)) summary.unfinished.push_back(exit);
    if (collector.is_idle(exit.rank)) summary.idle.push_back(exit.rank);
  }
  // A rehearsal that checks nothing must not look like one that found nothing.
  summary.all_well = std::all_of(exits.begin(), exits.end(), is_success);
  if (summary.all_well && summary.idle.size() == exits.size()) {
    for (const int rank : summary.idle) {
      collector.add(rank, "nothing rehearsed",
                    "no rank used a GPU: does the program choose the CPU, or is it linked without "
                    "shared libraries?",
                    1);
    }
  }
  collector.move_to(&summary);
  return summary;
}

std::string rehearsal_banner(const Rehearsal& rehearsal) {
  return "convoy: rehearsal: no GPU is used. " + number(rehearsal.gpus, "simulated GPU") + " of " +
         format_bytes(rehearsal.gpu_memory) + ", seed " + std::to_string(rehearsal.seed) +
         ". It shows mistakes with memory, order, devices and collectives; it says nothing of "
         "speed, of NCCL's algorithms, or of the last digits that a GPU computes "
         "(docs/REHEARSAL.md).";
}

std::string rehearsal_text(const Rehearsal& rehearsal, const RehearsalSummary& summary,
                           const std::string& run_dir) {
  const auto& findings = summary.findings;
  std::string text = "convoy: rehearsal: " +
                     (findings.empty() ? "nothing found" : number(findings.size(), "finding")) +
                     " (" + number(rehearsal.gpus, "simulated GPU") + ", seed " +
                     std::to_string(rehearsal.seed) + ", no hardware)\n";
  for (size_t i = 0; i < std::min(findings.size(), kFindingsShown); ++i) {
    text += finding_text(findings[i]);
  }
  if (findings.size() > kFindingsShown) {
    text += "  and " + std::to_string(findings.size() - kFindingsShown) + " more in the reports\n";
  }
  if (summary.cut_off > 0) {
    text += "  " + number(summary.cut_off, "collective") +
            " never met because a process died: the job went on without it\n";
  }
  for (const auto& [device, use] : summary.devices) text += device_text(device, use);
  text += unfinished_text(summary.unfinished);
  if (!summary.idle.empty()) {
    text += "  No GPU was used by " +
            name_ranks(std::set<int>(summary.idle.begin(), summary.idle.end())) + ".\n";
  }
  if (findings.empty() && summary.all_well && rehearsal.seed == 0) {
    text +=
        "  Seed 0 holds nothing back; --seed 1, 2, … delay and reorder what CUDA leaves open.\n";
  }
  return text + "  Reports: " + run_dir + "/rehearsal; what findings mean: docs/REHEARSAL.md";
}

std::string rehearsal_event(const Rehearsal& rehearsal, const RehearsalSummary& summary) {
  Json json{{"event", "rehearsal"},
            {"gpus", rehearsal.gpus},
            {"gpu_memory", rehearsal.gpu_memory},
            {"seed", rehearsal.seed},
            {"findings", Json::array()},
            {"devices", Json::array()},
            {"unfinished_ranks", Json::array()},
            {"idle_ranks", summary.idle}};
  for (const RehearsalFinding& f : summary.findings) {
    json["findings"].push_back({{"kind", f.kind},
                                {"text", f.text},
                                {"count", f.count},
                                {"texts", f.seen.size()},
                                {"ranks", f.ranks}});
  }
  for (const auto& [device, use] : summary.devices) {
    Json peaks = Json::array();
    for (const auto& [rank, peak] : use.peaks) peaks.push_back({{"rank", rank}, {"peak", peak}});
    json["devices"].push_back({{"device", device}, {"capacity", use.capacity}, {"peaks", peaks}});
  }
  for (const RankExit& exit : summary.unfinished) json["unfinished_ranks"].push_back(exit.rank);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace convoy::launch
