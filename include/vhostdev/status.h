// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_STATUS_H_
#define VHOSTDEV_STATUS_H_

#include <cerrno>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "vhostdev/cxx20.h"

namespace vhost {

// How an asynchronous operation says that it is over.  Called exactly once, on
// the loop's thread (docs/threads.md), or destroyed uncalled together with the
// device it belongs to.
using Completion = absl::AnyInvocable<void(absl::Status)>;

// The status for a failed system call.  A peer that went away is always
// kUnavailable, so that callers can tell "reconnect" from "bug" by code alone;
// a full table or quota (EMFILE, ENFILE, ENOBUFS, ETOOMANYREFS, ENOMEM) is
// kResourceExhausted.
inline absl::Status errno_status(int error, absl::string_view what) {
  const absl::Status status = absl::ErrnoToStatus(error, what);
  switch (error) {
    case EPIPE:
    case ECONNRESET:
    case ECONNREFUSED:
    case ENOTCONN:
    case ENODEV:
      return absl::UnavailableError(status.message());
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case ETOOMANYREFS:
      return absl::ResourceExhaustedError(status.message());
    default:
      return status;
  }
}

// `status` with "`context`: " put in front; code and payloads are kept.
inline absl::Status annotate(const absl::Status& status,
                             absl::string_view context) {
  if (status.ok()) return status;
  absl::Status out(status.code(),
                   absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload([&out](absl::string_view url, const absl::Cord& data) {
    out.SetPayload(url, data);
  });
  return out;
}

}  // namespace vhost

#define VHOST_RETURN_IF_ERROR(expr)                               \
  do {                                                            \
    if (absl::Status vhost_status_ = (expr); !vhost_status_.ok()) \
      return vhost_status_;                                       \
  } while (false)

#endif  // VHOSTDEV_STATUS_H_
