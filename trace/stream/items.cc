#include "trace/stream/items.h"

namespace convoy::trace {
namespace {

constexpr uint64_t kDimensionsMax = 16;

Status damaged(const char* what) {
  return Status(Code::kDataLoss, std::string("a damaged ") + what + " in a trace stream");
}

bool read_job(wire::Reader& r, JobInfo& job) {
  job.job = r.text();
  job.generation = r.number();
  job.world_size = static_cast<uint32_t>(r.number_to(wire::kRankMax));
  for (uint64_t n = r.count(kDimensionsMax, 2); n > 0; --n) {
    std::string name(r.text());
    job.mesh.push_back({std::move(name), static_cast<uint32_t>(r.number_to(wire::kRankMax))});
  }
  return !r.failed() && r.at_end();
}

bool read_clock(wire::Reader& r, ClockSample& sample) {
  sample.host = r.text();
  sample.host_time = r.signed_number();
  sample.root_time = r.signed_number();
  sample.error = r.signed_number();
  return !r.failed() && r.at_end();
}

}  // namespace

void ItemWriter::put(Item kind, std::string& to) {
  wire::Writer w(to);
  w.byte(static_cast<uint8_t>(kind));
  w.number(item_.size());
  to += item_;
  item_.clear();
}

void ItemWriter::job(const JobInfo& job, std::string& to) {
  wire::Writer w(item_);
  w.text(job.job);
  w.number(job.generation);
  w.number(job.world_size);
  w.number(job.mesh.size());
  for (const Dimension& d : job.mesh) {
    w.text(d.name);
    w.number(d.size);
  }
  put(Item::kJob, to);
}

void ItemWriter::batch(const Batch& batch, std::string& to) {
  std::unique_ptr<BatchEncoder>& encoder = encoders_[batch.rank];
  if (encoder == nullptr) encoder = std::make_unique<BatchEncoder>(registry_);
  encoder->encode(batch, item_);
  put(Item::kBatch, to);
}

void ItemWriter::clock(const ClockSample& sample, std::string& to) {
  wire::Writer w(item_);
  w.text(sample.host);
  w.signed_number(sample.host_time);
  w.signed_number(sample.root_time);
  w.signed_number(sample.error);
  put(Item::kClock, to);
}

Status ItemReader::read(std::span<const std::byte> bytes, Sink& to, int64_t received) {
  wire::Reader items(bytes);
  while (!items.at_end()) {
    const auto kind = static_cast<Item>(items.byte());
    const std::string_view item = items.take(items.number());
    if (items.failed()) return damaged("item");
    const auto content = std::as_bytes(std::span(item));
    wire::Reader r(content);
    if (kind == Item::kJob) {
      JobInfo job;
      if (!read_job(r, job)) return damaged("job");
      to.job(job);
    } else if (kind == Item::kBatch) {
      if (const Status status = decoder_.decode(content, batch_); !status.ok()) return status;
      if (batch_.received == 0) batch_.received = received;
      to.batch(batch_);
    } else if (kind == Item::kClock) {
      ClockSample sample;
      if (!read_clock(r, sample)) return damaged("clock sample");
      to.clock(sample);
    }  // other kinds: of a later version
  }
  return Status();
}

}  // namespace convoy::trace
