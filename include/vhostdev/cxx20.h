// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_CXX20_H_
#define VHOSTDEV_CXX20_H_

// Included by every public header, directly or not, so that an older language
// is named once instead of by a page of errors about std::span.
#if __cplusplus < 202002L
#error "vhostdev needs C++20: compile with -std=c++20 or later"
#endif

#endif  // VHOSTDEV_CXX20_H_
