#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <string>

namespace convoy::http {

// Whether posts can be made here: libcurl is opened when it is first asked for, since few programs
// need it.
Status can_post();
// POST of JSON. kUnavailable: no connection, no answer in time, 429 or 5xx, so that trying again
// may help; kInvalidArgument: any other answer than 2xx. Any thread, blocks.
Status post_json(const std::string& url, const std::string& body, Nanos timeout);

}  // namespace convoy::http
