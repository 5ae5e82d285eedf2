// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_PLACE_H_
#define TESTS_GUEST_PAYLOAD_PLACE_H_

// Makes an object in memory that is there: there is no <new> without a library.
inline void* operator new(unsigned long, void* place) noexcept { return place; }

#endif  // TESTS_GUEST_PAYLOAD_PLACE_H_
