// SPDX-License-Identifier: Apache-2.0
#ifndef MIGRATION_CHANNEL_H_
#define MIGRATION_CHANNEL_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vhostdev/event_loop.h"
#include "vhostdev/migration_stream.h"
#include "vhostdev/unique_fd.h"

namespace vhost {

// One end of a migration's channel: what a StreamWriter has goes out, and a
// StreamReader gets what comes in, as the descriptor can and at most some MiB
// in a turn of the loop.  Loop thread; no call waits, but for a regular file.
//
//   open --failure, or the end of the other side--> failed
//   open or failed --finish(), goodbye()--> closing --> closed
//
// Callbacks run on the loop, one at a time; each may destroy the channel.
class Channel {
 public:
  struct Handler {
    // Appends to writer() what comes next, if there is something now: at least
    // one record or a few MiB looked at, no more.  False: nothing is left, and
    // wake() tells when there is.  Empty: never anything.
    absl::AnyInvocable<bool()> fill;
    // A record came.  An error fails the channel.
    absl::AnyInvocable<absl::Status(const StreamRecord&)> record;
    // Bytes left for the other side; or could, of a payload that somebody else
    // moves (StreamWriter::begin_external).
    absl::AnyInvocable<void()> sent;
    // See watch_external().
    absl::AnyInvocable<void()> external;
    // It is over, once.  Nothing is called afterwards.
    //   kUnavailable       the other side is gone
    //   kDeadlineExceeded  silence
    //   kDataLoss          what came makes no sense
    //   of fill and record
    absl::AnyInvocable<void(absl::Status)> failed;
  };
  struct Options {
    StreamWriter::Options write;
    StreamDirection read = StreamDirection::kToSource;
    bool writes = true;  // Otherwise nothing is ever sent.
    bool reads = true;   // Otherwise nothing is expected, not even the end.
    Duration silence{};  // How long no byte may move that should.
  };

  // Errors: kInvalidArgument  not a descriptor that can be made non-blocking.
  static absl::StatusOr<std::unique_ptr<Channel>> open(EventLoop& loop,
                                                       UniqueFd fd,
                                                       const Options& options,
                                                       Handler handler);
  // Closes it.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  StreamWriter& writer();
  // writer() has more to send, or fill() has.
  void wake();
  // Sends what is pending now, as far as that goes; whether all of it is out.
  absl::StatusOr<bool> flush();

  // Payloads that somebody else moves, by splice: from there and to there.
  FdRef fd() const;
  StreamReader& reader();
  // There are bytes of one to come: Handler::external is called once, when they
  // do.
  void watch_external();
  // Nobody wants the rest of the one at the front.
  void skip_external();

  // Whether records are read.  Bytes that came wait meanwhile, and silence is
  // no failure.
  void set_reading(bool on);
  // Whether the other side must send something.
  void expect_bytes(bool on);

  // Bytes per second, 0 for as many as there are.
  void set_bandwidth(uint64_t bytes_per_second);

  uint64_t bytes_sent() const;      // Taken by the kernel.
  uint64_t bytes_received() const;  // Of whole records.
  bool failed() const;

  // Sends what is pending and closes: nobody is told.  Bytes that still come
  // are dropped, so that the last ones sent arrive.
  void finish();
  // Tells the other side why, behind what is pending, if it can be told soon.
  void goodbye(const absl::Status& why);
  // Closes now.  What is pending is not sent.
  void drop();

 private:
  struct Impl;
  explicit Channel(std::shared_ptr<Impl> impl);
  std::shared_ptr<Impl> impl_;
};

}  // namespace vhost

#endif  // MIGRATION_CHANNEL_H_
