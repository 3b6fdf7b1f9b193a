// Perfetto's protobuf trace, written field by field. What makes it small: every lane is a packet
// sequence of its own, whose defaults name its track and whose clock counts 100 ns since the packet
// before; names are sent once; bundles of packets are deflated.
#include "trace/export/labels.h"
#include "trace/export/lane_exporter.h"
#include "trace/export/proto_writer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <unordered_map>
#include <zlib.h>

namespace convoy::trace {
namespace {

constexpr int64_t kUnit = 100;  // ns; the streams' own
constexpr size_t kBundleBytes = 256 << 10;
constexpr uint32_t kPidBase = 100000;  // rank 3 is process 100003: real ones may be the same twice

// Field numbers of protos/perfetto/trace, by message.
namespace trace_proto {
constexpr uint32_t kPacket = 1;
}
namespace packet {
constexpr uint32_t kClockSnapshot = 6, kTimestamp = 8, kSequence = 10, kTrackEvent = 11,
                   kInternedData = 12, kFlags = 13, kCompressed = 50, kDefaults = 59, kTrack = 60;
constexpr uint64_t kCleared = 1, kNeedsState = 2;
}  // namespace packet
namespace clock_proto {
constexpr uint32_t kClocks = 1, kPrimary = 2;                                   // ClockSnapshot
constexpr uint32_t kId = 1, kTimestamp = 2, kIncremental = 3, kMultiplier = 4;  // Clock
constexpr uint64_t kRealtime = 1, kBoottime = 6, kDelta = 64;
}  // namespace clock_proto
namespace defaults {
constexpr uint32_t kTrackEvent = 11, kClock = 58, kTrackUuid = 11;
}
namespace track {
constexpr uint32_t kUuid = 1, kName = 2, kProcess = 3, kParent = 5, kCounter = 8, kOrdering = 11,
                   kOrder = 12;
constexpr uint32_t kPid = 1, kProcessName = 6;  // ProcessDescriptor
constexpr uint32_t kUnitField = 3;              // CounterDescriptor
constexpr uint64_t kExplicit = 3, kNanoseconds = 1, kCount = 2, kBytes = 3;
}  // namespace track
namespace event {
constexpr uint32_t kAnnotations = 4, kType = 9, kNameIid = 10, kName = 23, kCounterValue = 30,
                   kFlowIds = 47;
constexpr uint64_t kBegin = 1, kEnd = 2, kInstant = 3, kCounter = 4;
constexpr uint32_t kAnnotationNameIid = 1, kAnnotationUint = 3, kAnnotationText = 6,
                   kAnnotationName = 10;
}  // namespace event
namespace interned {
constexpr uint32_t kEventNames = 2, kAnnotationNames = 3, kIid = 1, kName = 2;
}

enum Annotation : uint8_t {
  kUnseenNote,
  kSequenceNote,
  kWaitNote,
  kValueNote,
  kMicroBatchNote,
  kStepNote
};
constexpr const char* kAnnotationTexts[] = {"sequence", "ns from issue to start", "value",
                                            "micro-batch", "step"};

uint64_t counter_unit(std::string_view name) {
  if (name.ends_with(" ns")) return track::kNanoseconds;
  return name.ends_with(" bytes") ? track::kBytes : track::kCount;
}

class Perfetto final : public LaneExporter {
 public:
  Perfetto(OutputFile file, const Registry& registry, const Survey& survey,
           const PerfettoOptions& options)
      : LaneExporter(std::move(file), registry, survey),
        compress_(options.compress),
        proto_(plain_) {
    base_ = survey.bounds().first / kUnit * kUnit;
    write_clock();
  }

  Status finish(const std::vector<Verdict>& verdicts) override {
    tracks_.finish();
    for (const Verdict& v : verdicts) verdict(v);
    bundle();
    const Status status = file_.close();
    summary_.verdicts = verdicts.size();
    summary_.files = 1;
    summary_.bytes = file_.bytes();
    return status;
  }

 private:
  struct Sequence {
    uint64_t last = 0;  // in units
    std::unordered_map<uint32_t, uint32_t> iids;
  };
  struct Counter {
    uint32_t sequence = 0;
    uint64_t last = 0;
  };

