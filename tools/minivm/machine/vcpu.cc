// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/vcpu.h"

#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/guest/payload/boot.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

// Gets a thread out of KVM_RUN.  It is blocked everywhere else on the thread,
// so that nobody has to handle it.
int kick_signal() { return SIGRTMIN; }

}  // namespace

absl::StatusOr<std::unique_ptr<Vcpu>> Vcpu::create(const Kvm& kvm,
                                                   uint32_t index,
                                                   VcpuEvents& events) {
  absl::StatusOr<UniqueFd> fd = kvm.create_vcpu(index);
  const std::string name = absl::StrCat("vCPU ", index);
  if (!fd.ok()) return annotate(fd.status(), name);
  std::unique_ptr<Vcpu> vcpu(new Vcpu(index, events));
  vcpu->fd_ = *std::move(fd);
  VHOST_RETURN_IF_ERROR(annotate(vcpu->map(kvm.run_size()), name));
  VHOST_RETURN_IF_ERROR(annotate(vcpu->let_signal_in(), name));
  return vcpu;
}

Vcpu::~Vcpu() {
  stop();
  if (thread_.joinable()) thread_.join();
  if (run_ != nullptr) ::munmap(run_, run_size_);
}

absl::Status Vcpu::map(size_t size) {
  void* const mapped =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
  if (mapped == MAP_FAILED) return errno_status(errno, "mmap");
  run_ = static_cast<kvm_run*>(mapped);
  run_size_ = size;
  return absl::OkStatus();
}

// A signal that is pending when KVM_RUN begins ends it too: there is no moment
// in which a kick would be missed.
absl::Status Vcpu::let_signal_in() {
  constexpr uint32_t kKernelSignals = sizeof(uint64_t);  // Bytes.
  struct __attribute__((packed)) Mask {
    uint32_t size = kKernelSignals;
    uint64_t blocked = 0;
  };
  Mask mask;
  static_assert(sizeof(Mask) == 12, "as the kernel reads it");
  mask.blocked = ~(uint64_t{1} << (kick_signal() - 1));
  // kvm_signal_mask of <linux/kvm.h> is larger in C++ than in C, and its size
  // is part of the request's number.
  constexpr unsigned long kSetSignalMask = _IOW(KVMIO, 0x8b, uint32_t);
  return kvm_ioctl(fd_, kSetSignalMask, "KVM_SET_SIGNAL_MASK", &mask);
}

absl::StatusOr<kvm_regs> Vcpu::registers() const {
  kvm_regs registers{};
  VHOST_RETURN_IF_ERROR(
      kvm_ioctl(fd_, KVM_GET_REGS, "KVM_GET_REGS", &registers));
  return registers;
}

absl::Status Vcpu::set_registers(kvm_regs registers) {
  return kvm_ioctl(fd_, KVM_SET_REGS, "KVM_SET_REGS", &registers);
}

absl::StatusOr<kvm_sregs> Vcpu::special_registers() const {
  kvm_sregs registers{};
  VHOST_RETURN_IF_ERROR(
      kvm_ioctl(fd_, KVM_GET_SREGS, "KVM_GET_SREGS", &registers));
  return registers;
}

absl::Status Vcpu::set_special_registers(kvm_sregs registers) {
  return kvm_ioctl(fd_, KVM_SET_SREGS, "KVM_SET_SREGS", &registers);
}

absl::Status Vcpu::set_runnable() {
  kvm_mp_state state{};
  state.mp_state = KVM_MP_STATE_RUNNABLE;
  return kvm_ioctl(fd_, KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &state);
}

