// A stream as tables, a Parquet file each, for SQL and data frames.
#include "trace/export/labels.h"
#include "trace/parquet/plugin.h"
#include "trace/parquet/table_file.h"

#include <system_error>

namespace convoy::trace {
namespace {

using Fields = std::vector<std::shared_ptr<arrow::Field>>;

std::shared_ptr<arrow::Field> number(const std::string& name) {
  return arrow::field(name, arrow::int64());
}
std::shared_ptr<arrow::Field> real(const std::string& name) {
  return arrow::field(name, arrow::float64());
}
std::shared_ptr<arrow::Field> text(const std::string& name) {
  return arrow::field(name, arrow::utf8());
}

Fields rank_fields(const JobInfo& job) {
  Fields fields{number("rank"), text("host"), number("pid")};
  for (const Dimension& d : job.mesh) fields.push_back(number(d.name));
  for (const char* name : {"batches", "operations", "spans", "counters", "lost", "shed", "first_ns",
                           "last_ns", "clock_error_ns"}) {
    fields.push_back(number(name));
  }
  return fields;
}

std::string list_of(const std::vector<uint32_t>& numbers) {
  std::string out;
  for (const uint32_t n : numbers) out += (out.empty() ? "" : ",") + std::to_string(n);
  return out;
}

class ParquetExporter final : public Exporter {
 public:
  ParquetExporter(std::filesystem::path folder, const Registry& registry, const Survey& survey)
      : folder_(std::move(folder)), registry_(registry), survey_(survey) {}

  Status open() {
    CONVOY_ASSIGN_OR_RETURN(
        operations_, table("operations",
                           {number("rank"), text("group"), text("group_kind"), number("group_size"),
                            number("sequence"), text("operation"), text("dtype"), text("reduction"),
                            number("root"), number("peer"), number("bytes"), number("issued_ns"),
                            number("started_ns"), number("completed_ns"), number("duration_ns")}));
    CONVOY_ASSIGN_OR_RETURN(
        spans_, table("spans", {number("rank"), number("thread"), text("name"), number("value"),
                                number("begin_ns"), number("end_ns"), number("duration_ns")}));
    CONVOY_ASSIGN_OR_RETURN(counters_,
                            table("counters", {number("rank"), text("name"), number("peer"),
                                               number("time_ns"), number("value")}));
    CONVOY_ASSIGN_OR_RETURN(ranks_, table("ranks", rank_fields(survey_.job())));
    CONVOY_ASSIGN_OR_RETURN(
        verdicts_,
        table("verdicts", {text("class"), text("culprit"), text("ranks"), text("hosts"),
                           number("onset_ns"), number("told_ns"), number("cleared_ns"),
                           real("confidence"), text("runner_up"), real("runner_up_confidence"),
                           real("cost"), real("period_s"), text("summary"), text("action")}));
    return ok_status();
  }

  void batch(const Batch& batch) override {
    for (const Operation& o : batch.operations) operation(batch.rank, o);
    for (const SpanEvent& s : batch.spans) span(batch.rank, s);
    for (const CounterEvent& c : batch.counters) {
      counters_->put(int64_t{batch.rank});
      counters_->put(registry_.names()[c.name]);
      optional(c.peer);
      counters_->put(c.time);
      counters_->put(static_cast<int64_t>(c.value));
      counters_->end_row();
    }
    summary_.operations += batch.operations.size();
    summary_.spans += batch.spans.size();
    summary_.counters += batch.counters.size();
  }

  void unfinished(uint32_t rank, const RankState& state) override {
    for (const Operation& o : state.pending) operation(rank, o);
    for (const SpanEvent& s : state.open) span(rank, s);
    summary_.unfinished += state.pending.size() + state.open.size();
  }

  Status finish(const std::vector<Verdict>& verdicts) override {
    for (uint32_t r = 0; r < survey_.ranks().size(); ++r) {
      const Survey::Rank& rank = survey_.ranks()[r];
      if (rank.batches > 0 && survey_.selection().has_rank(r)) row_of(r, rank);
    }
    for (const Verdict& v : verdicts) row_of(v);
    summary_.verdicts = verdicts.size();
    Status first;
    for (TableFile* t :
         {operations_.get(), spans_.get(), counters_.get(), ranks_.get(), verdicts_.get()}) {
      const Status status = t->close();
      if (first.ok()) first = status;
    }
    for (const char* name : {"operations", "spans", "counters", "ranks", "verdicts"}) {
      std::error_code error;
      const auto size = std::filesystem::file_size(path_of(name), error);
      if (!error) summary_.bytes += size;
      ++summary_.files;
    }
    summary_.plain_bytes = summary_.bytes;
    return first;
  }

