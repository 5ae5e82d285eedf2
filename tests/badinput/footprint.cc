// SPDX-License-Identifier: Apache-2.0
#include "tests/badinput/footprint.h"

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace vhost::badinput {

Footprint Footprint::now() {
  Footprint out;
  // The iterator holds one itself, every time.
  out.fds = static_cast<size_t>(
      std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                    std::filesystem::directory_iterator()));
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("/memfd:") != std::string::npos) ++out.mapped_fds;
  }
  return out;
}

}  // namespace vhost::badinput
