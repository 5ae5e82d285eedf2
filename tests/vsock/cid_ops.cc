// SPDX-License-Identifier: Apache-2.0
#include "tests/vsock/cid_ops.h"

#include <variant>

#include "absl/strings/str_cat.h"

namespace vhost::testing {

Pending CidOps::submit(Verb verb, MonotonicTime deadline, Pending::Done done) {
  if (std::holds_alternative<Open>(verb)) record_->cid.reset();
  const auto* told = std::get_if<SetGuestCid>(&verb);
  if (told == nullptr) {
    return inner_->submit(std::move(verb), deadline, std::move(done));
  }
  inner_->shared_journal->push_back(absl::StrCat("SetGuestCid ", told->cid));
  BatchResult result;
  if (!record_->takes_cid) {
    result.status = absl::UnimplementedError("no guest CID");
  } else if (record_->taken.contains(told->cid)) {
    result.status =
        absl::AbortedError("VHOST_VSOCK_SET_GUEST_CID: Address already in use");
    result.refused = {Step{}};
  } else {
    record_->cid = told->cid;
  }
  auto slot = std::make_shared<Pending::Slot>(std::move(done));
  Pending pending(slot);
  slot->finish(std::move(result));
  return pending;
}

}  // namespace vhost::testing
