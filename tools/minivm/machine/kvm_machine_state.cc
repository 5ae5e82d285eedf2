// SPDX-License-Identifier: Apache-2.0
// A machine that goes on in another process.
#include <sys/ioctl.h>

#include <cerrno>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tools/minivm/machine/kvm_machine.h"
#include "tools/minivm/machine/kvm_state.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

// What asks `file`, which outlives it.
auto calling(FdRef file) {
  return [file](unsigned long request, void* argument) {
    const int result = ::ioctl(file.get(), request, argument);
    return result < 0 ? -errno : result;
  };
}

std::string name_of(const Vcpu& vcpu) {
  return absl::StrCat("vCPU ", vcpu.index());
}

}  // namespace

absl::StatusOr<MachineState> KvmMachine::save() const {
  if (vcpus_.empty()) return absl::FailedPreconditionError("it was stopped");
  for (const auto& vcpu : vcpus_) {
    if (!vcpu->between_instructions()) {
      return absl::FailedPreconditionError(absl::StrCat(
          name_of(*vcpu), " is not paused, or waits for a device"));
    }
  }
  MachineState out;
  out.processor = processor_;
  const auto msrs = saved_msrs(calling(kvm_.file()));
  if (!msrs.ok()) return msrs.status();
  for (const auto& vcpu : vcpus_) {
    absl::StatusOr<VcpuState> state = read_vcpu(calling(vcpu->file()), *msrs);
    if (!state.ok()) return annotate(state.status(), name_of(*vcpu));
    out.vcpus.push_back(*std::move(state));
  }
  const absl::StatusOr<ChipState> chips = read_chips(calling(kvm_.vm()));
  if (!chips.ok()) return chips.status();
  out.chips = *chips;
  for (const Transport& transport : transports_) {
    absl::StatusOr<VirtioMmio::State> state = transport.registers->save();
    if (!state.ok()) return state.status();
    out.devices.push_back(
        {.gpa = transport.gpa, .registers = *std::move(state)});
  }
  return out;
}

// ORDER: a vCPU has its processor before anything that depends on it; the
// interrupt controllers are told last, for they may have something for it.
absl::Status KvmMachine::load(const MachineState& state) {
  VHOST_RETURN_IF_ERROR(devices_);
  if (state.vcpus.size() != vcpus_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(state.vcpus.size(), " vCPUs, not ", vcpus_.size()));
  }
  VHOST_RETURN_IF_ERROR(check_processor(state.processor, kvm_.processor()));
  VHOST_RETURN_IF_ERROR(load_devices(state));
  processor_ = state.processor;
  for (size_t i = 0; i < vcpus_.size(); ++i) {
    absl::Status status = set_processor(vcpus_[i]->file(), state.processor);
    if (status.ok()) {
      status = write_vcpu(calling(vcpus_[i]->file()), state.vcpus[i]);
    }
    if (!status.ok()) return annotate(status, name_of(*vcpus_[i]));
  }
  return write_chips(calling(kvm_.vm()), state.chips);
}

absl::Status KvmMachine::load_devices(const MachineState& state) {
  if (state.devices.size() != transports_.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        state.devices.size(), " devices, not ", transports_.size()));
  }
  for (size_t i = 0; i < transports_.size(); ++i) {
    const MachineState::Device& device = state.devices[i];
    if (device.gpa != transports_[i].gpa) {
      return absl::InvalidArgumentError(
          absl::StrCat("a device at 0x", absl::Hex(device.gpa), ", not at 0x",
                       absl::Hex(transports_[i].gpa)));
    }
    VHOST_RETURN_IF_ERROR(transports_[i].registers->load(device.registers));
  }
  return absl::OkStatus();
}

void KvmMachine::go_on(absl::AnyInvocable<void(std::string)> failed) {
  on_failure_ = std::move(failed);
  for (const auto& vcpu : vcpus_) vcpu->start();
}

}  // namespace vhost::minivm
