// The public face of the engine: checks options, opens and ends files, waits for tasks.
#include "ckpt/io/disk_engine.h"
#include "ckpt/io/read_task.h"
#include "ckpt/io/write_task.h"
#include <convoy/base/log.h>
#include <convoy/base/units.h>

#include <algorithm>
#include <fcntl.h>
#include <system_error>

namespace convoy::ckpt {
namespace {

Status bad_option(const std::string& what) {
  return {Code::kInvalidArgument, "disk engine: " + what};
}

Status check(const DiskOptions& o) {
  if (o.queue_depth < 1 || o.queue_depth > kQueueDepthMax) {
    return bad_option("queue_depth is " + std::to_string(o.queue_depth) + "; 1 to " +
                      std::to_string(kQueueDepthMax) + " are possible");
  }
  if (o.block_bytes < kDiskAlign || o.block_bytes > kBlockBytesMax ||
      o.block_bytes % kDiskAlign != 0) {
    return bad_option("block_bytes is " + std::to_string(o.block_bytes) +
                      "; a multiple of 4096 up to 64 MiB is needed");
  }
  if (o.bytes_in_flight_max < o.block_bytes) {
    return bad_option("bytes_in_flight_max (" + format_bytes(o.bytes_in_flight_max) +
                      ") is less than one block (" + format_bytes(o.block_bytes) + ")");
  }
  if (o.stall_limit <= Nanos::zero()) return bad_option("stall_limit must be positive");
  return ok_status();
}

std::unique_ptr<IoQueue> make_queue(const DiskOptions& options) {
  std::string why = "force_threads is set";
  std::unique_ptr<IoQueue> queue;
  if (!options.force_threads) queue = make_ring_queue(options.queue_depth, why);
  if (queue != nullptr) return queue;
  if (!options.force_threads) {
    CONVOY_LOG(Warn) << "disk requests go through " << options.queue_depth
                     << " threads instead of io_uring: " << why;
  }
  return make_thread_queue(options.queue_depth);
}

}  // namespace

Result<std::shared_ptr<DiskEngine>> make_disk_engine(const DiskOptions& options,
                                                     const DiskTestParts& parts) {
  CONVOY_RETURN_IF_ERROR(check(options));
  std::unique_ptr<IoQueue> queue = make_queue(options);
  if (parts.wrap) queue = parts.wrap(std::move(queue));
  const Clock& clock = parts.clock != nullptr ? *parts.clock : Clock::system();
  auto core = std::make_shared<DiskCore>(options, std::move(queue), clock);
  try {
    core->start();
  } catch (const std::system_error& e) {
    return Status(Code::kResourceExhausted,
                  std::string("cannot start the thread of a disk engine: ") + e.what() +
                      "; allow more with `ulimit -u`");
  }
  return std::shared_ptr<DiskEngine>(new DiskEngine(std::move(core)));
}

Result<std::shared_ptr<DiskEngine>> DiskEngine::create(const DiskOptions& options) {
  return make_disk_engine(options, {});
}

DiskEngine::DiskEngine(std::shared_ptr<DiskCore> core) : core_(std::move(core)) {}
DiskEngine::~DiskEngine() {
  core_->stop();
}

Result<std::unique_ptr<DiskWriter>> DiskEngine::create_file(const std::string& path,
                                                            uint64_t size_hint,
                                                            DiskProgress progress) {
  CONVOY_ASSIGN_OR_RETURN(auto file, core_->open(path, O_WRONLY | O_CREAT | O_TRUNC, true));
  uint64_t allocated = 0;
  if (size_hint > 0) {
    IoRequest request;
    request.op = IoOp::kAllocate;
    request.offset = (size_hint + kDiskAlign - 1) / kDiskAlign * kDiskAlign;
    const Result<int64_t> done = core_->call(request, file);
    if (done.ok()) {
      allocated = request.offset;
    } else if (done.status().code() != Code::kUnavailable) {
      return done.status();
    }
  }
  auto task = std::make_shared<WriteTask>(std::move(file), core_->options().block_bytes,
                                          std::move(progress));
  CONVOY_RETURN_IF_ERROR(core_->add(task));
  return std::unique_ptr<DiskWriter>(new DiskWriter(core_, std::move(task), allocated));
}

struct DiskReader::State {
  State(std::shared_ptr<DiskCore> c, std::shared_ptr<DiskFile> f)
      : core(std::move(c)), file(std::move(f)) {}
  std::shared_ptr<DiskCore> core;
  std::shared_ptr<DiskFile> file;
};

Result<std::unique_ptr<DiskReader>> DiskEngine::open_file(const std::string& path) {
  CONVOY_ASSIGN_OR_RETURN(auto file, core_->open(path, O_RDONLY, true));
  return std::unique_ptr<DiskReader>(
      new DiskReader(std::make_unique<DiskReader::State>(core_, std::move(file))));
}

Status DiskEngine::sync(const std::string& path) {
  CONVOY_ASSIGN_OR_RETURN(auto file, core_->open(path, O_RDONLY, false));
  IoRequest request;
  request.op = IoOp::kSync;
  return core_->call(request, std::move(file)).status();
}

bool DiskEngine::register_memory(std::span<std::byte> memory, std::shared_ptr<const void> owner) {
  return core_->register_memory(memory, std::move(owner));
}

void DiskEngine::forget_memory(const std::byte* begin) {
  core_->forget_memory(begin);
}

void DiskEngine::set_bandwidth(uint64_t bytes_per_second) {
  core_->set_bandwidth(bytes_per_second);
}

bool DiskEngine::uses_io_uring() const {
  return core_->is_ring();
}

size_t DiskEngine::requests_lost() const {
  return core_->lost();
}

DiskWriter::DiskWriter(std::shared_ptr<DiskCore> core, std::shared_ptr<WriteTask> task,
                       uint64_t allocated)
    : core_(std::move(core)), task_(std::move(task)), allocated_(allocated) {}

DiskWriter::~DiskWriter() {
  cancel();
}

Status DiskWriter::append(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  if (ended_) {
    return {Code::kFailedPrecondition, "append to " + path() + " after it was finished"};
  }
  const Status status = task_->append(bytes, std::move(owner));
  core_->kick();
  return status;
}

Status DiskWriter::finish(bool sync) {
  if (ended_) return {Code::kFailedPrecondition, path() + " has been finished or cancelled"};
  ended_ = true;
  task_->close();
  core_->kick();
  CONVOY_RETURN_IF_ERROR(task_->wait());
  const uint64_t size = task_->appended();
  if (std::max(task_->covered(), allocated_) != size) {
    IoRequest truncate;
    truncate.op = IoOp::kTruncate;
    truncate.offset = size;
    CONVOY_RETURN_IF_ERROR(core_->call(truncate, task_->file()).status());
  }
  if (!sync) return ok_status();
  IoRequest request;
  request.op = IoOp::kSync;
  return core_->call(request, task_->file()).status();
}

void DiskWriter::cancel() {
  if (ended_) return;
  ended_ = true;
  task_->cancel();
  core_->kick();
  (void)task_->wait();
}

uint64_t DiskWriter::bytes_appended() const {
  return task_->appended();
}

uint64_t DiskWriter::bytes_written() const {
  return task_->written();
}

const std::string& DiskWriter::path() const {
  return task_->file()->path;
}

DiskReader::DiskReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
DiskReader::~DiskReader() = default;

uint64_t DiskReader::size() const {
  return state_->file->size;
}

const std::string& DiskReader::path() const {
  return state_->file->path;
}

Status DiskReader::read(std::span<const ReadRange> ranges, std::shared_ptr<const void> owner,
                        DiskProgress progress) {
  for (const ReadRange& r : ranges) {
    if (r.bytes <= size() && r.offset <= size() - r.bytes) continue;
    return {Code::kDataLoss, path() + " has " + std::to_string(size()) + " bytes, but " +
                                 std::to_string(r.bytes) + " bytes from offset " +
                                 std::to_string(r.offset) + " on are needed: it is truncated"};
  }
  ReadGeometry geometry;
  geometry.align = state_->file->align();
  geometry.memory_align = state_->file->memory_align();
  geometry.block_bytes = state_->core->options().block_bytes;
  auto task = std::make_shared<ReadTask>(state_->file, plan_reads(ranges, geometry),
                                         std::move(owner), std::move(progress));
  CONVOY_RETURN_IF_ERROR(state_->core->add(task));
  return task->wait();
}

}  // namespace convoy::ckpt
