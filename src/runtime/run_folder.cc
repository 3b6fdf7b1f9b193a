#include "src/runtime/run_folder.h"

#include <convoy/base/atomic_file.h>
#include <convoy/runtime/loss_curve.h>

#include <filesystem>
#include <numbers>

namespace convoy::runtime {

Result<RunFolder> RunFolder::open(const std::string& path, const std::string& config) {
  RunFolder folder;
  folder.path_ = path;
  if (path.empty()) return folder;
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return errno_status("can't make the run folder " + path, error.value());
  CONVOY_RETURN_IF_ERROR(write_file(path + "/config.json", config));
  CONVOY_ASSIGN_OR_RETURN(MetricsWriter metrics, MetricsWriter::open(path + "/metrics.jsonl"));
  folder.metrics_.emplace(std::move(metrics));
  return folder;
}

Status RunFolder::step(int64_t step, const StepResult& result, int64_t tokens, double rate,
                       double seconds) {
  training_.emplace_back(step, result.loss);
  if (!metrics_) return ok_status();
  return metrics_->write({{"step", step},
                          {"loss", result.loss},
                          {"grad_norm", result.grad_norm},
                          {"lr", result.lr},
                          {"tokens", tokens},
                          {"tokens_per_s", rate},
                          {"seconds", seconds}});
}

Status RunFolder::validation(int64_t step, double loss) {
  validation_.emplace_back(step, loss);
  return write_validation("validation_loss", step, loss);
}

Status RunFolder::result(int64_t step, double loss) {
  return write_validation("final_validation_loss", step, loss);
}

Status RunFolder::stalled(int64_t step, double seconds) {
  if (!metrics_) return ok_status();
  return metrics_->write({{"step", step}, {"checkpoint_stall_s", seconds}});
}

Status RunFolder::resume(int64_t step, const std::string& mark) {
  if (path_.empty()) return ok_status();
  CONVOY_ASSIGN_OR_RETURN(training_, points("loss", step));
  CONVOY_ASSIGN_OR_RETURN(validation_, points("validation_loss", step));
  marks_.emplace_back(step, mark);
  return ok_status();
}

Status RunFolder::finish(const std::string& title, const std::string& reference) {
  if (path_.empty()) return ok_status();
  std::vector<Curve> curves = {{"training", training_}, {"validation", validation_}};
  if (!reference.empty()) {
    CONVOY_ASSIGN_OR_RETURN(const auto values, read_metric(reference, "loss"));
    curves.push_back({"reference", {values.begin(), values.end()}, /*behind=*/true});
  }
  return write_file(path_ + "/loss.svg", loss_curve_svg(title, curves, marks_));
}

Result<RunFolder::Points> RunFolder::points(const std::string& name, int64_t last) const {
  CONVOY_ASSIGN_OR_RETURN(const auto values, read_metric(path_ + "/metrics.jsonl", name));
  return Points(values.begin(), values.upper_bound(last));
}

Status RunFolder::write_validation(const char* name, int64_t step, double loss) {
  if (!metrics_) return ok_status();
  return metrics_->write(
      {{"step", step}, {name, loss}, {"bits_per_byte", loss / std::numbers::ln2}});
}

}  // namespace convoy::runtime
