// SPDX-License-Identifier: Apache-2.0
#ifndef VHOSTDEV_TESTING_MODEL_BACKEND_H_
#define VHOSTDEV_TESTING_MODEL_BACKEND_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "vhostdev/features.h"
#include "vhostdev/testing/model_device.h"
#include "vhostdev/testing/model_fault.h"
#include "vhostdev/testing/model_state.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// What a ModelBackend is about to do with a message of the front-end, for a
// test that wants it to do something else.
struct ModelMessage {
  uint64_t number = 0;   // Of this connection, the first is 0.
  uint32_t request = 0;  // As the specification numbers them.
  bool need_reply = false;
  size_t fds = 0;
};

// What it does instead.
struct ModelVerdict {
  enum class Kind : uint8_t { kObey, kRefuse, kHangUp };
  Kind kind = Kind::kObey;
  // Handled only after this time; messages behind it wait, rings run on.
  std::chrono::nanoseconds delay{0};
};

struct ModelOptions {
  uint32_t queues = 4;          // 1 to 256.
  uint32_t memory_slots = 509;  // As GET_MAX_MEM_SLOTS answers it; 1 to 509.

  // Not to offer, of what the model can do.
  FeatureSet without_features;
  uint64_t without_protocol_features = 0;
  // Only offered on request: a front-end that says it can and cannot exists.
  bool inband_notifications = false;

  // Likewise: stopping a ring does not wait for the requests noted in an
  // inflight area.
  bool vring_base_inflight = false;

  // DEVICE_STATE, likewise; not saved or loaded are rings and the disk.
  ModelStateOptions state;

  // How long a request is in flight.
  std::chrono::nanoseconds latency{0};

  // Of the requests that are due, finishes the newer half, newest first, and
  // shows that before it goes on.
  bool newest_first = false;

  // The request that is handed back with a lie, once `fault_after` requests of
  // its ring since the start were handed back well; receive queues never lie.
  ModelFault fault = ModelFault::kNone;
  uint64_t fault_after = 0;

  // Asked before every message, on the thread that drives the back-end; must
  // not call the back-end, nor must on_trouble.
  std::function<ModelVerdict(const ModelMessage&)> on_message;
  // Told after each one that was handled, and answered if it has an answer.
  std::function<void(const ModelMessage&)> on_handled;
  // Told after every single store to an inflight area or a used ring, on the
  // same thread.  False kills: nothing is stored, sent or signalled any more,
  // the connection ends, and no other is served.
  std::function<bool()> on_store;
  // Told one line for each thing a human would want to know: a connection
  // that ended badly, a ring that broke, a request that was refused.
  std::function<void(const std::string&)> on_trouble;
};

// Counted since the ModelBackend was made.
struct ModelCounters {
  uint64_t connections = 0;
  uint64_t messages = 0;
  uint64_t refused = 0;        // Messages answered with a failure.
  uint64_t requests = 0;       // Completed requests of rings.
  uint64_t resubmitted = 0;    // Another back-end had taken them.
  uint64_t discarded = 0;      // Of them, those that were not looked at.
  uint64_t notifications = 0;  // Sent to the guest.
  uint64_t broken_rings = 0;
  uint64_t config_changes = 0;  // Told to the front-end.
  uint64_t config_acks = 0;     // Acknowledged by it.
};

// Where one ring stands.  Source: vhost-user.rst, "Ring states".
struct ModelRingState {
  bool started = false;
  bool enabled = false;
  bool broken = false;  // The driver broke a rule; see ModelBackend::trouble.
  uint16_t next_avail = 0;  // What GET_VRING_BASE would answer.
  size_t in_flight = 0;
};

// A vhost-user back-end written from the specification: correct, strict, and
// slow on purpose if asked.  It serves one front-end at a time.
//
// A ring is started by its first kick (a readable kick descriptor, an in-band
// kick, or at once when the front-end asks for polling), and stopped by
// GET_VRING_BASE, which is answered when all requests taken from it are
// complete; at once if they are noted in an inflight area and the front-end
// accepted GET_VRING_BASE_INFLIGHT.  A ring with an inflight region that a
// back-end used begins where that one left off, whatever the base; a ring
// larger than its region breaks.  The kick descriptor is forgotten then: a late
// kick starts nothing. While a ring is disabled, nothing is taken from it, or
// what is taken from it is discarded (ModelQueueUse).  While all rings are
// stopped, the back-end writes to no guest memory, notifies nobody, sends no
// message of its own and answers those of the front-end.
//
// What is wrong is refused with a non-zero ack if one was asked for; where
// there is no way to say no, the connection is closed.
//
// Driven by step(), or by a thread of its own; then every other method may be
// called from any thread.
// Source: vhost-user.rst.
class ModelBackend {
 public:
  // `device` is borrowed and outlives the back-end.
  explicit ModelBackend(ModelDevice* device, ModelOptions options = {});
  // Ends the thread and the connection.
  ~ModelBackend();
  ModelBackend(const ModelBackend&) = delete;
  ModelBackend& operator=(const ModelBackend&) = delete;

  // Serves the front-end at the other end of `socket` from now on, instead of
  // the one before.
  absl::Status connect(UniqueFd socket);

  // Serves those who connect to the listening `socket`, one after another.
  absl::Status listen(UniqueFd socket);

  // As listen(), on a new socket at `path`.  A socket left over there is
  // replaced, anything else is not.  The destructor removes it.
  // Errors: kAlreadyExists  there is something else at `path`.
  absl::Status listen_on(const std::string& path);

  // Does what there is to do; waits up to `timeout` (negative: for ever) for
  // the first thing.
  absl::Status step(std::chrono::nanoseconds timeout);

  // Serves until `stop` is readable; with a connection and no listening
  // socket, until the connection ends.
  absl::Status run(FdRef stop);

  // Serves on a thread of its own until the destructor or stop_thread().
  absl::Status start_thread();
  void stop_thread();

  // Ends the connection now, as a crash would.
  void hang_up();

  // Tells the front-end that the configuration space changed, as soon as it
  // may: while the device is suspended it is kept.
  void config_changed();

  // From the next request on.
  void set_latency(std::chrono::nanoseconds latency);

  bool connected() const;
  ModelRingState ring(uint32_t index) const;
  ModelCounters counters() const;
  FeatureSet accepted_features() const;
  uint64_t accepted_protocol_features() const;
  uint8_t device_status() const;
  size_t memory_regions() const;
  ModelStateReport state_report() const;

  // The newest trouble (see ModelOptions::on_trouble); empty if there was none.
  std::string trouble() const;

 private:
  class Core;

  absl::Status step_until(std::chrono::nanoseconds timeout, FdRef stop);

  mutable absl::Mutex mutex_;
  std::unique_ptr<Core> core_ ABSL_GUARDED_BY(mutex_);
  absl::Status setup_;  // Why nothing works, if nothing does.
  int poll_fd_ = -1;    // The core's.
  UniqueFd thread_stop_;
  std::thread thread_;
};

}  // namespace vhost::testing

#endif  // VHOSTDEV_TESTING_MODEL_BACKEND_H_
