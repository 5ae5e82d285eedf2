// SPDX-License-Identifier: Apache-2.0
#include "tools/minivm/machine/kvm_state.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

// Flexible arrays make these structures of <linux/kvm.h> larger in C++ than in
// C, and the size is part of a request's number.
struct MsrList {
  uint32_t count;
};
struct MsrHead {
  uint32_t count;
  uint32_t padding;
};
constexpr unsigned long kGetMsrIndexList = _IOWR(KVMIO, 0x02, MsrList);
constexpr unsigned long kGetMsrs = _IOWR(KVMIO, 0x88, MsrHead);
constexpr unsigned long kSetMsrs = _IOW(KVMIO, 0x89, MsrHead);
constexpr unsigned long kGetXsave = _IOR(KVMIO, 0xa4, XsaveArea);
constexpr unsigned long kSetXsave = _IOW(KVMIO, 0xa5, XsaveArea);

constexpr size_t kMsrsAtOnce = 128;  // KVM takes 256.

absl::Status ask(KvmCall call, unsigned long request, const char* name,
                 void* argument) {
  const int result = call(request, argument);
  return result < 0 ? errno_status(-result, name) : absl::OkStatus();
}

template <typename T>
absl::Status set(KvmCall call, unsigned long request, const char* name,
                 T argument) {
  return ask(call, request, name, &argument);
}

// How many of `msrs`, the first ones, KVM read or took; -errno.
int call_msrs(KvmCall vcpu, unsigned long request,
              std::span<kvm_msr_entry> msrs) {
  const MsrHead head = {.count = static_cast<uint32_t>(msrs.size()),
                        .padding = 0};
  std::vector<std::byte> bytes(sizeof(head) + msrs.size_bytes());
  std::memcpy(bytes.data(), &head, sizeof(head));
  std::memcpy(bytes.data() + sizeof(head), msrs.data(), msrs.size_bytes());
  const int done = vcpu(request, bytes.data());
  std::memcpy(msrs.data(), bytes.data() + sizeof(head), msrs.size_bytes());
  return std::min(done, static_cast<int>(msrs.size()));
}

// Those that cannot be read are not there.
absl::StatusOr<std::vector<kvm_msr_entry>> read_msrs(
    KvmCall vcpu, std::span<const uint32_t> indices) {
  std::vector<kvm_msr_entry> out;
  for (size_t at = 0; at < indices.size();) {
    std::vector<kvm_msr_entry> some;
    for (const uint32_t index :
         indices.subspan(at, std::min(kMsrsAtOnce, indices.size() - at))) {
      some.push_back({.index = index, .reserved = 0, .data = 0});
    }
    const int done = call_msrs(vcpu, kGetMsrs, some);
    if (done < 0) return errno_status(-done, "KVM_GET_MSRS");
    out.insert(out.end(), some.begin(), some.begin() + done);
    // The one behind them is what stopped it.
    at += static_cast<size_t>(done) +
          (static_cast<size_t>(done) < some.size() ? 1 : 0);
  }
  return out;
}

// One that KVM does not let anybody set need not be: it may have its value.
absl::Status has_msr(KvmCall vcpu, const kvm_msr_entry& msr) {
  kvm_msr_entry here = {.index = msr.index, .reserved = 0, .data = 0};
  const int done = call_msrs(vcpu, kGetMsrs, std::span(&here, 1));
  if (done == 1 && here.data == msr.data) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("MSR 0x", absl::Hex(msr.index), " cannot be 0x",
                   absl::Hex(msr.data), " here"));
}

