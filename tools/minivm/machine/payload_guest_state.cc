// SPDX-License-Identifier: Apache-2.0
//
//   guest := version u32, workload, serial register u8 * 8, machine
//
// Workload: workload_state.cc; machine: machine_state.cc.  All else that the
// payload knows is in its memory, and so are its counters.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "tools/minivm/machine/machine_state.h"
#include "tools/minivm/machine/payload_guest.h"
#include "vhostdev/status.h"

namespace vhost::minivm {
namespace {

constexpr uint32_t kVersion = 1;

}  // namespace

absl::StatusOr<std::string> PayloadGuest::save() const {
  if (!started_ || !paused_) {
    return absl::FailedPreconditionError("save: the guest is not paused");
  }
  const absl::StatusOr<MachineState> machine = machine_.save();
  if (!machine.ok()) return annotate(machine.status(), "save");
  Workload left = workload_;
  if (finish_at_.has_value()) {
    left.seconds = std::max(*finish_at_ - loop_.now(), Duration(0));
  }
  StateWriter out;
  out.u32(kVersion);
  save_workload(left, out);
  serial_.save(out);
  save_machine(*machine, out);
  return out.take();
}

absl::Status PayloadGuest::load(absl::string_view state) {
  if (!comes_ || loaded_) {
    return absl::FailedPreconditionError(
        "load: the guest has a program already");
  }
  const absl::Status status = load_all(state);
  loaded_ = status.ok();
  return annotate(status, "load");
}

absl::Status PayloadGuest::load_all(absl::string_view state) {
  StateReader in(state);
  const uint32_t version = in.u32();
  if (version != kVersion) {
    in.refuse(absl::StrCat("version ", version, " of a guest"));
  }
  workload_ = load_workload(in);
  serial_.load(in);
  const MachineState machine = load_machine(in);
  VHOST_RETURN_IF_ERROR(in.finish());
  VHOST_RETURN_IF_ERROR(check_mailbox());
  return machine_.load(machine);
}

absl::Status PayloadGuest::check_mailbox() const {
  if (mailbox_->magic == payload::kMailboxMagic &&
      mailbox_->version == payload::kMailboxVersion) {
    return absl::OkStatus();
  }
  return absl::DataLossError("no mailbox in its memory");
}

// It may have said something that nobody heard any more, and what minivm said
// may be waiting for it; one that was held lets go.
void PayloadGuest::go_on_working() {
  release();
  wake();
  post([this] { look_at_state(); });
}

}  // namespace vhost::minivm
