// Chrome's JSON trace format: one file, a process for each rank, a thread for each lane.
#include "trace/export/json_text.h"
#include "trace/export/labels.h"
#include "trace/export/lane_exporter.h"

#include <algorithm>

namespace convoy::trace {
namespace {

class Chrome final : public LaneExporter {
 public:
  Chrome(OutputFile file, const Registry& registry, const Survey& survey)
      : LaneExporter(std::move(file), registry, survey), labels_(registry) {
    base_ = survey.bounds().first;
    file_.text() += "{\"displayTimeUnit\": \"ms\", \"baseTimeNanoseconds\": ";
    append_number(file_.text(), base_);
    file_.text() += ", \"traceEvents\": [";
  }

  Status finish(const std::vector<Verdict>& verdicts) override {
    tracks_.finish();
    for (const Verdict& v : verdicts) verdict(v);
    file_.text() += "\n]}\n";
    const Status status = file_.close();
    summary_.verdicts = verdicts.size();
    summary_.files = 1;
    summary_.bytes = summary_.plain_bytes = file_.bytes();
    return status;
  }

 private:
  static constexpr int64_t kVerdictsPid = -1;

  // {"ph": "X", "pid": 3, "tid": 7, "ts": 12.5, "name": "step", without its end.
  std::string& event(char phase, int64_t pid, uint64_t tid, int64_t time, std::string_view quoted) {
    std::string& out = file_.text();
    out += events_++ == 0 ? "\n{\"ph\": \"" : ",\n{\"ph\": \"";
    out.push_back(phase);
    out += "\", \"pid\": ";
    append_number(out, pid);
    out += ", \"tid\": ";
    append_unsigned(out, tid);
    out += ", \"ts\": ";
    append_us(out, time);
    out += ", \"name\": ";
    out += quoted;
    return out;
  }

  static std::string quoted(std::string_view text) {
    std::string out;
    append_quoted(out, text);
    return out;
  }

  void done() {
    file_.text() += "}";
    file_.flush_if_full();
  }

  void metadata(int64_t pid, uint64_t tid, const char* what, std::string_view name) {
    std::string& out = event('M', pid, tid, 0, quoted(what));
    out += ", \"args\": {\"name\": ";
    append_quoted(out, name);
    out += "}";
    done();
  }

  void order(int64_t pid, uint64_t tid, const char* what, int64_t place) {
    std::string& out = event('M', pid, tid, 0, quoted(what));
    out += ", \"args\": {\"sort_index\": ";
    append_number(out, place);
    out += "}";
    done();
  }

  void describe(uint32_t rank) override {
    metadata(rank, 0, "process_name", survey_.title(rank));
    order(rank, 0, "process_sort_index", rank);
  }

  void open(const Lane& lane) override {
    const Track& track = lane.track;
    describe_once(track.rank);
    const bool thread = track.kind == TrackKind::kThread;
    std::string name =
        thread ? "thread " + std::to_string(track.id)
               : track_label(registry_.groups()[track.id].name, track.kind != TrackKind::kGroup,
                             track.kind == TrackKind::kReceive);
    if (lane.row > 0) name += " (" + std::to_string(lane.row + 1) + ")";
    metadata(track.rank, tid(lane), "thread_name", name);
    const uint64_t place =
        thread ? track.id
               : (uint64_t{1} << 16) + 4 * uint64_t{track.id} + static_cast<uint64_t>(track.kind);
    order(track.rank, tid(lane), "thread_sort_index",
          static_cast<int64_t>(std::min<uint64_t>(place * 64 + lane.row, INT32_MAX)));
  }

  static uint64_t tid(const Lane& lane) { return lane.number + 1; }

  void begin(const Lane& lane, const Slice& slice) override {
    const bool open = slice.end == Slice::kUnfinished;
    const bool span = slice.sequence == 0;
    std::string& out = event(open ? 'B' : 'X', lane.track.rank, tid(lane), slice.begin - base_,
                             span ? labels_.name(slice.what) : labels_.operation(slice.what));
    out += span ? ", \"cat\": \"span\"" : ", \"cat\": \"operation\"";
    if (!open) {
      out += ", \"dur\": ";
      append_us(out, slice.end - slice.begin);
    }
    if (span) {
      out += ", \"args\": {\"value\": ";
      append_unsigned(out, slice.value);
    } else {
      operation(out, lane.track, slice);
    }
    out += "}";
    done();
  }

  // The other sides of it are found by bind_id, which viewers draw arrows between.
  void operation(std::string& out, const Track& track, const Slice& slice) {
    const Signature& s = registry_.signatures()[slice.what];
    out += ", \"bind_id\": \"";
    out += labels_.group(track.id);
    out.push_back('/');
    append_unsigned(out, slice.sequence);
    if (s.is_message()) {
      const bool receives = track.kind == TrackKind::kReceive;
      const auto peer = static_cast<uint32_t>(s.peer);
      out.push_back('/');
      append_unsigned(out, receives ? peer : track.rank);
      out.push_back('-');
      append_unsigned(out, receives ? track.rank : peer);
    }
    out.push_back('"');
    out += ", \"flow_in\": true, \"flow_out\": true, \"args\": {\"sequence\": ";
    append_unsigned(out, slice.sequence);
    out += ", \"bytes\": ";
    append_unsigned(out, s.bytes);
    if (slice.issued != 0) {
      out += ", \"us from issue to start\": ";
      append_us(out, slice.begin - slice.issued);
    }
  }

  void end(const Lane& /*lane*/, int64_t /*time*/) override {}

  void counter(uint32_t rank, const CounterEvent& c) override {
    describe_once(rank);
    std::string& out = event('C', rank, 0, c.time - base_,
                             quoted(counter_label(registry_.names()[c.name], c.peer)));
    out += ", \"args\": {\"value\": ";
    append_unsigned(out, c.value);
    out += "}";
    done();
  }

  void verdict(const Verdict& v) {
    const uint64_t tid = ++verdicts_;
    if (tid == 1) metadata(kVerdictsPid, 0, "process_name", "verdicts");
    const std::string culprit = culprit_label(v.culprit, registry_);
    std::string& out = event(
        'X', kVerdictsPid, tid, v.onset - base_,
        quoted(culprit.empty() ? std::string(name_of(v.cls)) : name_of(v.cls) + (": " + culprit)));
    const int64_t until = v.cleared != 0 ? v.cleared : survey_.bounds().second;
    out += ", \"cat\": \"verdict\", \"dur\": ";
    append_us(out, std::max<int64_t>(0, until - v.onset));
    out += ", \"args\": {\"summary\": ";
    append_quoted(out, v.summary);
    out += ", \"action\": ";
    append_quoted(out, v.action);
    out += "}";
    done();
  }

  QuotedLabels labels_;
  int64_t base_ = 0;
  uint64_t events_ = 0, verdicts_ = 0;
};

}  // namespace

Result<std::unique_ptr<Exporter>> create_chrome(const std::filesystem::path& path,
                                                const Registry& registry, const Survey& survey) {
  CONVOY_ASSIGN_OR_RETURN(OutputFile file, OutputFile::create(path));
  return std::unique_ptr<Exporter>(std::make_unique<Chrome>(std::move(file), registry, survey));
}

}  // namespace convoy::trace
