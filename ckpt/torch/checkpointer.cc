// Which thread copies, and what waits for what.
#include <convoy/base/vitals.h>
#include <convoy/ckpt/checkpointer.h>

#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>

namespace convoy::ckpt {
namespace {

bool same_boxes(const TensorState& a, const TensorState& b) {
  if (a.size() != b.size()) return false;
  for (size_t t = 0; t < a.size(); ++t) {
    if (a[t].name != b[t].name || a[t].boxes.size() != b[t].boxes.size()) return false;
    for (size_t i = 0; i < a[t].boxes.size(); ++i) {
      const TensorBox& x = a[t].boxes[i];
      const TensorBox& y = b[t].boxes[i];
      if (x.begin != y.begin || x.data.sizes() != y.data.sizes() ||
          x.data.scalar_type() != y.data.scalar_type()) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

Result<std::unique_ptr<Checkpointer>> Checkpointer::create(CheckpointerOptions options) {
  CONVOY_ASSIGN_OR_RETURN(auto client, SnapshotClient::connect(options.client));
  return std::unique_ptr<Checkpointer>(new Checkpointer(std::move(options), std::move(client)));
}

Checkpointer::Checkpointer(CheckpointerOptions options, std::unique_ptr<SnapshotClient> client)
    : options_(std::move(options)), client_(std::move(client)) {}

Checkpointer::~Checkpointer() {
  if (going_.valid()) going_.wait();
}

Status Checkpointer::prepare(const TensorState& state) {
  (void)outcome();
  if (!device_of(state)) {
    CONVOY_ASSIGN_OR_RETURN(const State host, host_state(state));
    return client_->prepare(host);
  }
  pinned_ = host_copies(state);
  CONVOY_ASSIGN_OR_RETURN(const State host, host_state(pinned_));
  return client_->prepare(host);
}

Result<SaveOutcome> Checkpointer::save_host(uint64_t step, const TensorState& state,
                                            const std::map<std::string, std::string>& notes,
                                            bool everywhere) {
  CONVOY_ASSIGN_OR_RETURN(const State host, host_state(state));
  return client_->save(step, host, notes, everywhere);
}

// On a stream of its own that begins where the current one is now.
void Checkpointer::copy_from_device(const TensorState& state) {
  const at::Device device = *device_of(state);
  const c10::impl::VirtualGuardImpl guard(device.type());
  const c10::Stream current = guard.getStream(device);
  c10::Event ready(device.type());
  ready.record(current);
  const c10::Stream side = guard.getStreamFromGlobalPool(device);
  const c10::StreamGuard on_side(side);
  ready.block(side);
  copy_boxes(pinned_, state);
  copied_.emplace(device.type());
  copied_->record(side);
}

Result<SaveOutcome> Checkpointer::save_async(uint64_t step, TensorState state,
                                             const std::map<std::string, std::string>& notes,
                                             bool everywhere) {
  Result<SaveOutcome> before = outcome();  // and its pinned memory is free
  if (!device_of(state)) {
    copied_.reset();
    if (!options_.spread) {
      const WaitingForSave waiting;
      return last_ = save_host(step, state, notes, everywhere);
    }
    going_ =
        std::async(std::launch::async, [this, step, notes, everywhere, state = std::move(state)] {
          return save_host(step, state, notes, everywhere);
        });
    return before;
  }
  if (!same_boxes(pinned_, state)) pinned_ = host_copies(state);
  copy_from_device(state);
  going_ =
      std::async(std::launch::async, [this, step, notes, everywhere, state = std::move(state)] {
        copied_->synchronize();
        return save_host(step, pinned_, notes, everywhere);
      });
  return before;
}

void Checkpointer::fence() {
  if (copied_) {
    copied_->block(
        c10::impl::VirtualGuardImpl(copied_->device_type()).getStream(copied_->device()));
  } else {
    (void)outcome();
  }
}

Result<SaveOutcome> Checkpointer::outcome() {
  if (going_.valid()) {
    const WaitingForSave waiting;
    last_ = going_.get();
  }
  return last_;
}

Status Checkpointer::wait(uint64_t step, Tier tier, Nanos timeout) {
  CONVOY_RETURN_IF_ERROR(outcome().status());
  return client_->wait(step, tier, timeout);
}

Result<std::optional<NearestStep>> load_nearest(const LoadPlaces& places, const TensorState& wanted,
                                                Exchange& exchange, const LoadOptions& options) {
  if (!device_of(wanted)) {
    CONVOY_ASSIGN_OR_RETURN(const State host, host_state(wanted));
    return load_nearest(places, host, exchange, options);
  }
  const TensorState copies = host_copies(wanted);
  CONVOY_ASSIGN_OR_RETURN(const State host, host_state(copies));
  CONVOY_ASSIGN_OR_RETURN(auto loaded, load_nearest(places, host, exchange, options));
  if (loaded) copy_boxes(wanted, copies);
  return loaded;
}

}  // namespace convoy::ckpt
