#pragma once

#include <convoy/base/status.h>
#include <convoy/trace/event.h>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

// Events as bytes: on the wire between agent and aggregator, and in files.
// docs/format/trace_stream.md describes both to the byte. Times are kept in units of 100 ns.
namespace convoy::trace {

// Turns the batches of one rank into bytes, some 6 for an operation. What a reader must know (host,
// groups, signatures, names) goes along when it first occurs. Not thread-safe.
class BatchEncoder {
 public:
  explicit BatchEncoder(const Registry& registry);
  ~BatchEncoder();
  // Appends. Batches of one rank must be read in the order in which they were encoded.
  void encode(const Batch& batch, std::string& to);
  // The next batch can be read by one who has seen none of the earlier ones: after a connection was
  // lost, or at the beginning of a file.
  void restart();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The reverse, for any number of ranks. Trusts nobody: whatever bytes it is given, it stays within
// them and within its limits (docs/format/trace_stream.md). Not thread-safe.
class BatchDecoder {
 public:
  explicit BatchDecoder(Registry& registry);
  ~BatchDecoder();
  // Fills in `to`, whose memory is reused. kDataLoss: damaged, or a batch before it is missing; the
  // next batch after restart() can be read again.
  Status decode(std::span<const std::byte> bytes, Batch& to);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Writes a stream file. Frames carry checksums; a file that ends in the middle of a frame is read
// up to there.
class StreamWriter : public Sink {
 public:
  // Replaces a file that is there. `registry` outlives the writer.
  static Result<std::unique_ptr<StreamWriter>> create(const std::filesystem::path& path,
                                                      const Registry& registry);
  ~StreamWriter() override;  // closes
  void job(const JobInfo& job) override;
  void batch(const Batch& batch) override;
  void clock(const ClockSample& sample) override;
  uint64_t bytes() const;  // in the file
  // Writes what waits to fill a frame (256 KiB), so that whoever reads the file sees it.
  Status flush();
  // The first error of all that was written, if any.
  Status close();

 private:
  struct Impl;
  explicit StreamWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Reads a stream file of either form, binary or JSON lines, into `to`, in the file's order. Says
// what is wrong with it, and where; what stood before that has been given to `to`. `truncated` is
// set where a file ends in the middle of a frame or line, which is no error.
Status read_stream(const std::filesystem::path& path, Registry& registry, Sink& to,
                   bool* truncated = nullptr);

// Writes the same as JSON lines, for people and for other programs.
class JsonStreamWriter : public Sink {
 public:
  static Result<std::unique_ptr<JsonStreamWriter>> create(const std::filesystem::path& path,
                                                          const Registry& registry);
  ~JsonStreamWriter() override;
  void job(const JobInfo& job) override;
  void batch(const Batch& batch) override;
  void clock(const ClockSample& sample) override;
  Status close();

 private:
  struct Impl;
  explicit JsonStreamWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::trace
