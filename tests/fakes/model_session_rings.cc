// SPDX-License-Identifier: Apache-2.0
//
// Messages about rings and the memory they are in.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "backends/user/wire.h"
#include "tests/fakes/model_session.h"
#include "vhostdev/status.h"

namespace vhost::testing {
namespace {

namespace wire = user::wire;

// The payload of a message whose size was checked.
template <typename T>
T payload_of(const ModelFrame& message) {
  return wire::read_prefix<T>(message.payload).value_or(T{});
}

ModelRegion region_of(const wire::MemoryRegion& region) {
  return {.gpa = region.guest_address,
          .size = region.size,
          .user = region.user_address,
          .mmap_offset = region.mmap_offset};
}

// A descriptor of SET_VRING_KICK, _CALL or _ERR, and whose it is.
struct Notifier {
  uint64_t index = 0;
  std::optional<UniqueFd> fd;
};

absl::StatusOr<Notifier> notifier_of(ModelFrame& message) {
  const auto value = payload_of<uint64_t>(message);
  const bool none = (value & wire::kNoFdFlag) != 0;
  if ((value & ~(wire::kVringIndexMask | wire::kNoFdFlag)) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat("payload 0x%x", value));
  }
  if (none != message.fds.empty()) {
    return absl::InvalidArgumentError(
        none ? "a descriptor where none is announced" : "no descriptor");
  }
  Notifier notifier;
  notifier.index = value & wire::kVringIndexMask;
  if (!none) notifier.fd = std::move(message.fds[0]);
  return notifier;
}

absl::Status check_stopped(const ModelVring& vring, uint32_t index) {
  if (!vring.started()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("vq ", index, " is started"));
}

absl::Status name_vring(const absl::Status& status, uint64_t index) {
  return annotate(status, absl::StrCat("vq ", index));
}

}  // namespace

absl::StatusOr<ModelVring*> ModelSession::vring(uint64_t index) {
  if (index < vrings_.size()) return vrings_[index].get();
  return absl::InvalidArgumentError(
      absl::StrCat("vq ", index, " of ", vrings_.size()));
}

// Changes the memory if all started rings find themselves in it.
absl::Status ModelSession::use_memory(ModelMemory memory) {
  for (size_t i = 0; i < vrings_.size(); ++i) {
    if (!vrings_[i]->started() || vrings_[i]->state().broken) continue;
    VHOST_RETURN_IF_ERROR(name_vring(vrings_[i]->ring().fits(memory), i));
  }
  context_.memory = std::move(memory);
  for (const auto& vring : vrings_) vring->remap();
  return absl::OkStatus();
}

ModelSession::Answer ModelSession::set_mem_table(ModelFrame& message) {
  const auto head = payload_of<wire::MemoryTableHead>(message);
  const size_t expected = sizeof(wire::MemoryTableHead) +
                          head.num_regions * sizeof(wire::MemoryRegion);
  if (head.num_regions > wire::kMaxTableRegions ||
      message.payload.size() != expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        head.num_regions, " regions in ", message.payload.size(), " bytes"));
  }
  if (message.fds.size() != head.num_regions) {
    return absl::InvalidArgumentError(
        absl::StrCat(head.num_regions, " regions with ", message.fds.size(),
                     " descriptors"));
  }
  ModelMemory memory;
  for (size_t i = 0; i < head.num_regions; ++i) {
    const auto region = wire::read_prefix<wire::MemoryRegion>(
        std::span(message.payload)
            .subspan(sizeof(wire::MemoryTableHead) +
                     i * sizeof(wire::MemoryRegion)));
    VHOST_RETURN_IF_ERROR(memory.add(region_of(*region), message.fds[i]));
  }
  VHOST_RETURN_IF_ERROR(use_memory(std::move(memory)));
  return Body();
}

ModelSession::Answer ModelSession::get_max_mem_slots(ModelFrame&) {
  const uint64_t slots = environment_->options.memory_slots;
  const auto bytes = wire::bytes_of(slots);
  return Body(bytes.begin(), bytes.end());
}

ModelSession::Answer ModelSession::add_mem_reg(ModelFrame& message) {
  if (context_.memory.regions() >= environment_->options.memory_slots) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "all ", environment_->options.memory_slots, " slots are in use"));
  }
  const auto single = payload_of<wire::SingleMemoryRegion>(message);
  VHOST_RETURN_IF_ERROR(
      context_.memory.add(region_of(single.region), message.fds[0]));
  return Body();
}

ModelSession::Answer ModelSession::rem_mem_reg(ModelFrame& message) {
  const auto single = payload_of<wire::SingleMemoryRegion>(message);
  ModelMemory memory = context_.memory;
  VHOST_RETURN_IF_ERROR(memory.remove(region_of(single.region)));
  VHOST_RETURN_IF_ERROR(use_memory(std::move(memory)));
  return Body();
}

ModelSession::Answer ModelSession::set_log_base(ModelFrame& message) {
  const auto log = payload_of<wire::Log>(message);
  VHOST_RETURN_IF_ERROR(
      context_.log.map(message.fds[0], log.mmap_offset, log.mmap_size));
  const uint64_t success = 0;
  const auto bytes = wire::bytes_of(success);
  return Body(bytes.begin(), bytes.end());
}

