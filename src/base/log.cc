// The only file that includes spdlog. One logger to stderr; identity is part of the pattern, so
// that every line says who wrote it.
#include <convoy/base/log.h>

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <memory>
#include <mutex>

namespace convoy {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      return spdlog::level::off;
  }
  return spdlog::level::info;
}

LogLevel level_from_environment() {
  const char* text = std::getenv("CONVOY_LOG");
  const std::string_view name = text == nullptr ? "info" : text;
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warn") return LogLevel::kWarn;
  if (name == "error") return LogLevel::kError;
  if (name == "off") return LogLevel::kOff;
  return LogLevel::kInfo;
}

void apply_identity(spdlog::logger& logger, const std::string& identity) {
  const std::string who = identity.empty() ? "" : " [" + identity + "]";
  logger.set_pattern("%H:%M:%S.%e %L" + who + " %v");
}

spdlog::logger& logger() {
  // Leaked on purpose: threads may log while statics are destroyed.
  static spdlog::logger* instance = [] {
    auto* made = new spdlog::logger("convoy", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_level(to_spdlog(level_from_environment()));
    made->flush_on(spdlog::level::debug);
    apply_identity(*made, "");
    return made;
  }();
  return *instance;
}

}  // namespace

void set_log_identity(const std::string& identity) {
  apply_identity(logger(), identity);
}

void set_log_level(LogLevel level) {
  logger().set_level(to_spdlog(level));
}

bool log_enabled(LogLevel level) {
  return logger().should_log(to_spdlog(level));
}

void log_line(LogLevel level, std::string_view text) {
  logger().log(to_spdlog(level), spdlog::string_view_t(text.data(), text.size()));
}

}  // namespace convoy
