// SPDX-License-Identifier: Apache-2.0
#ifndef TOOLS_VHOSTCTL_NET_ECHO_H_
#define TOOLS_VHOSTCTL_NET_ECHO_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/net_client.h"

namespace vhost::ctl {

// Source: IEEE 802, EtherType for local experiments.
inline constexpr uint16_t kEchoEtherType = 0x88b5;

// Which way a frame of an echo goes.
enum class EchoWay : uint8_t { kThere = 0, kBack = 1 };

// Fills `out` with frame `number` of a way: 60 to 1514 bytes, different for
// each number, way and seed.
//
//   frame := destination, source (6 bytes each), type 0x88b5, way u8,
//            0 u8, seed u64, number u64, filler (a function of all three)
void fill_echo_frame(uint64_t seed, EchoWay way, uint64_t number,
                     std::vector<std::byte>& out);

// What came of an echo.
struct EchoCounts {
  uint64_t sent = 0;      // From A.
  uint64_t arrived = 0;   // At B, byte for byte.
  uint64_t returned = 0;  // At A again, byte for byte.
  uint64_t damaged = 0;   // Ours by their head, but not byte for byte.
  uint64_t repeated = 0;  // Came more than once.
  uint64_t foreign = 0;   // Not ours.
  uint64_t bytes = 0;     // Of what arrived and returned.
  std::string first_damage;
};

// One end of an echo.
class EchoPort {
 public:
  virtual ~EchoPort() = default;

  virtual uint32_t pairs() const { return 1; }
  // Sends a frame on a pair of queues; it may be kept until flush().
  // Errors: kResourceExhausted  there is no room now.
  virtual absl::Status send(std::span<const std::byte> frame, uint64_t number,
                            uint32_t pair) = 0;
  virtual void flush() {}
  // What became of frames that were sent.
  virtual absl::Status take_sent() = 0;
  // Takes frames that arrived, at most out.size(); the number.
  virtual size_t receive(std::span<NetFrame> out) = 0;
};

// A network client as an end.
class ClientPort final : public EchoPort {
 public:
  explicit ClientPort(NetClient& client) : client_(client) {}

  uint32_t pairs() const override { return client_.pairs(); }
  absl::Status send(std::span<const std::byte> frame, uint64_t number,
                    uint32_t pair) override {
    return client_.send(frame, number, pair);
  }
  void flush() override { client_.kick().IgnoreError(); }
  absl::Status take_sent() override;
  size_t receive(std::span<NetFrame> out) override {
    return client_.receive(out);
  }

 private:
  NetClient& client_;
};

// Sends numbered frames into port A, expects each at port B once and
// unchanged, and answers it with another that is expected at A.
class NetEcho {
 public:
  struct Options {
    uint64_t frames = 1000;
    uint32_t window = 32;  // Of which no answer is back, at most.
    uint64_t seed = 0;
    // No frame came for so long: there will be none.
    Duration timeout = std::chrono::seconds(5);
  };

  // Both clients outlive this and are used by nobody else meanwhile.
  NetEcho(NetClient& a, NetClient& b, const Options& options);

  // Between any two ports.  `wait` returns when something may have come to
  // either, or false after a timeout.
  using Wait = absl::AnyInvocable<bool(Duration timeout)>;
  NetEcho(std::unique_ptr<EchoPort> a, std::unique_ptr<EchoPort> b, Wait wait,
          const Options& options);

  // Goes on until `returned` frames are back, sending no more than all.
  // Errors: kDeadlineExceeded  frames are missing.
  //         kDataLoss          a frame is damaged.
  //         EchoPort::take_sent  of either.
  absl::Status run_to(uint64_t returned);
  absl::Status run() { return run_to(options_.frames); }

  const EchoCounts& counts() const { return counts_; }

 private:
  // One end, and what it was to get.
  struct Port {
    std::unique_ptr<EchoPort> end;
    EchoWay expects;
    std::vector<bool> seen;  // By number.
    std::vector<uint64_t> to_send;
    size_t next_to_send = 0;
  };

  absl::Status send_queued(Port& from, EchoWay way);
  void receive(Port& port, uint64_t& good);
  bool check(Port& port, const NetFrame& frame, uint64_t& number);
  absl::Status missing() const;

  const Options options_;
  Wait wait_;
  Port a_;
  Port b_;
  EchoCounts counts_;
  std::vector<std::byte> scratch_;
  std::vector<NetFrame> frames_;
};

}  // namespace vhost::ctl

#endif  // TOOLS_VHOSTCTL_NET_ECHO_H_