  uint64_t units(int64_t time) const {
    return static_cast<uint64_t>(std::max<int64_t>(0, time - base_) / kUnit);
  }

  template <class Body>
  void write(Body body) {
    proto_.message(trace_proto::kPacket, body);
    if (plain_.size() >= kBundleBytes) bundle();
  }

  void bundle() {
    if (plain_.empty()) return;
    summary_.plain_bytes += plain_.size();
    if (!compress_) {
      file_.write(plain_);
      plain_.clear();
      return;
    }
    uLongf length = ::compressBound(plain_.size());
    deflated_.resize(length);
    ::compress2(reinterpret_cast<Bytef*>(deflated_.data()), &length,
                reinterpret_cast<const Bytef*>(plain_.data()), plain_.size(), 1);
    plain_.clear();
    std::string& out = file_.text();
    ProtoWriter proto(out);
    proto.message(trace_proto::kPacket, [&] {
      proto.text(packet::kCompressed, {deflated_.data(), length});
    });
    file_.flush_if_full();
  }

  void write_clock() {
    write([&] {
      proto_.message(packet::kClockSnapshot, [&] {
        clock(clock_proto::kBoottime, 0);
        clock(clock_proto::kRealtime, static_cast<uint64_t>(base_));
        proto_.number(clock_proto::kPrimary, clock_proto::kBoottime);
      });
      proto_.number(packet::kSequence, 1);
    });
  }

  void clock(uint64_t id, uint64_t time) {
    proto_.message(clock_proto::kClocks, [&] {
      proto_.number(clock_proto::kId, id);
      proto_.number(clock_proto::kTimestamp, time);
      if (id != clock_proto::kDelta) return;
      proto_.number(clock_proto::kIncremental, 1);
      proto_.number(clock_proto::kMultiplier, kUnit);
    });
  }

  // A sequence whose packets stand on track `sequence`, and whose clock stands at 0.
  uint32_t open_sequence() {
    const uint32_t sequence = next_sequence_++;
    write([&] {
      proto_.message(packet::kClockSnapshot, [&] {
        clock(clock_proto::kBoottime, 0);
        clock(clock_proto::kDelta, 0);
      });
      proto_.number(packet::kSequence, sequence);
      proto_.message(packet::kInternedData, [&] {
        for (uint32_t iid = kSequenceNote; iid <= kStepNote; ++iid) {
          intern(interned::kAnnotationNames, iid, kAnnotationTexts[iid - 1]);
        }
      });
      proto_.number(packet::kFlags, packet::kCleared | packet::kNeedsState);
      proto_.message(packet::kDefaults, [&] {
        proto_.message(defaults::kTrackEvent,
                       [&] { proto_.number(defaults::kTrackUuid, uuid_of_sequence(sequence)); });
        proto_.number(defaults::kClock, clock_proto::kDelta);
      });
    });
    return sequence;
  }

  void intern(uint32_t field, uint32_t iid, std::string_view name) {
    proto_.message(field, [&] {
      proto_.number(interned::kIid, iid);
      proto_.text(interned::kName, name);
    });
  }

  static uint64_t uuid_of_rank(uint32_t rank) { return rank + 1; }
  static uint64_t uuid_of_sequence(uint32_t sequence) { return (uint64_t{1} << 32) + sequence; }

  void describe(uint32_t rank) override {
    write([&] {
      proto_.number(packet::kSequence, 1);
      proto_.message(packet::kTrack, [&] {
        proto_.number(track::kUuid, uuid_of_rank(rank));
        proto_.message(track::kProcess, [&] {
          proto_.number(track::kPid, kPidBase + rank);
          proto_.text(track::kProcessName, survey_.title(rank));
        });
        proto_.number(track::kOrdering, track::kExplicit);
        proto_.number(track::kOrder, rank);
      });
    });
  }

