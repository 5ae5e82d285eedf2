// SPDX-License-Identifier: Apache-2.0
//
// A machine that comes from another process, of any content.  What is accepted
// is written as it was read, and its processor fits itself.
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "tools/minivm/machine/kvm_state.h"
#include "tools/minivm/machine/machine_state.h"

namespace vhost::minivm {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

void run(absl::string_view bytes) {
  StateReader in(bytes);
  const MachineState state = load_machine(in);
  if (!in.finish().ok()) return;
  StateWriter out;
  save_machine(state, out);
  check(out.out() == bytes);
  check(check_processor(state.processor, state.processor).ok());
}

}  // namespace
}  // namespace vhost::minivm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  vhost::minivm::run({reinterpret_cast<const char*>(data), size});
  return 0;
}
