// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_BADINPUT_MEDDLER_H_
#define TESTS_BADINPUT_MEDDLER_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "vhostdev/testing/model_backend.h"
#include "vhostdev/unique_fd.h"

namespace vhost::badinput {

using Bytes = std::vector<std::byte>;

// What goes wrong.
enum class Mischief : uint8_t {
  kNone,
  // With a request:
  kSilent,   // It and all behind it are not looked at.
  kHeld,     // Likewise, until release().
  kDead,     // The connection ends instead.
  kRefused,  // The back-end refuses it.
  // With the reply to a request:
  kReplyHeld,       // The reply, and all behind it, wait for release().
  kHalfReplyHeld,   // The same from behind its header on.
  kHeaderSilent,    // Only the header comes, ever.
  kHeaderDead,      // Only the header comes, and then the end.
  kHalfHeaderDead,  // Not even all of that.
  kAckedDead,       // It comes, and then the end.
  kWrongId,
  kWrongQueue,     // Only GET_VRING_BASE has one.
  kNoReplyBit,     // Flags: of a request.
  kStrayFlag,      // Flags: need_reply besides.
  kWrongVersion,   // Flags: version 2.
  kShorter,        // Four bytes less.
  kLonger,         // Eight bytes more.
  kHuge,           // Claims 4 GiB.
  kStrayFd,        // One descriptor, unasked for.
  kTooManyFds,     // More than any message may carry.
  kTwice,          // And once again.
  kAfterStranger,  // Behind a reply that nobody asked for.
  kByteByByte,     // Correct, in many pieces.
};

// The man in the middle: every message between a front-end, which connects to
// `path`, and a model back-end passes through here, is written down, and one of
// them is meddled with.  Works only inside step(), on the caller's thread.
class Meddler {
 public:
  struct Request {
    uint32_t id = 0;
    uint32_t flags = 0;
    Bytes payload;
    size_t fds = 0;
    bool answered = false;

    // "SET_VRING_NUM vq 1", as errors name it.
    std::string name() const;
  };
  static constexpr size_t kNever = std::numeric_limits<size_t>::max();

  // `device` is borrowed.
  Meddler(std::string path, testing::ModelDevice* device,
          testing::ModelOptions options = {});
  ~Meddler();
  Meddler(const Meddler&) = delete;
  Meddler& operator=(const Meddler&) = delete;

  // From now on requests are counted from 0, and number `at` is meddled with.
  void arm(Mischief mischief, size_t at = kNever);
  // Lets what is held go on.
  void release();
  // Whether something is held, or withheld for good.
  bool caught() const { return caught_; }

  // Moves what can be moved; whether there was anything.
  bool step();

  // Who connects from now on gets another back-end.
  void replace_model(testing::ModelOptions options);

  // The requests since arm().
  const std::vector<Request>& requests() const { return requests_; }
  size_t unanswered() const { return due_.size(); }
  bool connected() const { return front_.valid(); }
  testing::ModelBackend& model() { return *model_; }
  // The back-end's end of its own channel, shared with the model.
  FdRef channel() const { return channel_; }
  // Replies to `request` have this payload from now on.
  void forge(uint32_t request, Bytes payload) {
    forged_[request] = std::move(payload);
  }
  void forge(uint32_t request, uint64_t value);
  void forge_nothing() { forged_.clear(); }
  // Sends raw bytes to the front-end on the main channel.
  void send_raw(const Bytes& bytes) { send_front(bytes, {}); }
  void hang_up();

 private:
  struct Frame {
    Bytes bytes;  // Header and payload.
    std::vector<UniqueFd> fds;
  };

  void make_model(testing::ModelOptions options);
  bool accept();
  std::optional<Frame> receive(FdRef socket, bool& ended);
  void take_request(Frame frame);
  void pass_request(Frame frame);
  void take_reply(Frame frame);
  void pass_reply(Frame frame, size_t number);
  void send_front(const Bytes& bytes, const std::vector<UniqueFd>& fds);

  const std::string path_;
  testing::ModelDevice* const device_;
  UniqueFd listener_;
  UniqueFd front_;
  UniqueFd back_;
  UniqueFd channel_;
  std::unique_ptr<testing::ModelBackend> model_;

  Mischief mischief_ = Mischief::kNone;
  size_t at_ = kNever;
  bool caught_ = false;
  bool muted_ = false;  // No reply comes through any more.
  uint64_t seen_ = 0;   // Requests since the front-end connected.
  uint64_t refused_ = std::numeric_limits<uint64_t>::max();
  std::vector<Request> requests_;
  std::deque<size_t> due_;  // Of requests_, those that await a reply.
  std::map<uint32_t, Bytes> forged_;
  std::deque<Frame> held_requests_;
  std::deque<Frame> held_replies_;
};

}  // namespace vhost::badinput

#endif  // TESTS_BADINPUT_MEDDLER_H_