  void describe_track(uint32_t rank, uint32_t sequence, std::string_view name, uint64_t order,
                      uint64_t counter_unit) {
    write([&] {
      proto_.number(packet::kSequence, 1);
      proto_.message(packet::kTrack, [&] {
        proto_.number(track::kUuid, uuid_of_sequence(sequence));
        proto_.text(track::kName, name);
        proto_.number(track::kParent, uuid_of_rank(rank));
        if (counter_unit != 0) {
          proto_.message(track::kCounter, [&] { proto_.number(track::kUnitField, counter_unit); });
        }
        proto_.number(track::kOrder, order);
      });
    });
  }

  void open(const Lane& lane) override {
    describe_once(lane.track.rank);
    const uint32_t sequence = open_sequence();
    sequences_.emplace_back();
    sequence_of_lane_.push_back(sequence);
    const TrackKind kind = lane.track.kind;
    const std::string name =
        kind == TrackKind::kThread
            ? "thread " + std::to_string(lane.track.id)
            : track_label(registry_.groups()[lane.track.id].name, kind != TrackKind::kGroup,
                          kind == TrackKind::kReceive);
    // Threads first, then groups, each with its messages.
    const uint64_t order =
        kind == TrackKind::kThread
            ? lane.track.id
            : (uint64_t{1} << 20) + uint64_t{4} * lane.track.id + static_cast<uint64_t>(kind);
    describe_track(lane.track.rank, sequence, name, std::min<uint64_t>(order, INT32_MAX), 0);
  }

  // A packet of a sequence at `time`; `body` appends the track event.
  template <class Interned, class Body>
  void at(uint32_t sequence, uint64_t& last, int64_t time, Interned interned, Body body) {
    const uint64_t now = std::max(units(time), last);
    write([&] {
      proto_.number(packet::kTimestamp, now - last);
      proto_.number(packet::kSequence, sequence);
      proto_.message(packet::kTrackEvent, body);
      interned();
      proto_.number(packet::kFlags, packet::kNeedsState);
    });
    last = now;
  }

  void begin(const Lane& lane, const Slice& slice) override {
    Sequence& sequence = sequences_[lane.number];
    const bool step = slice.sequence == 0 && note_of(slice.what) == kStepNote;
    const auto [iid, is_new] =
        sequence.iids.try_emplace(slice.what, static_cast<uint32_t>(sequence.iids.size() + 1));
    at(
        sequence_of_lane_[lane.number], sequence.last, slice.begin,
        [&, iid = iid->second, is_new = is_new] {
          if (!is_new) return;
          proto_.message(packet::kInternedData, [&] {
            intern(interned::kEventNames, iid,
                   slice.sequence == 0 ? registry_.names()[slice.what]
                                       : label_of(registry_.signatures()[slice.what]));
          });
        },
        [&, iid = iid->second] {
          annotate(slice);
          proto_.number(event::kType, slice.end > slice.begin ? event::kBegin : event::kInstant);
          if (step) {
            proto_.text(event::kName, "step " + std::to_string(slice.value));
          } else {
            proto_.number(event::kNameIid, iid);
          }
          if (const uint64_t flow = flow_of(lane.track, slice); flow != 0) {
            proto_.fixed64(event::kFlowIds, flow);
          }
        });
  }

  // What a span's value is called.
  Annotation note_of(uint32_t name) {
    if (name >= value_notes_.size()) value_notes_.resize(name + 1, kUnseenNote);
    Annotation& note = value_notes_[name];
    if (note != kUnseenNote) return note;
    const std::string& text = registry_.names()[name];
    note = text == names::kStep                                  ? kStepNote
           : text == names::kForward || text == names::kBackward ? kMicroBatchNote
                                                                 : kValueNote;
    return note;
  }

  void annotate(const Slice& slice) {
    if (slice.sequence == 0) {
      if (slice.value != 0) note(note_of(slice.what), slice.value);
      return;
    }
    note(kSequenceNote, slice.sequence);
    if (slice.issued != 0 && slice.begin > slice.issued) {
      note(kWaitNote, static_cast<uint64_t>(slice.begin - slice.issued));
    }
  }

  void note(Annotation name, uint64_t value) {
    proto_.message(event::kAnnotations, [&] {
      proto_.number(event::kAnnotationNameIid, name);
      proto_.number(event::kAnnotationUint, value);
    });
  }

