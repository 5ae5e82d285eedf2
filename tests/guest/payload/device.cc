// SPDX-License-Identifier: Apache-2.0
#include "tests/guest/payload/device.h"

namespace vhost::payload {
namespace {

enum Register : u32 {
  kMagicValue = 0x000,
  kVersion = 0x004,
  kDeviceId = 0x008,
  kDeviceFeatures = 0x010,
  kDeviceFeaturesSelect = 0x014,
  kDriverFeatures = 0x020,
  kDriverFeaturesSelect = 0x024,
  kQueueSelect = 0x030,
  kQueueSizeMax = 0x034,
  kQueueSize = 0x038,
  kQueueReady = 0x044,
  kInterruptStatus = 0x060,
  kInterruptAck = 0x064,
  kQueueDescriptors = 0x080,
  kQueueDriver = 0x090,
  kQueueDevice = 0x0a0,
};

enum Status : u32 {
  kAcknowledge = 1,
  kDriver = 2,
  kDriverOk = 4,
  kFeaturesOk = 8,
};

}  // namespace

u32 Device::kind() const {
  constexpr u32 kMagic = 0x74726976;  // "virt"
  if (read32(base() + kMagicValue) != kMagic) {
    fail("no virtio device in the window at", base());
  }
  const u32 version = read32(base() + kVersion);
  if (version != 2) fail("virtio-mmio has not version 2 but", version);
  return read32(base() + kDeviceId);
}

void Device::write64(u32 offset, u64 value) const {
  write32(base() + offset, static_cast<u32>(value));
  write32(base() + offset + 4, static_cast<u32>(value >> 32));
}

void Device::negotiate(u64 wanted) {
  write32(base() + kStatus, 0);
  while (status() != 0) pause();
  add_status(kAcknowledge);
  add_status(kDriver);
  u64 offered = 0;
  for (u32 half = 0; half < 2; ++half) {
    write32(base() + kDeviceFeaturesSelect, half);
    offered |= u64{read32(base() + kDeviceFeatures)} << (32 * half);
  }
  if ((offered & kFeatureVersion1) == 0) {
    fail("VERSION_1 is not among the features:", offered);
  }
  accepted_ = offered & (wanted | kFeatureVersion1);
  for (u32 half = 0; half < 2; ++half) {
    write32(base() + kDriverFeaturesSelect, half);
    write32(base() + kDriverFeatures, static_cast<u32>(accepted_ >> 32 * half));
  }
  add_status(kFeaturesOk);
  if ((status() & kFeaturesOk) == 0) {
    fail("the device does not take the features", accepted_);
  }
}

u16 Device::queue_limit(u32 queue) {
  write32(base() + kQueueSelect, queue);
  if (read32(base() + kQueueReady) != 0) {
    fail("a queue is ready after a reset:", queue);
  }
  const u32 limit = read32(base() + kQueueSizeMax);
  constexpr u32 kMost = 32768;
  if (limit > kMost || (limit & (limit - 1)) != 0) {
    fail("the size of a queue is no power of two:", limit);
  }
  return static_cast<u16>(limit);
}

void Device::set_queue(u32 queue, const Ring& ring) {
  write32(base() + kQueueSelect, queue);
  write32(base() + kQueueSize, ring.size());
  write64(kQueueDescriptors, ring.descriptors());
  write64(kQueueDriver, ring.available());
  write64(kQueueDevice, ring.used());
  write32(base() + kQueueReady, 1);
}

void Device::go() { add_status(kDriverOk); }

bool Device::acknowledge() const {
  constexpr u32 kConfiguration = 2;
  const u32 why = read32(base() + kInterruptStatus);
  write32(base() + kInterruptAck, why);
  return (why & kConfiguration) != 0;
}

}  // namespace vhost::payload