 private:
  std::filesystem::path path_of(const std::string& name) const {
    return folder_ / (name + ".parquet");
  }
  Result<std::unique_ptr<TableFile>> table(const std::string& name, Fields fields) const {
    return TableFile::create(path_of(name), std::move(fields));
  }

  void optional(int32_t peer) const {
    peer >= 0 ? counters_->put(int64_t{peer}) : counters_->put_null();
  }

  void operation(uint32_t rank, const Operation& o) {
    const Signature& s = registry_.signatures()[o.signature];
    const GroupInfo& group = registry_.groups()[s.group];
    TableFile& t = *operations_;
    t.put(int64_t{rank});
    t.put(group.name);
    t.put(group_kind(group.name));
    t.put(static_cast<int64_t>(group.ranks.size()));
    t.put(int64_t{o.sequence});
    t.put(s.operation);
    t.put(s.dtype);
    t.put(s.reduction);
    s.root >= 0 ? t.put(int64_t{s.root}) : t.put_null();
    s.peer >= 0 ? t.put(int64_t{s.peer}) : t.put_null();
    t.put(static_cast<int64_t>(s.bytes));
    t.put_time(o.issued);
    t.put_time(o.started);
    t.put_time(o.completed);
    const int64_t begin = o.started != 0 ? o.started : o.issued;
    begin != 0 && o.completed != 0 ? t.put(o.completed - begin) : t.put_null();
    t.end_row();
  }

  void span(uint32_t rank, const SpanEvent& s) {
    TableFile& t = *spans_;
    t.put(int64_t{rank});
    t.put(int64_t{s.thread});
    t.put(registry_.names()[s.name]);
    t.put(static_cast<int64_t>(s.value));
    t.put_time(s.begin);
    t.put_time(s.end);
    s.end != 0 ? t.put(s.end - s.begin) : t.put_null();
    t.end_row();
  }

  void row_of(uint32_t number, const Survey::Rank& rank) {
    TableFile& t = *ranks_;
    t.put(int64_t{number});
    t.put(rank.host);
    t.put(int64_t{rank.pid});
    uint64_t before = 1;
    for (const Dimension& d : survey_.job().mesh) {
      const uint64_t size = std::max<uint32_t>(1, d.size);
      t.put(static_cast<int64_t>(number / before % size));
      before *= size;
    }
    for (const uint64_t n :
         {rank.batches, rank.operations, rank.spans, rank.counters, rank.lost, rank.shed}) {
      t.put(static_cast<int64_t>(n));
    }
    const ClockModel& clocks = survey_.clocks();
    t.put_time(rank.last != 0 ? clocks.root_time(number, rank.first) : 0);
    t.put_time(clocks.root_time(number, rank.last));
    const int64_t error = clocks.error(number);
    error < ClockModel::kErrorUnknown ? t.put(error) : t.put_null();
    t.end_row();
    ++summary_.ranks;
  }

  void row_of(const Verdict& v) {
    TableFile& t = *verdicts_;
    t.put(std::string_view(name_of(v.cls)));
    t.put(culprit_label(v.culprit, registry_));
    t.put(list_of(v.culprit.ranks));
    std::string hosts;
    for (const std::string& host : v.culprit.hosts) hosts += (hosts.empty() ? "" : ",") + host;
    t.put(hosts);
    t.put_time(v.onset);
    t.put_time(v.told);
    t.put_time(v.cleared);
    t.put(v.confidence);
    t.put(std::string_view(name_of(v.runner_up)));
    t.put(v.runner_up_confidence);
    t.put(v.cost);
    t.put(v.period_s);
    t.put(v.summary);
    t.put(v.action);
    t.end_row();
  }

  const std::filesystem::path folder_;
  const Registry& registry_;
  const Survey& survey_;
  std::unique_ptr<TableFile> operations_, spans_, counters_, ranks_, verdicts_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) Status convoy_create_parquet(
    const std::filesystem::path& folder, const Registry& registry, const Survey& survey,
    std::unique_ptr<Exporter>& out) {
  auto made = std::make_unique<ParquetExporter>(folder, registry, survey);
  CONVOY_RETURN_IF_ERROR(made->open());
  out = std::move(made);
  return ok_status();
}
static_assert(std::is_same_v<decltype(convoy_create_parquet), CreateParquet>);

}  // namespace convoy::trace
