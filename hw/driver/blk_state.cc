// SPDX-License-Identifier: Apache-2.0
//
// A block client that moves to another process.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "hw/driver/blk_client_impl.h"
#include "hw/driver/blk_queue.h"
#include "hw/driver/blk_request.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/status.h"

namespace vhost {

absl::StatusOr<BlkClientState::Queue> BlkQueue::save() const {
  VHOST_RETURN_IF_ERROR(failure_);
  const std::string name = absl::StrCat("vq ", to_int(handle_.index()));
  if (!ended_.ok() || handle_.renewable()) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": ", in_flight_,
                     " requests of a device that was reset are not taken"));
  }
  if (handle_.lost()) return annotate(handle_.lost_status(), name);
  BlkClientState::Queue out;
  out.wires_gpa = memory_.gpa();
  for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
    const Slot& one = slots_[slot];
    if (!one.in_flight) continue;
    out.in_flight.push_back({slot, one.cookie, one.op, one.offset});
  }
  return out;
}

absl::StatusOr<std::unique_ptr<BlkQueue>> BlkQueue::restore(
    DmaMemory& memory, QueueHandle handle, uint32_t depth,
    const BlkClientState::Queue& state) {
  VHOST_RETURN_IF_ERROR(check_ring(handle));
  const std::string what = absl::StrCat("vq ", to_int(handle.index()));
  absl::StatusOr<DmaBuffer> wires =
      memory.allocate_at(state.wires_gpa, uint64_t{sizeof(BlkWire)} * depth);
  if (!wires.ok()) return annotate(wires.status(), what);
  std::unique_ptr<BlkQueue> out(
      new BlkQueue(std::move(handle), *std::move(wires), depth));
  const absl::Status adopted = out->adopt(state);
  if (!adopted.ok()) out->forget();
  VHOST_RETURN_IF_ERROR(annotate(adopted, what));
  return out;
}

absl::Status BlkQueue::adopt(const BlkClientState::Queue& state) {
  for (const BlkClientState::Request& request : state.in_flight) {
    if (request.slot >= slots_.size() || slots_[request.slot].in_flight) {
      return absl::InvalidArgumentError(
          absl::StrCat("slot ", request.slot, " of ", slots_.size(),
                       " in flight, or more than once"));
    }
    slots_[request.slot] =
        Slot{request.cookie, request.op, true, request.offset};
    ++in_flight_;
  }
  free_.clear();
  for (size_t slot = slots_.size(); slot != 0; --slot) {
    if (slots_[slot - 1].in_flight) continue;
    free_.push_back(static_cast<uint32_t>(slot - 1));
  }
  return check_in_flight();
}

// What the ring will bring back is a slot in flight, each once.
absl::Status BlkQueue::check_in_flight() const {
  const absl::StatusOr<SplitRingState> ring = ring_->save();
  if (!ring.ok()) return ring.status();
  std::vector<bool> seen(slots_.size());
  for (const SplitRingState::Request& request : ring->in_flight) {
    const uint64_t slot = request.cookie;
    if (slot >= slots_.size() || !slots_[slot].in_flight || seen[slot]) {
      return absl::InvalidArgumentError(
          absl::StrCat("the ring has slot ", slot, " of ", slots_.size(),
                       ", which is not in flight, or has it twice"));
    }
    seen[slot] = true;
  }
  if (ring->in_flight.size() == in_flight_) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the ring has ", ring->in_flight.size(),
                   " requests in flight, the client ", in_flight_));
}

absl::StatusOr<BlkClientState> BlkClient::save() const {
  VHOST_RETURN_IF_ERROR(annotate(impl_->status, "block client"));
  BlkClientState out;
  out.config = impl_->config;
  out.depth = impl_->options.depth;
  out.id_gpa = impl_->id.gpa();
  for (const std::unique_ptr<BlkQueue>& queue : impl_->queues) {
    absl::StatusOr<BlkClientState::Queue> saved = queue->save();
    if (!saved.ok()) return annotate(saved.status(), "block client");
    out.queues.push_back(*std::move(saved));
  }
  return out;
}

absl::StatusOr<std::unique_ptr<BlkClient>> BlkClient::restore(
    VirtioDriver& driver, const Options& options, const BlkClientState& state) {
  const uint32_t queues = driver.started().queues;
  if (state.depth != options.depth || state.queues.size() != queues) {
    return absl::InvalidArgumentError(
        absl::StrCat("block client: state of depth ", state.depth, " and ",
                     state.queues.size(), " queues, not of ", options.depth,
                     " and ", queues));
  }
  VHOST_RETURN_IF_ERROR(Impl::check(driver, queues, options));
  VHOST_RETURN_IF_ERROR(
      annotate(check_blk_config(state.config), "block client"));
  auto impl = std::make_unique<Impl>(driver, state.config, options);
  absl::StatusOr<DmaBuffer> id =
      driver.memory().allocate_at(state.id_gpa, kBlkIdSize);
  if (!id.ok()) return annotate(id.status(), "block client");
  impl->id = *std::move(id);
  const absl::Status restored = impl->restore_queues(state);
  if (!restored.ok()) {
    for (const auto& queue : impl->queues) queue->forget();
    return annotate(restored, "block client");
  }
  return std::unique_ptr<BlkClient>(new BlkClient(std::move(impl)));
}

absl::Status BlkClient::Impl::restore_queues(const BlkClientState& state) {
  for (uint32_t i = 0; i < state.queues.size(); ++i) {
    absl::StatusOr<QueueHandle> handle = driver.acquire(QueueIndex{i});
    if (!handle.ok()) return handle.status();
    absl::StatusOr<std::unique_ptr<BlkQueue>> queue = BlkQueue::restore(
        driver.memory(), *std::move(handle), options.depth, state.queues[i]);
    if (!queue.ok()) return queue.status();
    queues.push_back(*std::move(queue));
  }
  return absl::OkStatus();
}

absl::Status BlkClient::take_over() {
  absl::Status first;
  for (const std::unique_ptr<BlkQueue>& queue : impl_->queues) {
    first.Update(queue->take_over());
  }
  return first;
}

}  // namespace vhost