void Vcpu::start() {
  // Inherited: nothing of the process's is handled on that thread.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

bool Vcpu::pause() {
  absl::MutexLock lock(&gate_->mutex);
  gate_->paused = true;
  if (gate_->inside) kick();
  return gate_->rests();
}

void Vcpu::resume() {
  absl::MutexLock lock(&gate_->mutex);
  gate_->paused = false;
}

bool Vcpu::out_of_guest() const {
  absl::MutexLock lock(&gate_->mutex);
  return gate_->rests();
}

bool Vcpu::between_instructions() const {
  absl::MutexLock lock(&gate_->mutex);
  if (!gate_->paused || gate_->stopped) return false;
  gate_->mutex.Await(absl::Condition(
      +[](Gate* gate) ABSL_NO_THREAD_SAFETY_ANALYSIS { return gate->rests(); },
      gate_.get()));
  return !gate_->stopped && !gate_->unfinished;
}

void Vcpu::stop() {
  absl::MutexLock lock(&gate_->mutex);
  gate_->stopped = true;
  if (gate_->inside) kick();
}

// The thread is inside and cannot leave before the gate's mutex is released:
// it is there.
void Vcpu::kick() { pthread_kill(thread_.native_handle(), kick_signal()); }

void Vcpu::run() {
  while (pass_gate()) {
    const bool goes_on = run_once();
    bool parked = false;
    {
      absl::MutexLock lock(&gate_->mutex);
      gate_->inside = false;
      if (!goes_on) gate_->stopped = true;
      parked = gate_->paused && gate_->rests();
    }
    if (parked) events_.parked();
  }
}

bool Vcpu::pass_gate() {
  absl::MutexLock lock(&gate_->mutex);
  gate_->mutex.Await(absl::Condition(
      +[](Gate* gate)
           ABSL_NO_THREAD_SAFETY_ANALYSIS { return gate->may_pass(); },
      gate_.get()));
  gate_->inside = !gate_->stopped;
  run_->immediate_exit = gate_->paused ? 1 : 0;
  return gate_->inside;
}

bool Vcpu::run_once() {
  const int result = ::ioctl(fd_.get(), KVM_RUN, 0);
  const int error = errno;
  exits_.fetch_add(1, std::memory_order_relaxed);
  {
    const uint32_t why = run_->exit_reason;
    absl::MutexLock lock(&gate_->mutex);
    gate_->unfinished =
        result == 0 && (why == KVM_EXIT_IO || why == KVM_EXIT_MMIO);
  }
  if (result < 0) return interrupted(error);
  switch (run_->exit_reason) {
    case KVM_EXIT_IO:
      return exit_to_port();
    case KVM_EXIT_MMIO:
      return exit_to_memory();
    case KVM_EXIT_INTR:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return true;
    default:
      return fail(describe_exit());
  }
}

bool Vcpu::interrupted(int error) {
  if (error == EAGAIN) return true;
  if (error != EINTR) {
    return fail(std::string(errno_status(error, "KVM_RUN").message()));
  }
  // The kick stays pending.
  sigset_t kicks;
  sigemptyset(&kicks);
  sigaddset(&kicks, kick_signal());
  constexpr timespec kNow{};
  while (sigtimedwait(&kicks, nullptr, &kNow) >= 0) {
  }
  return true;
}

bool Vcpu::exit_to_port() {
  const auto& io = run_->io;
  if (io.port == payload::kFaultPort && io.direction == KVM_EXIT_IO_OUT) {
    return fault();
  }
  auto* data = reinterpret_cast<std::byte*>(run_) + io.data_offset;
  for (uint32_t i = 0; i < io.count; ++i, data += io.size) {
    const std::span<std::byte> bytes(data, io.size);
    constexpr auto kPorts = VcpuEvents::Space::kPorts;
    if (io.direction == KVM_EXIT_IO_OUT) {
      if (!write(kPorts, io.port, bytes)) return false;
    } else if (events_.read(kPorts, io.port, bytes) !=
               VcpuEvents::Access::kDone) {
      return nobody(kPorts, io.port, io.size, /*write=*/false);
    }
  }
  return true;
}

bool Vcpu::exit_to_memory() {
  auto& mmio = run_->mmio;
  const size_t size = mmio.len <= sizeof(mmio.data) ? mmio.len : 0;
  const auto bytes = std::as_writable_bytes(std::span(mmio.data, size));
  constexpr auto kMemory = VcpuEvents::Space::kMemory;
  if (mmio.is_write) return write(kMemory, mmio.phys_addr, bytes);
  if (events_.read(kMemory, mmio.phys_addr, bytes) !=
      VcpuEvents::Access::kDone) {
    return nobody(kMemory, mmio.phys_addr, size, /*write=*/false);
  }
  return true;
}

bool Vcpu::write(VcpuEvents::Space space, uint64_t address,
                 std::span<const std::byte> bytes) {
  {
    // It may be over before write() returned.
    absl::MutexLock lock(&gate_->mutex);
    gate_->waiting = true;
  }
  const auto access = events_.write(space, address, bytes, [gate = gate_] {
    absl::MutexLock lock(&gate->mutex);
    gate->waiting = false;
  });
  if (access == VcpuEvents::Access::kPending) return true;
  {
    absl::MutexLock lock(&gate_->mutex);
    gate_->waiting = false;
  }
  if (access == VcpuEvents::Access::kDone) return true;
  return nobody(space, address, bytes.size(), /*write=*/true);
}

bool Vcpu::nobody(VcpuEvents::Space space, uint64_t address, size_t size,
                  bool write) {
  return fail(
      absl::StrCat(write ? "write of " : "read of ", size, " bytes at ",
                   space == VcpuEvents::Space::kPorts ? "port 0x" : "0x",
                   absl::Hex(address), ", where no device is"));
}

bool Vcpu::fail(std::string why) {
  const auto registers = this->registers();
  std::string where;
  if (registers.ok()) {
    where = absl::StrCat(" at rip 0x", absl::Hex(registers->rip));
  }
  events_.failed(absl::StrCat("vCPU ", index_, where, ": ", why));
  return false;
}

// The frame on its stack says what it met.
bool Vcpu::fault() {
  const auto registers = this->registers();
  const auto special = special_registers();
  if (!registers.ok() || !special.ok()) {
    return fail("an exception, and no registers to explain it");
  }
  events_.faulted(absl::StrCat("vCPU ", index_, ": "), registers->rsp,
                  absl::StrCat(", cr2 0x", absl::Hex(special->cr2)));
  return false;
}

std::string Vcpu::describe_exit() const {
  switch (run_->exit_reason) {
    case KVM_EXIT_SHUTDOWN:
      return "triple fault";
    case KVM_EXIT_INTERNAL_ERROR:
      return absl::StrCat("KVM internal error, suberror ",
                          run_->internal.suberror);
    case KVM_EXIT_FAIL_ENTRY:
      return absl::StrCat(
          "KVM cannot enter the guest, hardware reason 0x",
          absl::Hex(run_->fail_entry.hardware_entry_failure_reason));
    case KVM_EXIT_SYSTEM_EVENT:
      return absl::StrCat("system event ", run_->system_event.type);
    default:
      return absl::StrCat("unknown exit ", run_->exit_reason);
  }
}

}  // namespace vhost::minivm