ModelSession::Answer ModelSession::set_log_fd(ModelFrame& message) {
  make_nonblocking(message.fds[0]);
  context_.log.notify(std::move(message.fds[0]));
  return Body();
}

ModelSession::Answer ModelSession::set_vring_num(ModelFrame& message) {
  const auto state = payload_of<wire::VringState>(message);
  const absl::StatusOr<ModelVring*> which = vring(state.index);
  if (!which.ok()) return which.status();
  VHOST_RETURN_IF_ERROR(check_stopped(**which, state.index));
  VHOST_RETURN_IF_ERROR(
      name_vring((*which)->ring().set_num(state.num), state.index));
  return Body();
}

ModelSession::Answer ModelSession::set_vring_addr(ModelFrame& message) {
  const auto addr = payload_of<wire::VringAddr>(message);
  const absl::StatusOr<ModelVring*> which = vring(addr.index);
  if (!which.ok()) return which.status();
  if ((addr.flags & ~wire::kVringLogFlag) != 0) {
    return name_vring(
        absl::InvalidArgumentError(absl::StrFormat("flags 0x%x", addr.flags)),
        addr.index);
  }
  const ModelRingAddresses wanted = {
      .desc = addr.descriptor,
      .avail = addr.available,
      .used = addr.used,
      .log = addr.log,
      .log_used = (addr.flags & wire::kVringLogFlag) != 0};
  if ((*which)->started()) {
    // Only the log may be switched on and off.
    ModelRingAddresses now = (*which)->ring().addresses().value_or(wanted);
    now.log_used = wanted.log_used;
    if (now != wanted) return check_stopped(**which, addr.index);
  }
  VHOST_RETURN_IF_ERROR(
      name_vring((*which)->ring().set_addresses(wanted), addr.index));
  return Body();
}

ModelSession::Answer ModelSession::set_vring_base(ModelFrame& message) {
  const auto state = payload_of<wire::VringState>(message);
  const absl::StatusOr<ModelVring*> which = vring(state.index);
  if (!which.ok()) return which.status();
  VHOST_RETURN_IF_ERROR(check_stopped(**which, state.index));
  VHOST_RETURN_IF_ERROR(
      name_vring((*which)->ring().set_base(state.num), state.index));
  return Body();
}

ModelSession::Answer ModelSession::get_vring_base(ModelFrame& message) {
  const auto state = payload_of<wire::VringState>(message);
  const absl::StatusOr<ModelVring*> which = vring(state.index);
  if (!which.ok()) return which.status();
  if (state.num != 0) {
    return name_vring(
        absl::InvalidArgumentError(absl::StrCat("num ", state.num)),
        state.index);
  }
  (*which)->stop();
  const wire::VringState answer = {state.index, (*which)->ring().next_avail()};
  const auto bytes = wire::bytes_of(answer);
  return Body(bytes.begin(), bytes.end());
}

ModelSession::Answer ModelSession::set_vring_kick(ModelFrame& message) {
  absl::StatusOr<Notifier> notifier = notifier_of(message);
  if (!notifier.ok()) return notifier.status();
  const absl::StatusOr<ModelVring*> which = vring(notifier->index);
  if (!which.ok()) return which.status();
  VHOST_RETURN_IF_ERROR(
      name_vring((*which)->set_kick(std::move(notifier->fd)), notifier->index));
  return Body();
}

ModelSession::Answer ModelSession::set_vring_call(ModelFrame& message) {
  absl::StatusOr<Notifier> notifier = notifier_of(message);
  if (!notifier.ok()) return notifier.status();
  const absl::StatusOr<ModelVring*> which = vring(notifier->index);
  if (!which.ok()) return which.status();
  (*which)->set_call(std::move(notifier->fd));
  return Body();
}

ModelSession::Answer ModelSession::set_vring_err(ModelFrame& message) {
  absl::StatusOr<Notifier> notifier = notifier_of(message);
  if (!notifier.ok()) return notifier.status();
  const absl::StatusOr<ModelVring*> which = vring(notifier->index);
  if (!which.ok()) return which.status();
  (*which)->set_err(std::move(notifier->fd));
  return Body();
}

ModelSession::Answer ModelSession::set_vring_enable(ModelFrame& message) {
  if (!context_.features.has(kFeatureProtocolFeatures)) {
    return absl::FailedPreconditionError(
        "PROTOCOL_FEATURES was not negotiated");
  }
  const auto state = payload_of<wire::VringState>(message);
  const absl::StatusOr<ModelVring*> which = vring(state.index);
  if (!which.ok()) return which.status();
  if (state.num > 1) {
    return name_vring(absl::InvalidArgumentError(
                          absl::StrCat(state.num, " is neither 0 nor 1")),
                      state.index);
  }
  (*which)->set_enabled(state.num == 1);
  return Body();
}

ModelSession::Answer ModelSession::vring_kick(ModelFrame& message) {
  const auto state = payload_of<wire::VringState>(message);
  const absl::StatusOr<ModelVring*> which = vring(state.index);
  if (!which.ok()) return which.status();
  (*which)->start();
  return Body();
}

}  // namespace vhost::testing
