// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_VHOST_USER_H_
#define VHOSTDEV_VHOST_USER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>

#include "vhostdev/vhost_ops.h"

namespace vhost {

// vhost-user protocol feature bits (VHOST_USER_PROTOCOL_F_*).
// Source: vhost-user.rst, "Protocol features".
inline constexpr unsigned kProtocolMq = 0;
inline constexpr unsigned kProtocolLogShmfd = 1;
inline constexpr unsigned kProtocolRarp = 2;
inline constexpr unsigned kProtocolReplyAck = 3;
inline constexpr unsigned kProtocolMtu = 4;
inline constexpr unsigned kProtocolBackendReq = 5;
inline constexpr unsigned kProtocolCrossEndian = 6;
inline constexpr unsigned kProtocolCryptoSession = 7;
inline constexpr unsigned kProtocolPagefault = 8;
inline constexpr unsigned kProtocolConfig = 9;
inline constexpr unsigned kProtocolBackendSendFd = 10;
inline constexpr unsigned kProtocolHostNotifier = 11;
inline constexpr unsigned kProtocolInflightShmfd = 12;
inline constexpr unsigned kProtocolResetDevice = 13;
inline constexpr unsigned kProtocolInbandNotifications = 14;
inline constexpr unsigned kProtocolConfigureMemSlots = 15;
inline constexpr unsigned kProtocolStatus = 16;
inline constexpr unsigned kProtocolXenMmap = 17;
inline constexpr unsigned kProtocolSharedObject = 18;
inline constexpr unsigned kProtocolDeviceState = 19;
inline constexpr unsigned kProtocolGetVringBaseInflight = 20;
inline constexpr unsigned kProtocolGpaAddresses = 21;
inline constexpr unsigned kProtocolShmemMap = 22;

// "REPLY_ACK", as the specification spells it without prefix; "bit 40" where
// there is no name.
std::string protocol_feature_name(unsigned bit);

// Connects to a listening back-end.
struct ConnectTo {
  std::string path;
};
// Uses a connected socket.  Cannot be opened a second time.
struct UseSocket {
  std::shared_ptr<UniqueFd> socket;
};
// Listens and takes the first back-end that connects.  A leftover socket file
// is replaced; the file is removed at the end.
struct ListenOn {
  std::string path;
};
using VhostUserAddress = std::variant<ConnectTo, UseSocket, ListenOn>;

struct VhostUserOptions {
  // A request's clock starts when it becomes the oldest unanswered one.
  Duration reply_timeout = std::chrono::seconds(5);
  // The same for GET_VRING_BASE, which waits for requests in flight.
  Duration drain_timeout = std::chrono::seconds(30);
  // The same for requests about memory: a back-end that pins or registers it
  // takes 20 s for 150 GiB.
  Duration memory_timeout = std::chrono::seconds(30);
  Duration check_state_timeout = std::chrono::seconds(60);

  // Un-acknowledged requests at most; 1 is strictly serial, for a back-end
  // that cannot take more.
  uint32_t max_outstanding = 128;
  uint32_t max_outstanding_fds = 64;  // Of those, how many may carry fds.

  // Protocol features that are used only if they are named here:
  // GET_VRING_BASE_INFLIGHT (the caller keeps the inflight area), GPA_ADDRESSES
  // (old rust-vmm back-ends offer its bit by mistake) and INBAND_NOTIFICATIONS
  // (a message and its reply for each notification; also needs BACKEND_REQ and
  // REPLY_ACK).  Others have no effect.
  uint64_t extra_protocol_features = 0;
  // Protocol features never to use, whatever is offered.
  uint64_t masked_protocol_features = 0;
  // Messages of one connection that are kept for errors and for
  // VhostDev::flight_record(), 0 to 4096.
  uint32_t recorded_messages = 32;
  // Require CONFIG (block devices have no other way to learn their size).
  bool need_config = false;
};

// A vhost-user back-end.  Nothing is connected before Open.
// Source: docs/interop/vhost-user.rst (docs/sources.md says which edition).
std::unique_ptr<VhostOps> make_vhost_user_ops(VhostUserAddress address,
                                              VhostUserOptions options = {});

}  // namespace vhost

#endif  // VHOSTDEV_VHOST_USER_H_
