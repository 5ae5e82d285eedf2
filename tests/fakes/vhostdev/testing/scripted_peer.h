// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_SCRIPTED_PEER_H_
#define VHOSTDEV_TESTING_SCRIPTED_PEER_H_

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

using Bytes = std::vector<std::byte>;

// "01 00 00 00" (spaces do not matter) as bytes; for payloads written down.
Bytes hex(absl::string_view digits);
// Integers in this machine's order, as vhost-user has them.
Bytes u32s(std::initializer_list<uint32_t> values);
Bytes u64s(std::initializer_list<uint64_t> values);
Bytes operator+(Bytes a, const Bytes& b);

// A vhost-user message: header and payload.
inline constexpr uint32_t kVersionFlag = 1;
inline constexpr uint32_t kReplyFlag = 4;
inline constexpr uint32_t kNeedReplyFlag = 8;
Bytes user_message(uint32_t request, uint32_t flags, const Bytes& payload = {});

// The other end of a socket pair, with a script: it receives exactly what the
// script expects and sends exactly the bytes it says, however wrong.
//
//   ScriptedPeer peer;
//   peer.expect(1).reply(u64s({features}));
//   peer.expect(3).close();
//   ... make_vhost_user_ops(UseSocket{peer.take_socket()}) ...
//   peer.start();                     // On a thread of its own,
//   ... or peer.run_ready(); ...      // or here, as far as it goes.
//
// Whatever differs from the script, and a script that did not come to its end,
// is a test failure, reported by finish() or the destructor.  No step waits
// longer than `patience`.
class ScriptedPeer {
 public:
  struct Message {
    uint32_t request = 0;
    uint32_t flags = 0;
    Bytes payload;
    size_t fds = 0;  // How many came with it; fds() holds them.
  };
  struct Want {
    std::optional<uint32_t> flags = {};  // Empty: any.
    std::optional<Bytes> payload = {};   // Empty: any.
    std::optional<size_t> fds = {};      // How many; empty: any.
  };

  explicit ScriptedPeer(
      std::chrono::milliseconds patience = std::chrono::seconds(5));
  ~ScriptedPeer() {
    finish();
    report();
  }
  ScriptedPeer(const ScriptedPeer&) = delete;
  ScriptedPeer& operator=(const ScriptedPeer&) = delete;

  // The end for the code under test; once.
  UniqueFd take_socket();

  // -- The script.  Steps run in order; before start() or, without a thread,
  // -- at any time.

  // A message with this id.
  ScriptedPeer& expect(uint32_t request) { return expect(request, Want()); }
  ScriptedPeer& expect(uint32_t request, Want want);
  // Exactly these bytes, in whatever pieces, with `fds` descriptors.
  ScriptedPeer& expect_bytes(Bytes bytes, size_t fds = 0);
  // Messages until one with this id came; of those before it nothing is
  // checked and, where they ask for it, an ack of 0 is sent.
  ScriptedPeer& skip_to(uint32_t request);
  // The other end closes (unread bytes are a failure).
  ScriptedPeer& expect_close();
  // Passes every message to `handler` and sends what it returns (raw bytes;
  // empty: nothing), until the other end closes.
  ScriptedPeer& serve(absl::AnyInvocable<Bytes(const Message&)> handler);

  // The reply to the message expected last: its id, version and reply flag.
  ScriptedPeer& reply(Bytes payload, size_t fds = 0);
  // The same, if it asked for a reply; a failure if it did not.
  ScriptedPeer& ack(uint64_t value = 0);
  // Raw bytes, `chunk` at a time (0: all at once), with `fds` descriptors (of
  // /dev/null) on the first.  Pieces are separate sends.
  ScriptedPeer& send(Bytes bytes, size_t fds = 0, size_t chunk = 0);

  // Waits for resume(), which may come first.
  ScriptedPeer& stall();
  // Closes this end.
  ScriptedPeer& close();
  // Runs `action` when the script gets here.
  ScriptedPeer& call(absl::AnyInvocable<void()> action);

  // -- Running it.

  // Runs the script on a thread of its own.
  void start();
  // Lets one stall() go on.  Any thread.
  void resume();
  // Without start(): runs steps here until one would have to wait.  True if
  // the script is at its end.
  bool run_ready();
  // Waits for the thread; what is left of the script is a problem.  Idempotent.
  void finish();
  // Problems so far, a sentence each, without making failures of them.
  std::vector<std::string> take_problems();

  // Descriptors that came, in order.  Without a thread, or after finish().
  std::vector<UniqueFd>& fds() { return fds_; }
  // The last message that came.  Without a thread, or after finish().
  const Message& last() const { return last_; }

 private:
  // What became of one try of a step.
  enum class Outcome : uint8_t { kDone, kBlocked, kFailed };
  // What a blocked step waits for.
  enum class WaitsFor : uint8_t { kInput, kOutput, kResume };
  using Try = absl::AnyInvocable<Outcome()>;
  struct ScriptStep {
    std::string name;
    WaitsFor waits_for;
    Try attempt;
  };
  struct Piece {
    Bytes bytes;
    size_t fds = 0;
  };

  ScriptedPeer& add(std::string name, WaitsFor waits_for, Try attempt);
  ScriptedPeer& add_send(std::string name, absl::AnyInvocable<bool()> prepare,
                         bool must_arrive);
  Outcome fail(absl::string_view problem);

  // Both go on where they were blocked before.
  Outcome receive(size_t wanted);
  Outcome flush(bool must_arrive);
  Outcome receive_message();
  Outcome check(uint32_t request, const Want& want);
  Outcome receive_close();
  Outcome serve_some(absl::AnyInvocable<Bytes(const Message&)>& handler);
  Outcome skip_some(uint32_t request);

  // Runs the first step; false when the script is over or has to wait.
  bool run_one(Outcome& outcome);
  void run_thread();
  bool wait_for(WaitsFor what, std::chrono::steady_clock::time_point deadline);
  void report() {
    for (const std::string& problem : take_problems()) {
      ADD_FAILURE() << "scripted peer: " << problem;
    }
  }

  const std::chrono::milliseconds patience_;
  UniqueFd socket_;
  UniqueFd other_;
  UniqueFd resumes_;  // An eventfd, one count for each resume().
  std::deque<ScriptStep> script_;
  std::thread thread_;

  Bytes in_;           // Received and not yet used: of one message at most.
  size_t in_fds_ = 0;  // How many descriptors came with it.
  bool end_of_file_ = false;
  std::vector<UniqueFd> fds_;
  Message last_;
  std::deque<Piece> out_;

  absl::Mutex mutex_;
  std::vector<std::string> problems_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_SCRIPTED_PEER_H_
