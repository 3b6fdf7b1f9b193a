#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <string>

namespace convoy::cli {

// The body that an HTTP server of this cluster gives for `path`. `url` is http://HOST:PORT, with or
// without more behind it. kUnavailable: no connection or no whole answer in time; kNotFound and
// kInvalidArgument: what the server says.
Result<std::string> http_get(const std::string& url, const std::string& path,
                             const std::string& token, Nanos timeout);

}  // namespace convoy::cli
