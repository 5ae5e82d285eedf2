// SPDX-License-Identifier: Apache-2.0
#ifndef BACKENDS_USER_WIRE_H_
#define BACKENDS_USER_WIRE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

// Message layouts, field for field as in vhost-user.rst, "Message
// Specification".  All integers are in the byte order of the host: both ends
// share it.  Nothing here validates; that is codec.h's one job.
namespace vhost::user::wire {

// Values of Header::flags.
inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kVersionMask = 3;
inline constexpr uint32_t kReplyFlag = 1u << 2;
inline constexpr uint32_t kNeedReplyFlag = 1u << 3;

// A message carries at most this many descriptors, either way.
inline constexpr size_t kMaxFds = 8;
// SET_MEM_TABLE names at most this many regions.
inline constexpr size_t kMaxTableRegions = 8;
// Most bytes of configuration space in one message.
inline constexpr uint32_t kMaxConfigBytes = 256;
// Most bytes of a crypto session's description.  Its layout is that of a C
// struct with keys of up to 1024 bytes; here it is opaque.
inline constexpr uint32_t kMaxCryptoSession = 4096;
inline constexpr size_t kMaxShmemRegions = 256;

struct Header {
  uint32_t request;
  uint32_t flags;  // Bits 0-1: version (1).  Bit 2: reply.  Bit 3: need_reply.
  uint32_t size;   // Bytes of payload that follow; the header is not counted.
};
static_assert(sizeof(Header) == 12);

// Of SET_VRING_NUM, _BASE, _ENABLE, _ENDIAN, GET_VRING_BASE, VRING_KICK and the
// back-end's VRING_CALL and VRING_ERR.
struct VringState {
  uint32_t index;
  uint32_t num;
};
static_assert(sizeof(VringState) == 8);

// Values of VringAddr::flags.
inline constexpr uint32_t kVringLogFlag = 1u << 0;

struct VringAddr {
  uint32_t index;
  uint32_t flags;  // Bit 0: log writes to the used ring.
  uint64_t descriptor;
  uint64_t used;
  uint64_t available;
  uint64_t log;
};
static_assert(sizeof(VringAddr) == 40);
static_assert(offsetof(VringAddr, descriptor) == 8);
static_assert(offsetof(VringAddr, used) == 16);
static_assert(offsetof(VringAddr, available) == 24);
static_assert(offsetof(VringAddr, log) == 32);

// The u64 of SET_VRING_KICK, _CALL, _ERR and of VringArea.
inline constexpr uint64_t kVringIndexMask = 0xff;
inline constexpr uint64_t kNoFdFlag = 1u << 8;

struct MemoryRegion {
  uint64_t guest_address;
  uint64_t size;
  uint64_t user_address;
  uint64_t mmap_offset;
};
static_assert(sizeof(MemoryRegion) == 32);
static_assert(offsetof(MemoryRegion, user_address) == 16);

// With XEN_MMAP.
struct XenMemoryRegion {
  MemoryRegion region;
  uint32_t xen_mmap_flags;
  uint32_t domid;
};
static_assert(sizeof(XenMemoryRegion) == 40);

// What precedes the regions of SET_MEM_TABLE.
struct MemoryTableHead {
  uint32_t num_regions;
  uint32_t padding;
};
static_assert(sizeof(MemoryTableHead) == 8);

// SET_MEM_TABLE with all its regions; the message ends after num_regions.
struct MemoryTable {
  MemoryTableHead head;
  MemoryRegion regions[kMaxTableRegions];
};
static_assert(sizeof(MemoryTable) == 264);
static_assert(offsetof(MemoryTable, regions) == 8);

struct SingleMemoryRegion {
  uint64_t padding;
  MemoryRegion region;
};
static_assert(sizeof(SingleMemoryRegion) == 40);
static_assert(offsetof(SingleMemoryRegion, region) == 8);

struct Log {
  uint64_t mmap_size;
  uint64_t mmap_offset;
};
static_assert(sizeof(Log) == 16);

// Values of Iotlb::type.
inline constexpr uint8_t kIotlbMiss = 1;
inline constexpr uint8_t kIotlbUpdate = 2;
inline constexpr uint8_t kIotlbInvalidate = 3;
inline constexpr uint8_t kIotlbAccessFail = 4;

struct Iotlb {
  uint64_t iova;
  uint64_t size;
  uint64_t user_address;
  uint8_t permissions;
  uint8_t type;
  uint8_t padding[6];
};
static_assert(sizeof(Iotlb) == 32);
static_assert(offsetof(Iotlb, permissions) == 24);
static_assert(offsetof(Iotlb, type) == 25);

// What precedes the bytes of GET_CONFIG and SET_CONFIG.
struct ConfigHead {
  uint32_t offset;
  uint32_t size;
  uint32_t flags;
};
static_assert(sizeof(ConfigHead) == 12);

struct VringArea {
  uint64_t index_and_flags;  // Bits 0-7: index.  Bit 8: no descriptor.
  uint64_t size;
  uint64_t offset;
};
static_assert(sizeof(VringArea) == 24);

// GET_INFLIGHT_FD and SET_INFLIGHT_FD as widely implemented: the specification
// has 20 bytes, a C compiler pads them to 24, and both are in use.
struct Inflight {
  uint64_t mmap_size;
  uint64_t mmap_offset;
  uint16_t num_queues;
  uint16_t queue_size;
  uint32_t padding;
};
static_assert(sizeof(Inflight) == 24);
inline constexpr size_t kInflightSpecSize = offsetof(Inflight, padding);
static_assert(kInflightSpecSize == 20);

struct SharedObject {
  uint8_t uuid[16];
};
static_assert(sizeof(SharedObject) == 16);

struct DeviceState {
  uint32_t direction;
  uint32_t phase;
};
static_assert(sizeof(DeviceState) == 8);

// The u64 that answers SET_DEVICE_STATE_FD.
inline constexpr uint64_t kStateErrorMask = 0xff;
inline constexpr uint64_t kStateNoFdFlag = 1u << 8;

// Values of Mmap::flags.
inline constexpr uint64_t kMmapWritable = 1u << 0;

struct Mmap {
  uint8_t shmid;
  uint8_t padding[7];
  uint64_t fd_offset;
  uint64_t shm_offset;
  uint64_t len;
  uint64_t flags;
};
static_assert(sizeof(Mmap) == 40);
static_assert(offsetof(Mmap, fd_offset) == 8);
static_assert(offsetof(Mmap, flags) == 32);

struct ShmemConfig {
  uint32_t num_regions;
  uint32_t padding;
  uint64_t sizes[kMaxShmemRegions];
};
static_assert(sizeof(ShmemConfig) == 2056);

// A type that may be copied to and from a socket as it lies in memory.
template <typename T>
concept WireStruct = std::is_trivially_copyable_v<T> &&
    std::is_standard_layout_v<T> && std::has_unique_object_representations_v<T>;
static_assert(WireStruct<Header> && WireStruct<VringState> &&
              WireStruct<VringAddr> && WireStruct<MemoryTable> &&
              WireStruct<XenMemoryRegion> && WireStruct<SingleMemoryRegion> &&
              WireStruct<Log> && WireStruct<Iotlb> && WireStruct<ConfigHead> &&
              WireStruct<VringArea> && WireStruct<Inflight> &&
              WireStruct<SharedObject> && WireStruct<DeviceState> &&
              WireStruct<Mmap> && WireStruct<ShmemConfig>);

template <WireStruct T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

// The first sizeof(T) bytes of `in` as a T; nothing if `in` is shorter.
template <WireStruct T>
std::optional<T> read_prefix(std::span<const std::byte> in) {
  if (in.size() < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, in.data(), sizeof(T));
  return value;
}

}  // namespace vhost::user::wire

#endif  // BACKENDS_USER_WIRE_H_
