#pragma once

#include "src/resilience/etcd/leadership.h"
#include "src/resilience/supervisor/control_store.h"
#include <convoy/resilience/supervise.h>

#include <memory>
#include <optional>

namespace convoy::resilience {

// Finds out whether this machine leads the job, and sees to it that the process ends as soon as
// that is another one's (kExitRoleOver): each process has one role for as long as it lives.
class Contender {
 public:
  explicit Contender(const SuperviseOptions& options) : options_(options) {}

  // Until it is known who leads, however long etcd is away. None: the launcher has gone meanwhile.
  Result<std::optional<Leadership::Leader>> settle();
  // Of the leader: what it saves is in etcd.
  std::unique_ptr<ControlStore> store();
  // The job is over: another one of the same name begins anew.
  void forget_state();

 private:
  bool is_launcher_there();

  const SuperviseOptions& options_;
  std::unique_ptr<Leadership> leadership_;
};

}  // namespace convoy::resilience
