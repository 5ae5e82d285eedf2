// SPDX-License-Identifier: Apache-2.0
// What of masking concerns the back-end.  The mask itself took effect in
// Interrupts already; nobody waits for what happens here.
#include <utility>

#include "hw/virtio/vhost_dev_impl.h"
#include "vhostdev/status.h"

namespace vhost {

void VhostDev::Impl::mask(QueueIndex vq) {
  if (to_int(vq) >= options_.queues.device_queues()) return;
  if (interrupts_.mask(vq)) post_call_switch();
}

void VhostDev::Impl::unmask(QueueIndex vq) {
  if (to_int(vq) >= options_.queues.device_queues()) return;
  if (interrupts_.unmask(vq)) post_call_switch();
}

bool VhostDev::Impl::pending(QueueIndex vq) {
  if (to_int(vq) >= options_.queues.device_queues()) return false;
  return interrupts_.pending(vq);
}

MaskMode VhostDev::Impl::mask_mode() const {
  const bool backend = options_.mask_mode == MaskMode::kBackend &&
                       traits().acks_requests && backend_masks_;
  return backend ? MaskMode::kBackend : MaskMode::kLocal;
}

// Any thread.
void VhostDev::Impl::post_call_switch() {
  if (options_.mask_mode != MaskMode::kBackend) return;
  defer([](Impl& self) { self.switch_calls(); });
}

// Not during a sequence: its end comes here again.
void VhostDev::Impl::switch_calls() {
  if (mask_mode() != MaskMode::kBackend || switching_) return;
  if (state() != DeviceState::kRunning || current_.has_value()) return;
  std::vector<Interrupts::Switch> switches = interrupts_.switches();
  SetCalls calls;
  // There is no descriptor to switch where calls come in band.
  std::erase_if(switches, [this](const Interrupts::Switch& to) {
    return find(to.queue)->calls_in_band;
  });
  for (const Interrupts::Switch& to : switches) {
    calls.queues.push_back({.index = find(to.queue)->backend,
                            .call = NotifyRef::by_fd(to.to->write_fd())});
  }
  if (calls.queues.empty()) return;
  switching_ = true;
  call_switch_ = ops_->submit(
      std::move(calls), after(options_.start_timeout),
      [this, switches = std::move(switches)](BatchResult result) mutable {
        calls_switched(std::move(switches), result);
      });
}

void VhostDev::Impl::calls_switched(std::vector<Interrupts::Switch> switches,
                                    const BatchResult& result) {
  switching_ = false;
  bool stranded = false;  // Signals go where nobody listens, for good.
  for (const Interrupts::Switch& done : switches) {
    bool applied = result.status.ok();
    for (const Step& step : result.applied) {
      if (step.kind == StepKind::kCall &&
          step.index == to_int(find(done.queue)->backend)) {
        applied = true;
      }
    }
    if (applied) interrupts_.switched(done);
    if (!applied && !done.parked) stranded = true;
  }
  const absl::Status status = judge(result);
  if (!status.ok()) {
    backend_masks_ = false;
    if (stranded) become_broken(annotate(status, "unmask"));
    return;
  }
  // Posted: what changed meanwhile, and never inside this completion.
  post_call_switch();
}

}  // namespace vhost
