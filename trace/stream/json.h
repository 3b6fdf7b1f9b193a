#pragma once

#include <convoy/base/status.h>
#include <convoy/trace/event.h>

#include <iosfwd>

namespace convoy::trace {

// See read_stream().
Status read_json_stream(std::istream& in, Registry& registry, Sink& to, bool& truncated);

}  // namespace convoy::trace
