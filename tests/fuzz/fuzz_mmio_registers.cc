// SPDX-License-Identifier: Apache-2.0
//
// What a guest does to the registers, and a device to what they ask of it:
// { op:u8 ... }; op bits 0-2:
//   0-3  a store: register:u8 value:u32le (to register * 4)
//   4    a store anywhere: offset:u16le size:u8, bytes from the input
//   5    a load: offset:u16le size:u8
//   6    the oldest action is begun and over; bit 3: ok
//   7    bits 3-4: the configuration changes, the device fails, the run is lost
// After each, what must hold, holds; in the end, all of it moves.
#include <array>
#include <bit>
#include <cstdlib>
#include <deque>
#include <span>
#include <vector>

#include "hw/mmio/mmio_registers.h"

namespace vhost {
namespace {

constexpr uint32_t kQueues = 3;
constexpr FeatureSet kOffered = {0, 9, kFeatureVersion1, kFeatureRingPacked,
                                 kFeatureRingReset};

void check(bool condition) {
  if (!condition) std::abort();
}

class Scenario {
 public:
  explicit Scenario(std::span<const uint8_t> input) : input_(input) {
    registers_.offer(kOffered);
  }

  void run() {
    while (!input_.empty()) {
      const uint8_t status = registers_.status();
      const uint8_t op = byte();
      step(op);
      check_status(status);
      check_registers();
      for (uint32_t vq = 0; vq <= kQueues; ++vq) check_queue(vq);
    }
    check_move();
  }

 private:
  static MmioRegisters::Setup setup() {
    MmioRegisters::Setup setup;
    setup.device_id = 2;
    setup.queue_sizes = {64, 0, 1024};
    setup.config_size = 20;
    setup.shared_memory = {{.id = 1, .gpa = 4096, .size = 4096}};
    return setup;
  }

  uint8_t byte() {
    if (input_.empty()) return 0;
    const uint8_t value = input_.front();
    input_ = input_.subspan(1);
    return value;
  }
  uint16_t two() {
    const uint8_t low = byte();
    return static_cast<uint16_t>(low | byte() << 8);
  }

  void step(uint8_t op) {
    switch (op & 7) {
      case 4: {
        const uint64_t offset = two();
        std::vector<std::byte> bytes(byte() % 17);
        for (std::byte& value : bytes) value = std::byte{byte()};
        return note(registers_.write(offset, bytes));
      }
      case 5: {
        const uint64_t offset = two();
        std::vector<std::byte> bytes(byte() % 17);
        return registers_.read(offset, bytes);
      }
      case 6:
        return complete((op & 8) != 0);
      case 7:
        return change(op >> 3 & 3);
      default: {
        const uint64_t offset = uint64_t{byte()} * 4;
        std::array<std::byte, 4> bytes;
        for (std::byte& value : bytes) value = std::byte{byte()};
        return note(registers_.write(offset, bytes));
      }
    }
  }

  void note(const MmioAction& action) {
    using Kind = MmioAction::Kind;
    if (action.kind == Kind::kNone) return;
    check(to_int(action.queue) < kQueues);
    check(action.offset + action.size <= 20);
    if (action.kind == Kind::kNotify) return check(registers_.live());
    if (action.kind == Kind::kReset) {
      check(registers_.resetting());
      // As the transport does: what came before is moot.
      if (!action.joins) actions_.clear();
    }
    if (!action.joins) actions_.push_back(action);
  }

  void complete(bool ok) {
    if (actions_.empty()) return;
    const MmioAction action = actions_.front();
    registers_.begin(action);
    const bool interrupts = registers_.complete(action, ok);
    if (interrupts) check((read(mmio::kInterruptStatus) & 2) != 0);
    // One that is not ok is asked for again.
    if (action.kind != MmioAction::Kind::kReset || ok) actions_.pop_front();
    if (action.kind == MmioAction::Kind::kReset) {
      check((registers_.status() == 0) == ok);
    }
  }

  void change(int what) {
    if (what == 0) {
      const uint32_t before = read(mmio::kConfigGeneration);
      std::vector<std::byte> bytes(20, std::byte{byte()});
      const bool differs = registers_.set_config(bytes);
      check(differs == (read(mmio::kConfigGeneration) != before));
    } else if (what == 1) {
      static_cast<void>(registers_.fail());
    } else if (what == 2) {
      static_cast<void>(registers_.lose_run());
    } else {
      static_cast<void>(registers_.announce_config());
    }
  }

  uint32_t read(uint64_t offset) const {
    std::array<std::byte, 4> bytes;
    registers_.read(offset, bytes);
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) {
      value |= std::to_integer<uint32_t>(bytes[i]) << (8 * i);
    }
    return value;
  }

  // Bits are only added, but by a reset.
  void check_status(uint8_t before) const {
    const uint8_t status = registers_.status();
    check(status == 0 || (before & ~status) == 0);
    if ((status & kStatusDriverOk) != 0) check((status & 8) != 0);
    check((status & ~(1 | 2 | 4 | 8 | 64 | 128)) == 0);
  }

  void check_registers() const {
    const FeatureSet accepted = registers_.accepted();
    check(kOffered.contains(accepted));
    const bool settled = (registers_.status() & kStatusFeaturesOk) != 0;
    check(accepted.has(kFeatureVersion1) == settled);
    check(!(registers_.resetting() && registers_.status() == 0));
    check(!(registers_.resetting() && registers_.live()));
    check(read(mmio::kMagicValue) == mmio::kMagic);
    check(read(mmio::kInterruptStatus) <= 3);
  }

  void check_queue(uint32_t vq) const {
    const VirtqueueConfig queue = registers_.queue(QueueIndex{vq});
    if (queue.num == 0) return check(queue.desc_gpa == 0);
    check(vq == 0 || vq == 2);
    check(queue.num <= (vq == 0 ? 64u : 1024u));
    const bool packed = registers_.accepted().has(kFeatureRingPacked);
    check(packed || std::has_single_bit(queue.num));
    check(queue.desc_gpa != 0 && queue.desc_gpa % 16 == 0);
    check(queue.avail_gpa % (packed ? 4 : 2) == 0);
    check(queue.used_gpa % 4 == 0);
    check(queue.desc_gpa + 16 * uint64_t{queue.num} > queue.desc_gpa);
  }

  // Wherever a driver has come, another device can go on from there.
  void check_move() const {
    const auto state = registers_.save();
    if (!state.ok()) return;
    MmioRegisters there(setup());
    there.offer(kOffered);
    check(there.load(*state).ok());
    check(there.accepted() == registers_.accepted());
    check(there.live() == registers_.live());
    check(*there.save() == *state);
  }

  std::span<const uint8_t> input_;
  MmioRegisters registers_{setup()};
  std::deque<MmioAction> actions_;
};

}  // namespace
}  // namespace vhost

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vhost::Scenario(std::span(data, size)).run();
  return 0;
}
