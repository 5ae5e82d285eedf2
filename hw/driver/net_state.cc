// SPDX-License-Identifier: Apache-2.0
//
// A network client that moves to another process.

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "hw/driver/net_client_impl.h"
#include "hw/driver/net_queue.h"
#include "vhostdev/driver_state.h"
#include "vhostdev/net_features.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

std::string name_of(const QueueHandle& handle) {
  return absl::StrCat("vq ", to_int(handle.index()));
}

}  // namespace

absl::Status BufferQueue::check_saving() const {
  VHOST_RETURN_IF_ERROR(failure_);
  if (!ended_.ok() || handle_.renewable()) {
    return absl::FailedPreconditionError(absl::StrCat(
        name_of(handle_), ": the device was reset, and it has not begun anew"));
  }
  if (!handle_.lost()) return absl::OkStatus();
  return annotate(handle_.lost_status(), name_of(handle_));
}

std::vector<NetClientState::Taken> BufferQueue::taken() const {
  std::vector<NetClientState::Taken> out;
  for (size_t i = batch_next_; i < batch_size_; ++i) {
    out.push_back({static_cast<uint32_t>(batch_[i].cookie), batch_[i].written});
  }
  return out;
}

absl::Status BufferQueue::adopt(std::span<const NetClientState::Taken> taken,
                                uint32_t most, std::vector<bool> in_flight) {
  const auto odd = [this](auto... what) {
    return absl::InvalidArgumentError(
        absl::StrCat(name_of(handle_), ": ", what...));
  };
  if (taken.size() > batch_.size()) {
    return odd(taken.size(), " buffers taken from the ring, of at most ",
               batch_.size());
  }
  for (const NetClientState::Taken& one : taken) {
    if (one.slot >= in_flight.size() || !in_flight[one.slot] ||
        one.written > most) {
      return odd("buffer ", one.slot, " of ", in_flight.size(), " taken, with ",
                 one.written, " bytes of ", most);
    }
    in_flight[one.slot] = false;
    batch_[batch_size_++] = {one.slot, one.written};
  }
  const absl::StatusOr<SplitRingState> ring = ring_->save();
  if (!ring.ok()) return annotate(ring.status(), name_of(handle_));
  for (const SplitRingState::Request& request : ring->in_flight) {
    const uint64_t slot = request.cookie;
    if (slot >= in_flight.size() || !in_flight[slot] ||
        request.writable > most) {
      return odd("the ring has buffer ", slot, " of ", in_flight.size(), ", ",
                 request.writable, " bytes of ", most);
    }
    in_flight[slot] = false;
  }
  const auto missing = std::count(in_flight.begin(), in_flight.end(), true);
  if (missing == 0) return absl::OkStatus();
  return odd(missing, " buffers are not on the ring");
}

// ---------------------------------------------------------------------------

