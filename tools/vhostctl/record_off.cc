// SPDX-License-Identifier: Apache-2.0
#include "tools/vhostctl/commands.h"

namespace vhost::ctl {

absl::Status run_record(const Options&) {
  return absl::UnimplementedError("built without vhost-user");
}

}  // namespace vhost::ctl
