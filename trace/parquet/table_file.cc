#include "trace/parquet/table_file.h"

#include <arrow/array/array_base.h>
#include <arrow/builder.h>
#include <arrow/memory_pool.h>
#include <arrow/record_batch.h>

namespace convoy::trace {
namespace {

Status status_of(const arrow::Status& status, const std::filesystem::path& path) {
  if (status.ok()) return ok_status();
  return {status.IsOutOfMemory() ? Code::kResourceExhausted : Code::kInternal,
          "cannot write " + path.string() + ": " + status.message()};
}

}  // namespace

Result<std::unique_ptr<TableFile>> TableFile::create(
    const std::filesystem::path& path, std::vector<std::shared_ptr<arrow::Field>> fields) {
  auto table = std::make_unique<TableFile>();
  table->path_ = path;
  table->schema_ = arrow::schema(std::move(fields));
  auto open = [&]() -> arrow::Status {
    for (const auto& field : table->schema_->fields()) {
      table->builders_.emplace_back();
      ARROW_RETURN_NOT_OK(arrow::MakeBuilder(arrow::default_memory_pool(), field->type(),
                                             &table->builders_.back()));
    }
    ARROW_ASSIGN_OR_RAISE(table->file_, arrow::io::FileOutputStream::Open(path.string()));
    const auto properties =
        parquet::WriterProperties::Builder().compression(parquet::Compression::ZSTD)->build();
    ARROW_ASSIGN_OR_RAISE(table->writer_, parquet::arrow::FileWriter::Open(
                                              *table->schema_, arrow::default_memory_pool(),
                                              table->file_, properties));
    return arrow::Status::OK();
  };
  CONVOY_RETURN_IF_ERROR(status_of(open(), path));
  return table;
}

void TableFile::keep(const arrow::Status& status) {
  if (status_.ok() && !status.ok()) status_ = status_of(status, path_);
}

void TableFile::end_row() {
  CONVOY_CHECK(column_ == builders_.size(), "a row of " + path_.string() + " lacks columns");
  column_ = 0;
  ++rows_;
  if (++pending_ >= kGroupRows) flush();
}

void TableFile::flush() {
  std::vector<std::shared_ptr<arrow::Array>> columns(builders_.size());
  for (size_t i = 0; i < columns.size(); ++i) keep(builders_[i]->Finish(&columns[i]));
  if (status_.ok()) {
    const auto batch =
        arrow::RecordBatch::Make(schema_, static_cast<int64_t>(pending_), std::move(columns));
    keep(writer_->WriteRecordBatch(*batch));
  }
  pending_ = 0;
}

Status TableFile::close() {
  flush();
  keep(writer_->Close());
  keep(file_->Close());
  return status_;
}

}  // namespace convoy::trace