absl::Status NetSendQueue::save(NetClientState::Pair& out) const {
  VHOST_RETURN_IF_ERROR(check_saving());
  out.send_gpa = memory_.gpa();
  out.sent = taken();
  for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
    if (!slots_[slot].in_flight) continue;
    out.in_flight.push_back({slot, slots_[slot].cookie});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<NetSendQueue>> NetSendQueue::restore(
    DmaMemory& memory, QueueHandle handle, const NetClient::Options& options,
    const NetClientState::Pair& state) {
  absl::StatusOr<DmaBuffer> buffers =
      allocate_at(memory, handle, state.send_gpa, options.send_depth,
                  options.max_frame + kNetHeaderSize);
  if (!buffers.ok()) return buffers.status();
  std::unique_ptr<NetSendQueue> out(
      new NetSendQueue(std::move(handle), *std::move(buffers), options));
  VHOST_RETURN_IF_ERROR(out->adopt(state));
  return out;
}

absl::Status NetSendQueue::adopt(const NetClientState::Pair& state) {
  std::vector<bool> in_flight(slots_.size());
  for (const NetClientState::Sent& sent : state.in_flight) {
    if (sent.slot >= slots_.size() || in_flight[sent.slot]) {
      return absl::InvalidArgumentError(
          absl::StrCat(name_of(handle_), ": frame ", sent.slot, " of ",
                       slots_.size(), " under way, or more than once"));
    }
    in_flight[sent.slot] = true;
    slots_[sent.slot] = {sent.cookie, true};
    ++in_flight_;
  }
  std::erase_if(free_, [&](uint32_t slot) { return in_flight[slot]; });
  return BufferQueue::adopt(state.sent, 0, std::move(in_flight));
}

absl::Status NetReceiveQueue::save(NetClientState::Pair& out) const {
  VHOST_RETURN_IF_ERROR(check_saving());
  out.receive_gpa = memory_.gpa();
  out.received = taken();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<NetReceiveQueue>> NetReceiveQueue::restore(
    DmaMemory& memory, QueueHandle handle, const NetClient::Options& options,
    bool mergeable, const NetClientState::Pair& state) {
  absl::StatusOr<DmaBuffer> buffers = allocate_at(
      memory, handle, state.receive_gpa, options.buffers, options.buffer_size);
  if (!buffers.ok()) return buffers.status();
  std::unique_ptr<NetReceiveQueue> out(new NetReceiveQueue(
      std::move(handle), *std::move(buffers), options, mergeable));
  VHOST_RETURN_IF_ERROR(out->adopt(state.received, options.buffer_size,
                                   std::vector<bool>(options.buffers, true)));
  return out;
}

// ---------------------------------------------------------------------------

absl::StatusOr<NetClientState> NetClient::save() const {
  VHOST_RETURN_IF_ERROR(annotate(impl_->status, "net client"));
  NetClientState out;
  out.send_depth = impl_->options.send_depth;
  out.max_frame = impl_->options.max_frame;
  out.buffers = impl_->options.buffers;
  out.buffer_size = impl_->options.buffer_size;
  out.pairs.resize(impl_->senders.size());
  for (size_t i = 0; i < out.pairs.size(); ++i) {
    absl::Status status = impl_->senders[i]->save(out.pairs[i]);
    status.Update(impl_->receivers[i]->save(out.pairs[i]));
    VHOST_RETURN_IF_ERROR(annotate(status, "net client"));
  }
  return out;
}

absl::StatusOr<std::unique_ptr<NetClient>> NetClient::restore(
    VirtioDriver& driver, const Options& options, const NetClientState& state) {
  VHOST_RETURN_IF_ERROR(annotate(Impl::check(driver, options), "net client"));
  const uint32_t queues = driver.started().fixed + driver.started().queues;
  if (state.send_depth != options.send_depth ||
      state.max_frame != options.max_frame ||
      state.buffers != options.buffers ||
      state.buffer_size != options.buffer_size ||
      state.pairs.size() != queues / 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "net client: state of other sizes: ", state.send_depth, " frames of ",
        state.max_frame, " bytes, ", state.buffers, " buffers of ",
        state.buffer_size, ", ", state.pairs.size(), " pairs"));
  }
  auto impl = std::make_unique<Impl>(driver, options);
  VHOST_RETURN_IF_ERROR(annotate(impl->restore_queues(state), "net client"));
  return std::unique_ptr<NetClient>(new NetClient(std::move(impl)));
}

absl::Status NetClient::Impl::restore_queues(const NetClientState& state) {
  const bool mergeable = driver.has(kNetFeatureMrgRxbuf);
  for (uint32_t i = 0; i < state.pairs.size(); ++i) {
    absl::StatusOr<QueueHandle> receive = driver.acquire(QueueIndex{2 * i});
    if (!receive.ok()) return receive.status();
    absl::StatusOr<QueueHandle> transmit =
        driver.acquire(QueueIndex{2 * i + 1});
    if (!transmit.ok()) return transmit.status();
    absl::StatusOr<std::unique_ptr<NetSendQueue>> sender =
        NetSendQueue::restore(driver.memory(), *std::move(transmit), options,
                              state.pairs[i]);
    if (!sender.ok()) return sender.status();
    senders.push_back(*std::move(sender));
    absl::StatusOr<std::unique_ptr<NetReceiveQueue>> receiver =
        NetReceiveQueue::restore(driver.memory(), *std::move(receive), options,
                                 mergeable, state.pairs[i]);
    if (!receiver.ok()) return receiver.status();
    receivers.push_back(*std::move(receiver));
  }
  return absl::OkStatus();
}

absl::Status NetClient::take_over() {
  absl::Status first;
  impl_->for_each_queue(
      [&first](BufferQueue& queue) { first.Update(queue.take_over()); });
  return first;
}

}  // namespace vhost
