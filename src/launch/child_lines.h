#pragma once

#include "src/launch/output.h"
#include "src/launch/process.h"
#include <convoy/base/event_loop.h>
#include <convoy/base/status.h>

#include <functional>
#include <string_view>

namespace convoy::launch {

// What a child beside the ranks writes, line by line. One thread. Loop and child outlive it.
class ChildLines {
 public:
  using Take = std::function<void(std::string_view line, bool is_error)>;
  ChildLines(EventLoop& loop, Child& child, Take take)
      : loop_(loop), child_(child), take_(std::move(take)) {}
  ~ChildLines();
  // From now on the loop serves it.
  Status watch();
  // Takes what is there; does not block.
  void read();
  // The child has ended: takes the rest.
  void finish();

 private:
  bool read_once(bool is_error);

  EventLoop& loop_;
  Child& child_;
  const Take take_;
  LineSplitter out_, err_;
};

}  // namespace convoy::launch
