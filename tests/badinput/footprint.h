// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BADINPUT_FOOTPRINT_H_
#define TESTS_BADINPUT_FOOTPRINT_H_

#include <cstddef>
#include <ostream>

namespace vhost::badinput {

// What this process holds of the kernel's: what must be as before when a
// device and its back-end are gone.
struct Footprint {
  size_t fds = 0;         // Open descriptors.
  size_t mapped_fds = 0;  // Mappings of memfds.

  static Footprint now();

  friend bool operator==(const Footprint&, const Footprint&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Footprint& self) {
    return out << self.fds << " descriptors, " << self.mapped_fds
               << " mapped memfds";
  }
};

}  // namespace vhost::badinput

#endif  // TESTS_BADINPUT_FOOTPRINT_H_