absl::Status write_msrs(KvmCall vcpu, std::span<const kvm_msr_entry> msrs) {
  for (size_t at = 0; at < msrs.size();) {
    const auto some = msrs.subspan(at, std::min(kMsrsAtOnce, msrs.size() - at));
    std::vector<kvm_msr_entry> copy(some.begin(), some.end());
    const int done = call_msrs(vcpu, kSetMsrs, copy);
    if (done < 0) return errno_status(-done, "KVM_SET_MSRS");
    at += static_cast<size_t>(done);
    if (static_cast<size_t>(done) == some.size()) continue;
    VHOST_RETURN_IF_ERROR(has_msr(vcpu, msrs[at]));
    ++at;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<uint32_t>> saved_msrs(KvmCall kvm) {
  MsrList list = {.count = 0};
  // It says how many there are.
  const int counted = kvm(kGetMsrIndexList, &list);
  if (counted < 0 && counted != -E2BIG) {
    return errno_status(-counted, "KVM_GET_MSR_INDEX_LIST");
  }
  std::vector<uint32_t> words(1 + size_t{list.count});
  words[0] = list.count;
  VHOST_RETURN_IF_ERROR(
      ask(kvm, kGetMsrIndexList, "KVM_GET_MSR_INDEX_LIST", words.data()));
  std::vector<uint32_t> out(
      words.begin() + 1,
      words.begin() + 1 +
          static_cast<ptrdiff_t>(std::min(words[0], list.count)));
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

// ORDER: the first request may do what an INIT or SIPI asked for, which the
// others then see.
absl::StatusOr<VcpuState> read_vcpu(KvmCall vcpu,
                                    std::span<const uint32_t> msrs) {
  VcpuState out;
  const auto get = [vcpu](unsigned long request, const char* name,
                          void* argument) {
    return ask(vcpu, request, name, argument);
  };
  VHOST_RETURN_IF_ERROR(get(KVM_GET_MP_STATE, "KVM_GET_MP_STATE", &out.runs));
  VHOST_RETURN_IF_ERROR(get(KVM_GET_REGS, "KVM_GET_REGS", &out.registers));
  VHOST_RETURN_IF_ERROR(get(KVM_GET_SREGS, "KVM_GET_SREGS", &out.special));
  VHOST_RETURN_IF_ERROR(get(kGetXsave, "KVM_GET_XSAVE", &out.xsave));
  kvm_xcrs xcrs{};
  const int has_xcrs = vcpu(KVM_GET_XCRS, &xcrs);
  if (has_xcrs >= 0) {
    out.xcrs = xcrs;
  } else if (has_xcrs != -EINVAL && has_xcrs != -ENOTTY) {
    return errno_status(-has_xcrs, "KVM_GET_XCRS");
  }
  VHOST_RETURN_IF_ERROR(
      get(KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS", &out.debug));
  VHOST_RETURN_IF_ERROR(get(KVM_GET_LAPIC, "KVM_GET_LAPIC", &out.apic));
  absl::StatusOr<std::vector<kvm_msr_entry>> values = read_msrs(vcpu, msrs);
  if (!values.ok()) return values.status();
  out.msrs = *std::move(values);
  VHOST_RETURN_IF_ERROR(
      get(KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", &out.events));
  return out;
}

// ORDER: the special registers say what mode it is in and where its APIC is;
// the APIC's timer is on before its deadline, an MSR, is set; the general
// registers take a pending exception away, which comes back at the end.
absl::Status write_vcpu(KvmCall vcpu, const VcpuState& state) {
  VHOST_RETURN_IF_ERROR(
      set(vcpu, KVM_SET_SREGS, "KVM_SET_SREGS", state.special));
  VHOST_RETURN_IF_ERROR(
      set(vcpu, KVM_SET_REGS, "KVM_SET_REGS", state.registers));
  if (state.xcrs.has_value()) {
    VHOST_RETURN_IF_ERROR(set(vcpu, KVM_SET_XCRS, "KVM_SET_XCRS", *state.xcrs));
  }
  VHOST_RETURN_IF_ERROR(set(vcpu, kSetXsave, "KVM_SET_XSAVE", state.xsave));
  VHOST_RETURN_IF_ERROR(
      set(vcpu, KVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", state.debug));
  VHOST_RETURN_IF_ERROR(set(vcpu, KVM_SET_LAPIC, "KVM_SET_LAPIC", state.apic));
  VHOST_RETURN_IF_ERROR(write_msrs(vcpu, state.msrs));
  VHOST_RETURN_IF_ERROR(
      set(vcpu, KVM_SET_MP_STATE, "KVM_SET_MP_STATE", state.runs));
  return set(vcpu, KVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", state.events);
}

// ---------------------------------------------------------------------------
// What vCPUs share
// ---------------------------------------------------------------------------

absl::StatusOr<ChipState> read_chips(KvmCall vm) {
  ChipState out;
  for (uint32_t id = 0; id <= KVM_IRQCHIP_IOAPIC; ++id) {
    kvm_irqchip chip{};
    chip.chip_id = id;
    VHOST_RETURN_IF_ERROR(ask(vm, KVM_GET_IRQCHIP, "KVM_GET_IRQCHIP", &chip));
    if (id == KVM_IRQCHIP_IOAPIC) {
      out.ioapic = chip.chip.ioapic;
    } else {
      out.pics[id] = chip.chip.pic;
    }
  }
  kvm_clock_data clock{};
  VHOST_RETURN_IF_ERROR(ask(vm, KVM_GET_CLOCK, "KVM_GET_CLOCK", &clock));
  out.clock = clock.clock;
  return out;
}

absl::Status write_chips(KvmCall vm, const ChipState& state) {
  for (uint32_t id = 0; id <= KVM_IRQCHIP_IOAPIC; ++id) {
    kvm_irqchip chip{};
    chip.chip_id = id;
    if (id == KVM_IRQCHIP_IOAPIC) {
      chip.chip.ioapic = state.ioapic;
    } else {
      chip.chip.pic = state.pics[id];
    }
    VHOST_RETURN_IF_ERROR(ask(vm, KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP", &chip));
  }
  kvm_clock_data clock{};
  clock.clock = state.clock;
  return ask(vm, KVM_SET_CLOCK, "KVM_SET_CLOCK", &clock);
}

// ---------------------------------------------------------------------------
// The processor
// ---------------------------------------------------------------------------

namespace {

// Words that have a bit for each feature.  Source: Intel SDM, CPUID; AMD APM,
// appendix E.
struct FeatureWord {
  uint32_t function;
  uint32_t index;
  uint32_t kvm_cpuid_entry2::*word;
  const char* name;
};
constexpr FeatureWord kFeatureWords[] = {
    {0x1, 0, &kvm_cpuid_entry2::ecx, "0x1 ecx"},
    {0x1, 0, &kvm_cpuid_entry2::edx, "0x1 edx"},
    {0x7, 0, &kvm_cpuid_entry2::ebx, "0x7 ebx"},
    {0x7, 0, &kvm_cpuid_entry2::ecx, "0x7 ecx"},
    {0x7, 0, &kvm_cpuid_entry2::edx, "0x7 edx"},
    {0x7, 1, &kvm_cpuid_entry2::eax, "0x7.1 eax"},
    {0xd, 0, &kvm_cpuid_entry2::eax, "0xd eax"},
    {0xd, 1, &kvm_cpuid_entry2::eax, "0xd.1 eax"},
    {0x4000'0001, 0, &kvm_cpuid_entry2::eax, "0x40000001 eax"},
    {0x8000'0001, 0, &kvm_cpuid_entry2::ecx, "0x80000001 ecx"},
    {0x8000'0001, 0, &kvm_cpuid_entry2::edx, "0x80000001 edx"},
};

uint32_t features(std::span<const kvm_cpuid_entry2> processor,
                  const FeatureWord& wanted) {
  for (const kvm_cpuid_entry2& leaf : processor) {
    if (leaf.function == wanted.function && leaf.index == wanted.index) {
      return leaf.*wanted.word;
    }
  }
  return 0;
}

}  // namespace

absl::Status check_processor(std::span<const kvm_cpuid_entry2> theirs,
                             std::span<const kvm_cpuid_entry2> ours) {
  for (const FeatureWord& word : kFeatureWords) {
    const uint32_t missing = features(theirs, word) & ~features(ours, word);
    if (missing == 0) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("this processor lacks what the guest's had: CPUID ",
                     word.name, " 0x", absl::Hex(missing)));
  }
  return absl::OkStatus();
}

}  // namespace vhost::minivm
