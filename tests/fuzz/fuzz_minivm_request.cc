// SPDX-License-Identifier: Apache-2.0
//
// Any bytes as a line that a client of minivm's control socket sends.  What is
// read of it is written and read the same way again; what is not is an error
// that can be sent back in a line.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "tools/minivm/request.h"

namespace vhost::minivm {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

bool is_line(const std::string& text) {
  return !text.empty() && text.find('\n') == text.size() - 1;
}

void run(absl::string_view input) {
  const absl::StatusOr<Request> request = parse_request(input);
  if (!request.ok()) {
    check(is_line(to_line(request.status())));
    return;
  }
  const std::string line = to_line(*request);
  check(is_line(line));
  // What it grew to by escapes may be too long to be read again.
  if (line.size() > kMostRequestBytes) return;
  const absl::StatusOr<Request> again = parse_request(line);
  check(again.ok() && *again == *request);
}

}  // namespace
}  // namespace vhost::minivm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vhost::minivm::run(
      absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