  void end(const Lane& lane, int64_t time) override {
    at(
        sequence_of_lane_[lane.number], sequences_[lane.number].last, time, [] {},
        [&] { proto_.number(event::kType, event::kEnd); });
  }

  // The same for all slices of one collective, and for both sides of a message.
  uint64_t flow_of(const Track& track, const Slice& slice) {
    if (slice.sequence == 0) return 0;
    if (track.kind == TrackKind::kGroup) {
      if (registry_.groups()[track.id].ranks.size() == 1) return 0;
      return (uint64_t{track.id} + 1) << 32 | slice.sequence;
    }
    const auto peer = static_cast<uint32_t>(registry_.signatures()[slice.what].peer);
    const bool receives = track.kind == TrackKind::kReceive;
    const std::tuple pair(track.id, receives ? peer : track.rank, receives ? track.rank : peer);
    const auto channel = channels_.try_emplace(pair, channels_.size() + 1).first->second;
    return (channel << 32 | slice.sequence) | uint64_t{1} << 63;
  }

  void counter(uint32_t rank, const CounterEvent& c) override {
    const auto [at_counter, is_new] = counters_.try_emplace({rank, c.name, c.peer});
    Counter& counter = at_counter->second;
    if (is_new) {
      describe_once(rank);
      counter.sequence = open_sequence();
      const std::string& name = registry_.names()[c.name];
      describe_track(rank, counter.sequence, counter_label(name, c.peer),
                     (uint64_t{1} << 30) + c.name, counter_unit(name));
    }
    at(
        counter.sequence, counter.last, c.time, [] {},
        [&] {
          proto_.number(event::kType, event::kCounter);
          proto_.number(event::kCounterValue, c.value);
        });
  }

  void text_note(const char* name, const std::string& value) {
    proto_.message(event::kAnnotations, [&] {
      proto_.text(event::kAnnotationText, value);
      proto_.text(event::kAnnotationName, name);
    });
  }

  // A track of its own for each, because verdicts overlap; viewers merge those of one name.
  void verdict(const Verdict& v) {
    const uint32_t sequence = open_sequence();
    write([&] {
      proto_.number(packet::kSequence, 1);
      proto_.message(packet::kTrack, [&] {
        proto_.number(track::kUuid, uuid_of_sequence(sequence));
        proto_.text(track::kName, "verdicts");
      });
    });
    uint64_t last = 0;
    at(
        sequence, last, v.onset, [] {},
        [&] {
          const std::string culprit = culprit_label(v.culprit, registry_);
          text_note("summary", v.summary);
          if (!culprit.empty()) text_note("culprit", culprit);
          text_note("confidence", std::to_string(v.confidence));
          text_note("share of the step time", std::to_string(v.cost));
          text_note("action", v.action);
          proto_.number(event::kType, event::kBegin);
          proto_.text(event::kName, culprit.empty() ? std::string(name_of(v.cls))
                                                    : name_of(v.cls) + (": " + culprit));
        });
    at(
        sequence, last, v.cleared != 0 ? v.cleared : survey_.bounds().second, [] {},
        [&] { proto_.number(event::kType, event::kEnd); });
  }

  const bool compress_;
  int64_t base_ = 0;
  std::string plain_;  // packets that wait for their bundle
  std::string deflated_;
  ProtoWriter proto_;
  uint32_t next_sequence_ = 2;
  std::vector<Annotation> value_notes_;  // by name
  std::vector<Sequence> sequences_;      // by lane
  std::vector<uint32_t> sequence_of_lane_;
  std::map<std::tuple<uint32_t, uint32_t, uint32_t>, uint64_t> channels_;
  std::map<std::tuple<uint32_t, uint32_t, int32_t>, Counter> counters_;
};

}  // namespace

Result<std::unique_ptr<Exporter>> create_perfetto(const std::filesystem::path& path,
                                                  const Registry& registry, const Survey& survey,
                                                  const PerfettoOptions& options) {
  CONVOY_ASSIGN_OR_RETURN(OutputFile file, OutputFile::create(path));
  return std::unique_ptr<Exporter>(
      std::make_unique<Perfetto>(std::move(file), registry, survey, options));
}

}  // namespace convoy::trace
