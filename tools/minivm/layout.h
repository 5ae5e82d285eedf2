// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_MINIVM_LAYOUT_H_
#define TOOLS_MINIVM_LAYOUT_H_

#include <array>
#include <cstdint>

namespace vhost::minivm {

// The guest's physical addresses.  RAM begins at 0 and ends below the devices;
// memory that is added later begins at 4 GiB.
inline constexpr uint64_t kMaxRam = uint64_t{3} << 30;
inline constexpr uint64_t kDeviceBase = 0xd000'0000;  // Device i: + i strides.
inline constexpr uint64_t kDeviceStride = 0x1000;
inline constexpr uint64_t kAddedMemoryBase = uint64_t{4} << 30;

// Below 1 MiB: what the vCPUs need before the payload runs (KvmMachine).
inline constexpr uint64_t kMailboxGpa = 0x9'0000;
inline constexpr uint64_t kMailboxSize = 0x1000;
inline constexpr uint64_t kTreeGpa = 0xa'0000;  // The device tree, flattened.
inline constexpr uint64_t kMaxTreeSize = 0x2'0000;
inline constexpr uint64_t kPayloadGpa = 0x10'0000;  // Where it is linked to.

// Interrupt lines of the devices, in their order; all of them edge triggered,
// at the two 8259.
inline constexpr std::array<uint32_t, 8> kDeviceGsis = {5,  6,  7,  9,
                                                        10, 11, 12, 3};
inline constexpr uint32_t kWatchdogGsi = 1;
inline constexpr uint16_t kSerialPort = 0x3f8;  // 16550; no interrupts.

constexpr uint64_t device_gpa(uint32_t device) {
  return kDeviceBase + device * kDeviceStride;
}

}  // namespace vhost::minivm

#endif  // TOOLS_MINIVM_LAYOUT_H_
