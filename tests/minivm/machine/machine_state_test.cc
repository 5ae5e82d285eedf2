// SPDX-License-Identifier: Apache-2.0
// A machine as bytes, and as requests to KVM.
#include "tools/minivm/machine/machine_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/minivm/machine/fake_kvm_files.h"
#include "tools/minivm/machine/kvm_state.h"
#include "tools/minivm/machine/memory_slots.h"

namespace vhost::minivm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr auto kPrecondition = absl::StatusCode::kFailedPrecondition;

// Something else in every byte.
template <typename T>
void fill(T& value, uint8_t first) {
  std::vector<uint8_t> bytes(sizeof(T));
  for (uint8_t& byte : bytes) byte = first++;
  std::memcpy(static_cast<void*>(&value), bytes.data(), bytes.size());
}

template <typename T>
bool same(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

VcpuState vcpu(uint8_t first) {
  VcpuState out;
  out.runs.mp_state = KVM_MP_STATE_HALTED;
  fill(out.registers, first);
  fill(out.special, first);
  fill(out.xsave, first);
  fill(out.xcrs.emplace(), first);
  out.xcrs->nr_xcrs = 1;
  fill(out.debug, first);
  fill(out.apic, first);
  out.msrs = {{.index = 0x10, .reserved = 0, .data = 1},
              {.index = 0xc000'0080, .reserved = 0, .data = 0x501}};
  fill(out.events, first);
  return out;
}

VirtioMmio::State registers() {
  VirtioMmio::State out;
  out.status = 15;
  out.driver_features = FeatureSet::from_words(0x1'0000'0001);
  out.device_features_sel = 1;
  out.driver_features_sel = 2;
  out.queue_sel = 3;
  out.shm_sel = 4;
  out.config_interrupt = true;
  out.config_generation = 5;
  out.config = {std::byte{6}, std::byte{7}};
  out.queues = {{.num = 256,
                 .desc = 0x1000,
                 .driver = 0x2000,
                 .device = 0x3000,
                 .ready = true},
                {}};
  return out;
}

MachineState machine() {
  MachineState out;
  out.processor.resize(2);
  out.processor[0].function = 1;
  out.processor[0].ecx = 0x80;
  out.processor[1].function = 7;
  out.processor[1].flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
  fill(out.chips.pics[0], 1);
  fill(out.chips.pics[1], 2);
  fill(out.chips.ioapic, 3);
  out.chips.clock = 1234;
  out.vcpus = {vcpu(4), vcpu(5)};
  out.vcpus[1].xcrs.reset();
  out.devices = {{.gpa = 0xd000'0000, .registers = registers()}};
  return out;
}

std::string bytes_of(const MachineState& state) {
  StateWriter out;
  save_machine(state, out);
  return out.take();
}

absl::Status load(absl::string_view bytes, MachineState* state = nullptr) {
  StateReader in(bytes);
  MachineState loaded = load_machine(in);
  if (state != nullptr) *state = std::move(loaded);
  return in.finish();
}

TEST(MachineStateBytes, AreReadAsTheyWereWritten) {
  const std::string bytes = bytes_of(machine());
  MachineState there;
  ASSERT_EQ(load(bytes, &there), absl::OkStatus());
  EXPECT_EQ(bytes_of(there), bytes);
  ASSERT_EQ(there.vcpus.size(), 2u);
  EXPECT_TRUE(same(there.vcpus[0].special, machine().vcpus[0].special));
  EXPECT_TRUE(same(there.vcpus[1].events, machine().vcpus[1].events));
  EXPECT_TRUE(there.vcpus[0].xcrs.has_value());
  EXPECT_FALSE(there.vcpus[1].xcrs.has_value());
  EXPECT_EQ(there.vcpus[0].msrs[1].data, 0x501u);
  EXPECT_EQ(there.processor[0].ecx, 0x80u);
  EXPECT_TRUE(same(there.chips.ioapic, machine().chips.ioapic));
  EXPECT_EQ(there.chips.clock, 1234u);
  ASSERT_EQ(there.devices.size(), 1u);
  EXPECT_EQ(there.devices[0].registers, registers());
}

TEST(MachineStateBytes, AreRefusedWhereverTheyAreCutOff) {
  const std::string bytes = bytes_of(machine());
  for (size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_EQ(load(bytes.substr(0, size)).code(), absl::StatusCode::kDataLoss)
        << size;
  }
  EXPECT_THAT(std::string(load(bytes + "x").message()),
              HasSubstr("1 bytes too many"));
}

struct Damage {
  const char* name;
  std::function<void(MachineState&)> make;
  const char* why;
};

class MachineStateDamage : public ::testing::TestWithParam<Damage> {};

TEST_P(MachineStateDamage, IsRefused) {
  MachineState state = machine();
  GetParam().make(state);
  const absl::Status loaded = load(bytes_of(state));
  EXPECT_EQ(loaded.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(loaded.message()), HasSubstr(GetParam().why));
}

INSTANTIATE_TEST_SUITE_P(
    All, MachineStateDamage,
    ::testing::Values(
        Damage{"AStateThatNoVcpuIsIn",
               [](MachineState& s) {
                 s.vcpus[0].runs.mp_state = KVM_MP_STATE_STOPPED;
               },
               "of a vCPU"},
        Damage{"ControlRegistersThatAreNotThere",
               [](MachineState& s) {
                 s.vcpus[0].xcrs->nr_xcrs = KVM_MAX_XCRS + 1;
               },
               "17 control registers"},
        Damage{"AnMsrThatIsThereTwice",
               [](MachineState& s) { s.vcpus[0].msrs[1].index = 0x10; },
               "MSR 0x10 behind 0x10"},
        Damage{"TooManyMsrs",
               [](MachineState& s) {
                 s.vcpus[0].msrs.resize(2049);
                 for (uint32_t i = 0; i < 2049; ++i) {
                   s.vcpus[0].msrs[i].index = i;
                 }
               },
               "2049 of something"},
        Damage{"TooManyVcpus",
               [](MachineState& s) { s.vcpus.resize(9, s.vcpus[0]); },
               "9 of something"},
        Damage{"TooManyLeaves",
               [](MachineState& s) { s.processor.resize(257); },
               "257 of something"},
        Damage{
            "TooMuchConfiguration",
            [](MachineState& s) { s.devices[0].registers.config.resize(257); },
            "257 bytes"}),
    [](const auto& damage) { return damage.param.name; });

TEST(MachineStateBytes, OfAnotherVersionAreRefused) {
  std::string bytes = bytes_of(machine());
  bytes[3] = 2;
  EXPECT_THAT(std::string(load(bytes).message()),
              HasSubstr("version 2 of a machine"));
  // The first structure of KVM's, the first interrupt controller.
  bytes = bytes_of(machine());
  constexpr size_t kSizeOfPic = 4 + 4 + 2 * 28;
  bytes[kSizeOfPic + 3] = 15;
  EXPECT_THAT(std::string(load(bytes).message()), HasSubstr("15 bytes, not "));
}

// ---------------------------------------------------------------------------

class KvmStateTest : public ::testing::Test {
 protected:
  KvmStateTest() { there_.msrs = {{0x10, 0}, {0xc000'0080, 0}}; }

  absl::Status write(const VcpuState& state) {
    return write_vcpu(call_, state);
  }
  absl::StatusOr<VcpuState> read() {
    const auto msrs = saved_msrs(call_);
    if (!msrs.ok()) return msrs.status();
    return read_vcpu(call_, *msrs);
  }

  FakeKvmFiles there_;
  const std::function<int(unsigned long, void*)> call_ =
      [this](unsigned long request, void* argument) {
        return there_.call(request, argument);
      };
};

TEST_F(KvmStateTest, AVcpuIsPutThereInOrder) {
  ASSERT_EQ(write(vcpu(1)), absl::OkStatus());
  EXPECT_THAT(
      there_.journal,
      ElementsAre("SREGS", "REGS", "XCRS", "XSAVE", "DEBUGREGS", "LAPIC",
                  "MSR 0x10", "MSR 0xc0000080", "MP_STATE", "VCPU_EVENTS"));
}

TEST_F(KvmStateTest, AVcpuIsReadAsItWasWritten) {
  ASSERT_EQ(write(vcpu(1)), absl::OkStatus());
  const auto read = this->read();
  ASSERT_TRUE(read.ok()) << read.status();
  MachineState one, other;
  one.vcpus = {vcpu(1)};
  other.vcpus = {*read};
  EXPECT_EQ(bytes_of(one), bytes_of(other));
}

TEST_F(KvmStateTest, AProcessorWithoutControlRegistersHasNone) {
  there_.failures["KVM_GET_XCRS"] = EINVAL;
  const auto read = this->read();
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_FALSE(read->xcrs.has_value());
  there_.failures["KVM_SET_XCRS"] = EINVAL;
  EXPECT_EQ(write(*read), absl::OkStatus());
}

TEST_F(KvmStateTest, EachFailureIsNamed) {
  for (const char* const name : {"MP_STATE", "REGS", "SREGS", "XSAVE", "XCRS",
                                 "DEBUGREGS", "LAPIC", "VCPU_EVENTS"}) {
    const std::string get = absl::StrCat("KVM_GET_", name);
    const std::string set = absl::StrCat("KVM_SET_", name);
    there_.failures = {{get, EFAULT}, {set, EFAULT}};
    EXPECT_THAT(std::string(read().status().message()), HasSubstr(get));
    EXPECT_THAT(std::string(write(vcpu(1)).message()), HasSubstr(set));
  }
}

TEST_F(KvmStateTest, MsrsThatCannotBeReadAreLeftOut) {
  // More than KVM takes at once.
  for (uint32_t i = 0; i < 600; ++i) there_.msrs[0x4000'0000 + i] = i;
  there_.unreadable_msrs = {0x10, 0x4000'0000, 0x4000'0001, 0x4000'0000 + 200,
                            0xc000'0080};
  const auto read = this->read();
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->msrs.size(), 597u);
  EXPECT_EQ(read->msrs[0].index, 0x4000'0002u);
  EXPECT_EQ(read->msrs[596].data, 599u);
  there_.journal.clear();
  EXPECT_EQ(write(*read), absl::OkStatus());
}

TEST_F(KvmStateTest, AnMsrThatCannotBeSetMayHaveItsValue) {
  there_.fixed_msrs = {0x10};
  const absl::Status other = write(vcpu(1));
  EXPECT_EQ(other.code(), kPrecondition);
  EXPECT_THAT(std::string(other.message()),
              HasSubstr("MSR 0x10 cannot be 0x1 here"));
  there_.msrs[0x10] = 1;
  EXPECT_EQ(write(vcpu(1)), absl::OkStatus());
  // The ones behind it are not forgotten.
  EXPECT_EQ(there_.msrs[0xc000'0080], 0x501u);
}

TEST_F(KvmStateTest, AnMsrThatIsNotThereIsMissed) {
  there_.msrs.erase(0x10);
  EXPECT_EQ(write(vcpu(1)).code(), kPrecondition);
}

TEST_F(KvmStateTest, ChipsAreReadAsTheyWereWritten) {
  const ChipState here = machine().chips;
  ASSERT_EQ(write_chips(call_, here), absl::OkStatus());
  EXPECT_THAT(there_.journal,
              ElementsAre("IRQCHIP 0", "IRQCHIP 1", "IRQCHIP 2", "CLOCK"));
  const auto read = read_chips(call_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(same(read->pics[0], here.pics[0]));
  EXPECT_TRUE(same(read->pics[1], here.pics[1]));
  EXPECT_TRUE(same(read->ioapic, here.ioapic));
  EXPECT_EQ(read->clock, here.clock);
}

TEST(CheckProcessor, WantsWhatTheGuestHad) {
  std::vector<kvm_cpuid_entry2> theirs(2);
  theirs[0].function = 1;
  theirs[0].ecx = 0x11;
  theirs[1].function = 7;
  theirs[1].ebx = 0x20;
  std::vector<kvm_cpuid_entry2> ours = theirs;
  ours[0].ecx |= 0x100;
  ours[0].ebx = 7;  // Which of the processors that is.
  EXPECT_EQ(check_processor(theirs, ours), absl::OkStatus());
  EXPECT_THAT(std::string(check_processor(ours, theirs).message()),
              HasSubstr("CPUID 0x1 ecx 0x100"));
  ours.pop_back();
  const absl::Status missing = check_processor(theirs, ours);
  EXPECT_EQ(missing.code(), kPrecondition);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("0x7 ebx 0x20"));
}

// ---------------------------------------------------------------------------

class Words final : public DirtySink {
 public:
  void dirty(uint64_t first_page, uint64_t bits) override {
    EXPECT_EQ(first_page % kLogWordPages, 0u);
    DirtyPages pages([this](uint64_t page) { pages_.push_back(page); });
    pages.dirty(first_page, bits);
  }
  const std::vector<uint64_t>& pages() const { return pages_; }

 private:
  std::vector<uint64_t> pages_;
};

TEST(TellBitmap, CountsFromWhereTheMemoryIs) {
  const std::vector<uint64_t> bitmap = {0x8000'0000'0000'0001, 0, 2};
  Words at_zero, behind;
  tell_bitmap(bitmap, 0, at_zero);
  EXPECT_THAT(at_zero.pages(), ElementsAre(0, 63, 129));
  tell_bitmap(bitmap, uint64_t{3} * kLogPageSize, behind);
  EXPECT_THAT(behind.pages(), ElementsAre(3, 66, 132));
}

}  // namespace
}  // namespace vhost::minivm
