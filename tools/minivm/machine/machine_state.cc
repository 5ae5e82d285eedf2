// SPDX-License-Identifier: Apache-2.0
//
//   machine := version u32, processor, chips, count u32, vcpu*,
//              count u32, device*
//
// Structures of KVM are bytes as <linux/kvm.h> lays them out for x86-64.
#include "tools/minivm/machine/machine_state.h"

#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "tests/guest/payload/boot.h"

namespace vhost::minivm {
namespace {

constexpr uint32_t kVersion = 1;
constexpr uint32_t kMostLeaves = 256;
constexpr uint32_t kMostMsrs = 2048;
constexpr uint32_t kMostDevices = 64;
constexpr size_t kMostConfig = 256;  // Bytes.
constexpr uint32_t kMostQueues = 1024;

// -- A structure of KVM. ----------------------------------------------------

template <typename T>
void put(const T& value, StateWriter& out) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.bytes({reinterpret_cast<const char*>(&value), sizeof(T)});
}

template <typename T>
void get(T& value, StateReader& in) {
  static_assert(std::is_trivially_copyable_v<T>);
  const absl::string_view bytes = in.bytes(sizeof(T));
  if (!in.ok()) return;
  if (bytes.size() != sizeof(T)) {
    in.refuse(absl::StrCat(bytes.size(), " bytes, not ", sizeof(T)));
    return;
  }
  std::memcpy(&value, bytes.data(), sizeof(T));
}

// -- The processor, as the vCPUs see it. ------------------------------------

void save_processor(const std::vector<kvm_cpuid_entry2>& processor,
                    StateWriter& out) {
  out.u32(static_cast<uint32_t>(processor.size()));
  for (const kvm_cpuid_entry2& leaf : processor) {
    for (const uint32_t word : {leaf.function, leaf.index, leaf.flags, leaf.eax,
                                leaf.ebx, leaf.ecx, leaf.edx}) {
      out.u32(word);
    }
  }
}

std::vector<kvm_cpuid_entry2> load_processor(StateReader& in) {
  constexpr size_t kLeafSize = 28;
  std::vector<kvm_cpuid_entry2> out(in.count(kMostLeaves, kLeafSize));
  for (kvm_cpuid_entry2& leaf : out) {
    for (uint32_t* const word : {&leaf.function, &leaf.index, &leaf.flags,
                                 &leaf.eax, &leaf.ebx, &leaf.ecx, &leaf.edx}) {
      *word = in.u32();
    }
  }
  return out;
}

// -- A vCPU. ----------------------------------------------------------------

void save_msrs(const std::vector<kvm_msr_entry>& msrs, StateWriter& out) {
  out.u32(static_cast<uint32_t>(msrs.size()));
  for (const kvm_msr_entry& msr : msrs) {
    out.u32(msr.index);
    out.u64(msr.data);
  }
}

std::vector<kvm_msr_entry> load_msrs(StateReader& in) {
  constexpr size_t kMsrSize = 12;
  std::vector<kvm_msr_entry> out(in.count(kMostMsrs, kMsrSize));
  for (size_t i = 0; i < out.size(); ++i) {
    out[i].index = in.u32();
    if (in.ok() && i != 0 && out[i].index <= out[i - 1].index) {
      in.refuse(absl::StrCat("MSR 0x", absl::Hex(out[i].index), " behind 0x",
                             absl::Hex(out[i - 1].index)));
    }
    out[i].data = in.u64();
  }
  return out;
}

void save_vcpu(const VcpuState& vcpu, StateWriter& out) {
  out.u32(vcpu.runs.mp_state);
  put(vcpu.registers, out);
  put(vcpu.special, out);
  put(vcpu.xsave, out);
  out.boolean(vcpu.xcrs.has_value());
  if (vcpu.xcrs.has_value()) put(*vcpu.xcrs, out);
  put(vcpu.debug, out);
  put(vcpu.apic, out);
  save_msrs(vcpu.msrs, out);
  put(vcpu.events, out);
}

VcpuState load_vcpu(StateReader& in) {
  VcpuState out;
  out.runs.mp_state = in.u32();
  if (out.runs.mp_state > KVM_MP_STATE_SIPI_RECEIVED) {
    in.refuse(absl::StrCat("state ", out.runs.mp_state, " of a vCPU"));
  }
  get(out.registers, in);
  get(out.special, in);
  get(out.xsave, in);
  if (in.boolean()) {
    get(out.xcrs.emplace(), in);
    if (out.xcrs->nr_xcrs > KVM_MAX_XCRS) {
      in.refuse(absl::StrCat(out.xcrs->nr_xcrs, " control registers"));
    }
  }
  get(out.debug, in);
  get(out.apic, in);
  out.msrs = load_msrs(in);
  get(out.events, in);
  return out;
}

// -- A device's registers. --------------------------------------------------

void save_device(const MachineState::Device& device, StateWriter& out) {
  const VirtioMmio::State& state = device.registers;
  out.u64(device.gpa);
  out.u8(state.status);
  out.u64(state.driver_features.low());
  out.u64(state.driver_features.high());
  for (const uint32_t selector :
       {state.device_features_sel, state.driver_features_sel, state.queue_sel,
        state.shm_sel}) {
    out.u32(selector);
  }
  out.boolean(state.config_interrupt);
  out.u32(state.config_generation);
  out.bytes({reinterpret_cast<const char*>(state.config.data()),
             state.config.size()});
  out.u32(static_cast<uint32_t>(state.queues.size()));
  for (const VirtioMmio::State::Queue& queue : state.queues) {
    out.u32(queue.num);
    out.u64(queue.desc);
    out.u64(queue.driver);
    out.u64(queue.device);
    out.boolean(queue.ready);
  }
}

MachineState::Device load_device(StateReader& in) {
  MachineState::Device out;
  VirtioMmio::State& state = out.registers;
  out.gpa = in.u64();
  state.status = in.u8();
  const uint64_t low = in.u64();
  state.driver_features = FeatureSet::from_words(low, in.u64());
  for (uint32_t* const selector :
       {&state.device_features_sel, &state.driver_features_sel,
        &state.queue_sel, &state.shm_sel}) {
    *selector = in.u32();
  }
  state.config_interrupt = in.boolean();
  state.config_generation = in.u32();
  const absl::string_view config = in.bytes(kMostConfig);
  const auto* const first = reinterpret_cast<const std::byte*>(config.data());
  state.config.assign(first, first + config.size());
  constexpr size_t kQueueSize = 29;
  state.queues.resize(in.count(kMostQueues, kQueueSize));
  for (VirtioMmio::State::Queue& queue : state.queues) {
    queue.num = in.u32();
    queue.desc = in.u64();
    queue.driver = in.u64();
    queue.device = in.u64();
    queue.ready = in.boolean();
  }
  return out;
}

}  // namespace

