// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/kvm_machine.h"

#include <array>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/guest/payload/boot.h"
#include "tools/minivm/layout.h"
#include "tools/minivm/machine/boot_state.h"
#include "vhostdev/status.h"

namespace vhost::minivm {

// A transport on the bus.
class KvmMachine::MmioDevice final : public BusDevice {
 public:
  explicit MmioDevice(VirtioMmio& device) : device_(device) {}

  void read(uint64_t offset, std::span<std::byte> out) override {
    device_.read(offset, out);
  }
  bool write(uint64_t offset, std::span<const std::byte> bytes,
             EventLoop::Callback done) override {
    return device_.write(offset, bytes, std::move(done)) ==
           VirtioMmio::Access::kPending;
  }

 private:
  VirtioMmio& device_;
};

absl::StatusOr<std::unique_ptr<Machine>> Machine::create(EventLoop& loop,
                                                         AddressSpace& memory,
                                                         Options options) {
  absl::StatusOr<Kvm> kvm = Kvm::create();
  if (!kvm.ok()) return kvm.status();
  auto machine = std::make_unique<KvmMachine>(loop, memory, *std::move(kvm));
  VHOST_RETURN_IF_ERROR(machine->set_up(options.cpus));
  return machine;
}

KvmMachine::KvmMachine(EventLoop& loop, AddressSpace& memory, Kvm kvm)
    : loop_(loop),
      memory_(memory),
      kvm_(std::move(kvm)),
      processor_(kvm_.processor()),
      slots_(kvm_),
      alive_(std::make_shared<bool>(true)) {}

KvmMachine::~KvmMachine() {
  stop();
  memory_.remove_listener(&slots_);
}

absl::Status KvmMachine::set_up(uint32_t cpus) {
  if (cpus == 0 || cpus > payload::kMaxCpus) {
    return absl::InvalidArgumentError(absl::StrCat(
        "machine: ", cpus, " vCPUs, of at most ", payload::kMaxCpus));
  }
  for (uint32_t cpu = 0; cpu < cpus; ++cpu) {
    auto vcpu = Vcpu::create(kvm_, cpu, *this);
    if (!vcpu.ok()) return annotate(vcpu.status(), "machine");
    vcpus_.push_back(*std::move(vcpu));
  }
  return annotate(memory_.add_listener(&slots_), "machine");
}

void KvmMachine::add_device(uint64_t gpa, VirtioMmio& device) {
  adaptors_.push_back(std::make_unique<MmioDevice>(device));
  transports_.push_back({.gpa = gpa, .registers = &device});
  devices_.Update(memory_bus_.add(gpa, kMmioWindowSize, *adaptors_.back()));
}

absl::Status KvmMachine::start(uint64_t entry, uint64_t tree,
                               absl::AnyInvocable<void(std::string)> failed) {
  VHOST_RETURN_IF_ERROR(annotate(devices_, "machine"));
  VHOST_RETURN_IF_ERROR(annotate(write_boot_memory(memory_), "machine"));
  on_failure_ = std::move(failed);
  const auto cpus = static_cast<uint32_t>(vcpus_.size());
  for (const auto& vcpu : vcpus_) {
    const std::string name = absl::StrCat("vCPU ", vcpu->index());
    auto special = vcpu->special_registers();
    if (!special.ok()) return annotate(special.status(), name);
    set_boot_state(*special, vcpu->index());
    VHOST_RETURN_IF_ERROR(
        annotate(vcpu->set_special_registers(*special), name));
    VHOST_RETURN_IF_ERROR(annotate(
        vcpu->set_registers(boot_registers(entry, tree, vcpu->index(), cpus)),
        name));
    VHOST_RETURN_IF_ERROR(annotate(vcpu->set_runnable(), name));
  }
  for (const auto& vcpu : vcpus_) vcpu->start();
  return absl::OkStatus();
}

void KvmMachine::pause(Completion done) {
  if (pausing_) {
    post([done = std::move(done)]() mutable {
      done(absl::FailedPreconditionError("machine: pause in progress"));
    });
    return;
  }
  pausing_ = std::move(done);
  for (const auto& vcpu : vcpus_) vcpu->pause();
  post([this] { check_parked(); });
}

void KvmMachine::check_parked() {
  if (!pausing_) return;
  for (const auto& vcpu : vcpus_) {
    if (!vcpu->out_of_guest()) return;
  }
  std::exchange(pausing_, nullptr)(absl::OkStatus());
}

void KvmMachine::resume() {
  for (const auto& vcpu : vcpus_) vcpu->resume();
}

void KvmMachine::stop() {
  for (const auto& vcpu : vcpus_) vcpu->stop();
  exits_of_stopped_ = exits();
  vcpus_.clear();
  if (pausing_) post([this] { check_parked(); });
}

uint64_t KvmMachine::exits() const {
  uint64_t sum = exits_of_stopped_;
  for (const auto& vcpu : vcpus_) sum += vcpu->exits();
  return sum;
}

void KvmMachine::post(absl::AnyInvocable<void()> callback) {
  loop_.post([alive = std::weak_ptr<bool>(alive_),
              callback = std::move(callback)]() mutable {
    if (!alive.expired()) callback();
  });
}

VcpuEvents::Access KvmMachine::read(Space space, uint64_t address,
                                    std::span<std::byte> out) {
  const Bus& bus = space == Space::kMemory ? memory_bus_ : port_bus_;
  const Bus::Place place = bus.find(address, out.size());
  if (place.device == nullptr) return Access::kNobody;
  place.device->read(place.offset, out);
  return Access::kDone;
}

VcpuEvents::Access KvmMachine::write(Space space, uint64_t address,
                                     std::span<const std::byte> bytes,
                                     EventLoop::Callback done) {
  const Bus& bus = space == Space::kMemory ? memory_bus_ : port_bus_;
  const Bus::Place place = bus.find(address, bytes.size());
  if (place.device == nullptr) return Access::kNobody;
  return place.device->write(place.offset, bytes, std::move(done))
             ? Access::kPending
             : Access::kDone;
}

std::string KvmMachine::describe_fault(uint64_t stack) {
  std::array<uint64_t, 4> frame{};  // Vector, error code, RIP, CS.
  const std::byte* const host = memory_.translate(stack, sizeof(frame));
  if (host == nullptr) {
    return absl::StrCat("an exception whose stack is at 0x", absl::Hex(stack),
                        ", outside of the memory");
  }
  std::memcpy(&frame, host, sizeof(frame));
  constexpr const char* kNames[] = {"divide error",
                                    "debug",
                                    "NMI",
                                    "breakpoint",
                                    "overflow",
                                    "bound range",
                                    "invalid opcode",
                                    "no FPU",
                                    "double fault",
                                    "FPU segment",
                                    "invalid TSS",
                                    "segment not present",
                                    "stack fault",
                                    "general protection",
                                    "page fault"};
  const char* const name =
      frame[0] < std::size(kNames) ? kNames[frame[0]] : "unknown";
  return absl::StrCat("exception ", frame[0], " (", name, ") at rip 0x",
                      absl::Hex(frame[2]), ", error code 0x",
                      absl::Hex(frame[1]));
}

// Posted: memory comes and goes on the loop.
void KvmMachine::faulted(std::string who, uint64_t stack, std::string more) {
  post([this, who = std::move(who), stack, more = std::move(more)] {
    if (!on_failure_) return;
    std::exchange(on_failure_,
                  nullptr)(absl::StrCat(who, describe_fault(stack), more));
  });
}

void KvmMachine::parked() {
  post([this] { check_parked(); });
}

void KvmMachine::failed(std::string why) {
  post([this, why = std::move(why)]() mutable {
    if (on_failure_) std::exchange(on_failure_, nullptr)(std::move(why));
  });
}

}  // namespace vhost::minivm
