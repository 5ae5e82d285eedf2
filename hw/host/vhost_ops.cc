// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/vhost_ops.h"

#include <array>
#include <variant>

namespace vhost {

absl::string_view verb_name(const Verb& verb) {
  // In the order of the variant.
  static constexpr std::array<absl::string_view, std::variant_size_v<Verb>>
      kNames = {
          "Open",
          "SetFeatures",
          "GetInflight",
          "Configure",
          "Go",
          "DriverOk",
          "Quiesce",
          "Harvest",
          "Resume",
          "ResetStatus",
          "ResetDevice",
          "SetQueuesEnabled",
          "UpdateMemory",
          "SetCalls",
          "SetLog",
          "SetRingLogging",
          "GetConfig",
          "SetConfig",
          "SetConfigCall",
          "UpdateIotlb",
          "SetDeviceStateFd",
          "CheckDeviceState",
          "SetMtu",
          "SendRarp",
          "KickQueues",
          "GetHostNotifiers",
          "ResetOwner",
          "SetGuestCid",
      };
  static_assert(!kNames.back().empty(), "a verb has no name");
  return kNames[verb.index()];
}

}  // namespace vhost
