// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_MODEL_SESSION_H_
#define TESTS_FAKES_MODEL_SESSION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "backends/user/message_table.h"
#include "tests/fakes/model_socket.h"
#include "tests/fakes/model_state.h"
#include "tests/fakes/model_vring.h"
#include "vhostdev/features.h"
#include "vhostdev/unique_fd.h"

namespace vhost::testing {

// The features of rings and transport, and the protocol features, that the
// model can do and was not told to hide.
FeatureSet model_features(const ModelEnvironment& environment);
uint64_t model_protocol_features(const ModelEnvironment& environment);

// One connection with a front-end, from its first message to its end.
class ModelSession final : public ModelVringHost {
 public:
  ModelSession(UniqueFd socket, ModelEnvironment* environment);
  ~ModelSession() override;

  // Begins to watch the connection.
  absl::Status open();

  // Something of the connection's is ready.
  void on_event(const ModelEvent& event);
  // Does what can be done now.  An error is the connection's end:
  // kUnavailable  the front-end is gone.
  // any other     the model hangs up, and why.
  absl::Status progress(ModelTime now);
  // When there is something to do without an event: empty for never.
  std::optional<ModelTime> wake_at(ModelTime now) const;
  bool polls() const;
  bool dead() const { return environment_->stores.dead(); }

  void config_changed() { config_changed_ = true; }

  ModelRingState ring(uint32_t index) const;
  FeatureSet accepted() const { return context_.features; }
  uint64_t accepted_protocol() const { return protocol_; }
  uint8_t status() const { return status_; }
  size_t memory_regions() const { return context_.memory.regions(); }

  // ModelVringHost.
  bool driver_ok() const override;
  void call_in_band(uint32_t vring) override;
  void vring_broke(uint32_t vring, bool told) override;

 private:
  using Body = std::vector<std::byte>;
  using Answer = absl::StatusOr<Body>;
  using Request = user::Request;
  struct Rule;
  static const Rule rules[];

  // model_session.cc: messages in general.
  absl::Status receive(ModelTime now);
  absl::Status execute(ModelFrame& message);
  absl::Status refuse(const ModelFrame& message, const absl::Status& why);
  absl::Status check(const Rule& rule, const ModelFrame& message) const;
  absl::Status check_header(const ModelFrame& message) const;
  bool quiet_for(const ModelFrame& message);
  bool serve_rings(ModelTime now);
  void watch_socket();
  bool has_protocol(unsigned bit) const { return (protocol_ >> bit & 1) != 0; }
  bool suspended() const;

  // model_channel.cc: the back-end's own messages.
  void send_own_messages();
  void on_channel();
  void drop_channel(const absl::Status& why);
  void tell_ring(user::BackendRequest what, uint32_t vring);

  // model_session_setup.cc
  Answer get_features(ModelFrame& message);
  Answer set_features(ModelFrame& message);
  Answer get_protocol_features(ModelFrame& message);
  Answer set_protocol_features(ModelFrame& message);
  Answer accept(ModelFrame& message);
  Answer reset_owner(ModelFrame& message);
  Answer get_queue_num(ModelFrame& message);
  Answer set_backend_req_fd(ModelFrame& message);
  Answer get_config(ModelFrame& message);
  Answer set_config(ModelFrame& message);
  Answer reset_device(ModelFrame& message);
  Answer set_status(ModelFrame& message);
  Answer get_status(ModelFrame& message);
  Answer send_rarp(ModelFrame& message);
  Answer net_set_mtu(ModelFrame& message);
  void reset_all();

  // model_session_rings.cc
  Answer set_mem_table(ModelFrame& message);
  Answer get_max_mem_slots(ModelFrame& message);
  Answer add_mem_reg(ModelFrame& message);
  Answer rem_mem_reg(ModelFrame& message);
  Answer set_log_base(ModelFrame& message);
  Answer set_log_fd(ModelFrame& message);
  Answer set_vring_num(ModelFrame& message);
  Answer set_vring_addr(ModelFrame& message);
  Answer set_vring_base(ModelFrame& message);
  Answer get_vring_base(ModelFrame& message);
  Answer set_vring_kick(ModelFrame& message);
  Answer set_vring_call(ModelFrame& message);
  Answer set_vring_err(ModelFrame& message);
  Answer set_vring_enable(ModelFrame& message);
  Answer vring_kick(ModelFrame& message);
  // model_session_inflight.cc
  Answer get_inflight_fd(ModelFrame& message);
  Answer set_inflight_fd(ModelFrame& message);
  bool leaves_inflight(uint64_t index) const;

  // model_session_state.cc
  Answer set_device_state_fd(ModelFrame& message);
  Answer check_device_state(ModelFrame& message);
  bool busy_with_state() const;
  bool is_ignored(const ModelFrame& message) const;
  void note_interruption(const ModelFrame& message);
  absl::Status move_state(ModelTime now);
  void drop_state();

  absl::StatusOr<ModelVring*> vring(uint64_t index);
  absl::Status use_memory(ModelMemory memory);

  ModelEnvironment* environment_;
  ModelSocket socket_;
  std::optional<ModelSocket> channel_;
  ModelRingContext context_;
  std::vector<std::unique_ptr<ModelVring>> vrings_;
  uint64_t protocol_ = 0;
  uint8_t status_ = 0;

  std::shared_ptr<ModelMapping> inflight_;
  std::optional<ModelStateMove> state_;
  bool state_watched_ = false;
  UniqueFd answer_fd_;  // To go with the answer under way.

  uint64_t messages_ = 0;
  std::optional<ModelFrame> message_;  // Received, waits to be executed.
  ModelMessage about_;                 // It.
  ModelTime message_due_;
  bool message_refused_ = false;
  bool hung_up_ = false;
  bool more_ = false;  // Some ring had more to do than one round takes.
  bool watched_readable_ = true;
  bool watched_writable_ = false;

  bool config_changed_ = false;
  std::set<uint32_t> calls_to_tell_;
  std::set<uint32_t> errors_to_tell_;
};

}  // namespace vhost::testing

#endif  // TESTS_FAKES_MODEL_SESSION_H_
