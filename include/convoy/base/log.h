#pragma once

#include <sstream>
#include <string>
#include <string_view>

namespace convoy {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

// Sets what every following line of this process carries ("job", "rank 3/8 gen 0", ...) and the
// least level that is shown. Level by default: CONVOY_LOG (debug|info|warn|error|off), else info.
// Thread-safe.
void set_log_identity(const std::string& identity);
void set_log_level(LogLevel level);
bool log_enabled(LogLevel level);
// Writes one line to stderr. A facade: spdlog stays inside log.cc, because torch's include folder
// shadows the system's fmt.
void log_line(LogLevel level, std::string_view text);

// A stream that becomes one log line at the end of the full expression.
class LogStream {
 public:
  explicit LogStream(LogLevel level) : level_(level) {}
  LogStream(const LogStream&) = delete;
  LogStream& operator=(const LogStream&) = delete;
  ~LogStream() { log_line(level_, text_.str()); }
  template <class T>
  LogStream& operator<<(const T& value) {
    text_ << value;
    return *this;
  }

 private:
  LogLevel level_;
  std::ostringstream text_;
};

}  // namespace convoy

// CONVOY_LOG(Info) << "group " << name << " is ready";  (Debug, Info, Warn, Error)
#define CONVOY_LOG(level)                                     \
  if (!::convoy::log_enabled(::convoy::LogLevel::k##level)) { \
  } else                                                      \
    ::convoy::LogStream(::convoy::LogLevel::k##level)
