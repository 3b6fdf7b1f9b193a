#pragma once

#include "trace/analysis/slow/findings.h"

#include <vector>

// Work that is dealt out unevenly: no fault, but it costs time.
namespace convoy::trace::slow {

class Imbalance {
 public:
  void clear() { *this = Imbalance(); }
  // To be called once for each new step.
  std::vector<Finding> find(const View& view);

 private:
  void stages(const View& view, std::vector<Finding>& found);
  bool experts(const View& view, std::vector<Finding>& found) const;
  void data(const View& view, std::vector<Finding>& found) const;

  std::vector<Base> stage_base_;
};

}  // namespace convoy::trace::slow
