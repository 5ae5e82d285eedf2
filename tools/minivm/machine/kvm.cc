// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/kvm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

struct Capability {
  unsigned long number;
  const char* name;
};
// Without these there is no machine.  What KvmNotifiers uses it looks for
// itself.
constexpr Capability kNeeded[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    {KVM_CAP_NR_MEMSLOTS, "KVM_CAP_NR_MEMSLOTS"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
};

// Flexible arrays make kvm_cpuid2 of <linux/kvm.h> larger in C++ than in C,
// and the size is part of a request's number.
struct KvmCpuid {
  uint32_t entries;
  uint32_t padding;
};
constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, KvmCpuid);
constexpr unsigned long kSetCpuid = _IOW(KVMIO, 0x90, KvmCpuid);

// Three pages that Intel's KVM wants for itself, above all devices.
constexpr unsigned long kTssAddress = 0xfffb'd000;

}  // namespace

absl::StatusOr<int> kvm_ioctl_word(FdRef fd, unsigned long request,
                                   const char* name, unsigned long word) {
  const int result = ::ioctl(fd.get(), request, word);
  if (result < 0) return errno_status(errno, name);
  return result;
}

absl::Status kvm_ioctl(FdRef fd, unsigned long request, const char* name,
                       void* argument) {
  if (::ioctl(fd.get(), request, argument) < 0) {
    return errno_status(errno, name);
  }
  return absl::OkStatus();
}

absl::StatusOr<Kvm> Kvm::create() {
  Kvm kvm;
  kvm.kvm_ = UniqueFd(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  if (!kvm.kvm_.valid()) {
    const absl::Status why = errno_status(errno, "/dev/kvm");
    // No node, or one that nothing is behind.
    if (errno == ENODEV || errno == ENXIO) {
      return absl::NotFoundError(why.message());
    }
    return why;
  }
  VHOST_RETURN_IF_ERROR(kvm.set_up());
  return kvm;
}

absl::Status Kvm::set_up() {
  const auto version =
      kvm_ioctl_word(kvm_, KVM_GET_API_VERSION, "KVM_GET_API_VERSION");
  if (!version.ok()) return version.status();
  if (*version != KVM_API_VERSION) {
    return absl::UnimplementedError(
        absl::StrCat("/dev/kvm: API version ", *version));
  }
  for (const auto& [number, name] : kNeeded) {
    const auto has = kvm_ioctl_word(kvm_, KVM_CHECK_EXTENSION,
                                    "KVM_CHECK_EXTENSION", number);
    if (!has.ok()) return has.status();
    if (*has <= 0) {
      return absl::UnimplementedError(absl::StrCat("/dev/kvm: no ", name));
    }
    if (number == KVM_CAP_NR_MEMSLOTS) slots_ = static_cast<uint32_t>(*has);
  }
  const auto readonly = kvm_ioctl_word(
      kvm_, KVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", KVM_CAP_READONLY_MEM);
  readonly_memory_ = readonly.ok() && *readonly > 0;
  const auto size =
      kvm_ioctl_word(kvm_, KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE");
  if (!size.ok()) return size.status();
  run_size_ = static_cast<size_t>(*size);
  VHOST_RETURN_IF_ERROR(read_processor());
  // Of the kernel's making it is O_CLOEXEC.
  const auto vm = kvm_ioctl_word(kvm_, KVM_CREATE_VM, "KVM_CREATE_VM");
  if (!vm.ok()) return vm.status();
  vm_ = UniqueFd(*vm);
  for (const auto& [request, name, word] :
       {std::tuple(KVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", kTssAddress),
        std::tuple(KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP", 0ul)}) {
    const auto done = kvm_ioctl_word(vm_, request, name, word);
    if (!done.ok()) return done.status();
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> Kvm::create_vcpu(uint32_t index) const {
  const auto fd =
      kvm_ioctl_word(vm_, KVM_CREATE_VCPU, "KVM_CREATE_VCPU", index);
  if (!fd.ok()) return fd.status();
  UniqueFd vcpu(*fd);
  VHOST_RETURN_IF_ERROR(set_processor(vcpu, processor_));
  return vcpu;
}

absl::Status Kvm::read_processor() {
  constexpr uint32_t kMostEntries = 256;
  KvmCpuid head{.entries = kMostEntries, .padding = 0};
  // The entries follow their number.
  std::vector<std::byte> cpuid(sizeof(head) +
                               kMostEntries * sizeof(kvm_cpuid_entry2));
  std::memcpy(cpuid.data(), &head, sizeof(head));
  VHOST_RETURN_IF_ERROR(kvm_ioctl(kvm_, kGetSupportedCpuid,
                                  "KVM_GET_SUPPORTED_CPUID", cpuid.data()));
  std::memcpy(&head, cpuid.data(), sizeof(head));
  processor_.resize(std::min(head.entries, kMostEntries));
  std::memcpy(processor_.data(), cpuid.data() + sizeof(head),
              processor_.size() * sizeof(kvm_cpuid_entry2));
  return absl::OkStatus();
}

absl::Status set_processor(FdRef vcpu,
                           std::span<const kvm_cpuid_entry2> processor) {
  const KvmCpuid head{.entries = static_cast<uint32_t>(processor.size()),
                      .padding = 0};
  std::vector<std::byte> cpuid(sizeof(head) + processor.size_bytes());
  std::memcpy(cpuid.data(), &head, sizeof(head));
  std::memcpy(cpuid.data() + sizeof(head), processor.data(),
              processor.size_bytes());
  return kvm_ioctl(vcpu, kSetCpuid, "KVM_SET_CPUID2", cpuid.data());
}

absl::Status Kvm::pulse(uint32_t gsi) const {
  for (const uint32_t level : {1u, 0u}) {
    kvm_irq_level line{};
    line.irq = gsi;
    line.level = level;
    VHOST_RETURN_IF_ERROR(kvm_ioctl(vm_, KVM_IRQ_LINE, "KVM_IRQ_LINE", &line));
  }
  return absl::OkStatus();
}

}  // namespace vhost::minivm
