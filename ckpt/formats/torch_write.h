#pragma once

#include <convoy/base/atomic_file.h>
#include <convoy/base/status.h>
#include <convoy/ckpt/records.h>

#include <nlohmann/json.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// What torch.load() reads: pickles of plain data, and zip files of records.
namespace convoy::ckpt {

// A pickle of protocol 2, front to back.
class PickleWriter {
 public:
  PickleWriter() : out_("\x80\x02") {}
  std::string finish() && { return std::move(out_) + "."; }

  void op(char opcode) { out_ += opcode; }
  void none() { op('N'); }
  void boolean(bool value) { op(value ? '\x88' : '\x89'); }
  void integer(int64_t value);
  void real(double value);
  void text(std::string_view text);  // UTF-8
  void bytes(std::string_view bytes);
  void global(std::string_view module, std::string_view name);
  void mark() { op('('); }
  void tuple() { op('t'); }                       // what lies above the mark
  void reduce() { op('R'); }                      // callee, arguments
  void counts(std::span<const int64_t> numbers);  // a tuple
  // A value as convoy.checkpoint writes it, without its mark. kInvalidArgument: none.
  Status value(const nlohmann::json& value);
  // A tensor whose elements are all of record data/<key>.
  void tensor(const TensorInfo& info, const std::string& key);
  // torch.<dtype>
  void dtype(Dtype dtype);

 private:
  void number(uint64_t value, int bytes);
  std::string out_;
};

// A zip file as torch.save() makes them, appended to a file. One record after the other.
class TorchZipWriter {
 public:
  explicit TorchZipWriter(AtomicFile& file) : file_(file), base_(file.size()) {}
  Status begin(const std::string& name, uint64_t bytes);
  Status append(std::span<const std::byte> bytes);
  Status end();
  Status record(const std::string& name, std::string_view bytes);
  // The directory, behind the records that every such file has.
  Status finish();
  uint64_t size() const { return file_.size() - base_; }

 private:
  struct Entry {
    std::string name;
    uint64_t offset = 0, bytes = 0;
    uint32_t crc = 0;
  };
  AtomicFile& file_;
  uint64_t base_;
  std::vector<Entry> entries_;
};

}  // namespace convoy::ckpt
