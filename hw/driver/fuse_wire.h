// SPDX-License-Identifier: Apache-2.0
#ifndef HW_DRIVER_FUSE_WIRE_H_
#define HW_DRIVER_FUSE_WIRE_H_

// The messages themselves are the kernel's public header; here is what it
// leaves to documentation.
#include <linux/fuse.h>

#include <cstdint>

namespace vhost {

// Versions this client is written for.  From 7.23 on the structures it uses
// have the sizes below.
inline constexpr uint32_t kFuseMajor = 7;
inline constexpr uint32_t kFuseMinor = 31;
inline constexpr uint32_t kFuseOldestMinor = 23;

static_assert(sizeof(fuse_in_header) == 40);
static_assert(sizeof(fuse_out_header) == 16);
static_assert(sizeof(fuse_init_out) == 64);
static_assert(sizeof(fuse_entry_out) == 128);
static_assert(sizeof(fuse_getattr_in) == 16);
static_assert(sizeof(fuse_attr_out) == 104);
static_assert(sizeof(fuse_open_in) == 8);
static_assert(sizeof(fuse_open_out) == 16);
static_assert(sizeof(fuse_read_in) == 40);
static_assert(sizeof(fuse_release_in) == 24);
static_assert(sizeof(fuse_forget_in) == 8);

// An error is the negative of an errno, and those end here.
inline constexpr int32_t kFuseLastError = 511;

// max_pages counts these, whatever the pages of either side; 32 of them hold
// without FUSE_MAX_PAGES, and no more than 256 are asked for with it.
inline constexpr uint32_t kFusePage = 4096;
inline constexpr uint32_t kFuseDefaultPages = 32;
inline constexpr uint32_t kFuseMostPages = 256;

// What the client asks for: several reads at once, and large ones.
inline constexpr uint32_t kFuseWantedFlags = FUSE_ASYNC_READ | FUSE_MAX_PAGES;
inline constexpr uint32_t kFuseWantedReadahead = 128 * 1024;

// Neither a file nor an offset is beyond this.
inline constexpr uint64_t kFuseMostOffset = INT64_MAX;

// No device may ask for smaller writes.
inline constexpr uint32_t kFuseLeastWrite = 4096;

}  // namespace vhost

#endif  // HW_DRIVER_FUSE_WIRE_H_