void save_machine(const MachineState& state, StateWriter& out) {
  out.u32(kVersion);
  save_processor(state.processor, out);
  for (const kvm_pic_state& pic : state.chips.pics) put(pic, out);
  put(state.chips.ioapic, out);
  out.u64(state.chips.clock);
  out.u32(static_cast<uint32_t>(state.vcpus.size()));
  for (const VcpuState& vcpu : state.vcpus) save_vcpu(vcpu, out);
  out.u32(static_cast<uint32_t>(state.devices.size()));
  for (const MachineState::Device& device : state.devices) {
    save_device(device, out);
  }
}

MachineState load_machine(StateReader& in) {
  MachineState out;
  const uint32_t version = in.u32();
  if (version != kVersion) {
    in.refuse(absl::StrCat("version ", version, " of a machine"));
  }
  out.processor = load_processor(in);
  for (kvm_pic_state& pic : out.chips.pics) get(pic, in);
  get(out.chips.ioapic, in);
  out.chips.clock = in.u64();
  constexpr size_t kSmallestVcpu = sizeof(XsaveArea);
  const uint32_t vcpus = in.count(payload::kMaxCpus, kSmallestVcpu);
  for (uint32_t i = 0; i < vcpus && in.ok(); ++i) {
    out.vcpus.push_back(load_vcpu(in));
  }
  constexpr size_t kSmallestDevice = 54;
  const uint32_t devices = in.count(kMostDevices, kSmallestDevice);
  for (uint32_t i = 0; i < devices && in.ok(); ++i) {
    out.devices.push_back(load_device(in));
  }
  return out;
}

}  // namespace vhost::minivm
