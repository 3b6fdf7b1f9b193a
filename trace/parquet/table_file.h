#pragma once

#include <convoy/base/status.h>

#include <arrow/array/builder_base.h>
#include <arrow/array/builder_binary.h>
#include <arrow/array/builder_primitive.h>
#include <arrow/io/file.h>
#include <arrow/type.h>
#include <filesystem>
#include <memory>
#include <optional>
#include <parquet/arrow/writer.h>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::trace {

// A Parquet file that is written row by row: put() once for each column, in their order, then
// end_row(). A group of rows is held in memory. Keeps the first error. Not thread-safe.
class TableFile {
 public:
  static Result<std::unique_ptr<TableFile>> create(
      const std::filesystem::path& path, std::vector<std::shared_ptr<arrow::Field>> fields);

  void put(int64_t value) { keep(builder<arrow::Int64Builder>().Append(value)); }
  void put(double value) { keep(builder<arrow::DoubleBuilder>().Append(value)); }
  void put(std::string_view value) { keep(builder<arrow::StringBuilder>().Append(value)); }
  void put_null() { keep(builders_[column_++]->AppendNull()); }
  // 0 is null: not known.
  void put_time(int64_t ns) { ns != 0 ? put(ns) : put_null(); }
  void end_row();
  uint64_t rows() const { return rows_; }
  Status close();

 private:
  static constexpr uint64_t kGroupRows = 128 << 10;
  template <class Builder>
  Builder& builder() {
    return static_cast<Builder&>(*builders_[column_++]);
  }
  void keep(const arrow::Status& status);
  void flush();

  std::filesystem::path path_;
  std::shared_ptr<arrow::Schema> schema_;
  std::vector<std::unique_ptr<arrow::ArrayBuilder>> builders_;
  std::shared_ptr<arrow::io::FileOutputStream> file_;
  std::unique_ptr<parquet::arrow::FileWriter> writer_;
  size_t column_ = 0;
  uint64_t rows_ = 0, pending_ = 0;
  Status status_;
};

}  // namespace convoy::trace
