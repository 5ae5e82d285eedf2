// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/model_session.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "backends/user/wire.h"
#include "vhostdev/status.h"
#include "vhostdev/virtio_device.h"

namespace vhost::testing {
namespace {

namespace wire = user::wire;

// How many messages are executed before the rings get their turn.
constexpr int kMessagesPerRound = 64;
constexpr unsigned kAlways = std::numeric_limits<unsigned>::max();

}  // namespace

// What the specification allows, read from the back-end's side.
struct ModelSession::Rule {
  Request id;
  uint32_t min_size;  // Of the payload.
  uint32_t max_size;
  uint32_t min_fds;
  uint32_t max_fds;
  bool replies;  // With a body of its own.
  Answer (ModelSession::*handler)(ModelFrame&);
  unsigned protocol_feature = kAlways;
  // Offering the feature is enough, it need not be accepted.
  bool if_offered = false;
};

// clang-format off
const ModelSession::Rule ModelSession::rules[] = {
    {Request::kGetFeatures, 0, 0, 0, 0, true, &ModelSession::get_features},
    {Request::kSetFeatures, 8, 8, 0, 0, false, &ModelSession::set_features},
    {Request::kSetOwner, 0, 0, 0, 0, false, &ModelSession::accept},
    {Request::kResetOwner, 0, 0, 0, 0, false, &ModelSession::reset_owner},
    {Request::kSetMemTable, 8, 264, 0, 8, false, &ModelSession::set_mem_table},
    {Request::kSetLogBase, 16, 16, 1, 1, true, &ModelSession::set_log_base,
     kProtocolLogShmfd},
    {Request::kSetLogFd, 0, 0, 1, 1, false, &ModelSession::set_log_fd},
    {Request::kSetVringNum, 8, 8, 0, 0, false, &ModelSession::set_vring_num},
    {Request::kSetVringAddr, 40, 40, 0, 0, false,
     &ModelSession::set_vring_addr},
    {Request::kSetVringBase, 8, 8, 0, 0, false, &ModelSession::set_vring_base},
    {Request::kGetVringBase, 8, 8, 0, 0, true, &ModelSession::get_vring_base},
    {Request::kSetVringKick, 8, 8, 0, 1, false, &ModelSession::set_vring_kick},
    {Request::kSetVringCall, 8, 8, 0, 1, false, &ModelSession::set_vring_call},
    {Request::kSetVringErr, 8, 8, 0, 1, false, &ModelSession::set_vring_err},
    {Request::kGetProtocolFeatures, 0, 0, 0, 0, true,
     &ModelSession::get_protocol_features},
    {Request::kSetProtocolFeatures, 8, 8, 0, 0, false,
     &ModelSession::set_protocol_features},
    {Request::kGetQueueNum, 0, 0, 0, 0, true, &ModelSession::get_queue_num,
     kProtocolMq, true},
    {Request::kSetVringEnable, 8, 8, 0, 0, false,
     &ModelSession::set_vring_enable},
    {Request::kSetBackendReqFd, 0, 0, 1, 1, false,
     &ModelSession::set_backend_req_fd, kProtocolBackendReq, true},
    {Request::kGetConfig, 12, 268, 0, 0, true, &ModelSession::get_config,
     kProtocolConfig},
    {Request::kSetConfig, 12, 268, 0, 0, false, &ModelSession::set_config,
     kProtocolConfig},
    {Request::kResetDevice, 0, 0, 0, 0, false, &ModelSession::reset_device,
     kProtocolResetDevice, true},
    {Request::kGetInflightFd, 20, 24, 0, 0, true,
     &ModelSession::get_inflight_fd, kProtocolInflightShmfd},
    {Request::kSetInflightFd, 20, 24, 1, 1, false,
     &ModelSession::set_inflight_fd, kProtocolInflightShmfd},
    {Request::kVringKick, 8, 8, 0, 0, false, &ModelSession::vring_kick,
     kProtocolInbandNotifications},
    {Request::kGetMaxMemSlots, 0, 0, 0, 0, true,
     &ModelSession::get_max_mem_slots, kProtocolConfigureMemSlots},
    {Request::kAddMemReg, 40, 40, 1, 1, false, &ModelSession::add_mem_reg,
     kProtocolConfigureMemSlots},
    // One descriptor is forgiven, and closed.
    {Request::kRemMemReg, 40, 40, 0, 1, false, &ModelSession::rem_mem_reg,
     kProtocolConfigureMemSlots},
    {Request::kSetStatus, 8, 8, 0, 0, false, &ModelSession::set_status,
     kProtocolStatus},
    {Request::kGetStatus, 0, 0, 0, 0, true, &ModelSession::get_status,
     kProtocolStatus},
    {Request::kSendRarp, 8, 8, 0, 0, false, &ModelSession::send_rarp,
     kProtocolRarp},
    {Request::kNetSetMtu, 8, 8, 0, 0, false, &ModelSession::net_set_mtu,
     kProtocolMtu},
    {Request::kSetDeviceStateFd, 8, 8, 1, 1, true,
     &ModelSession::set_device_state_fd, kProtocolDeviceState},
    {Request::kCheckDeviceState, 0, 0, 0, 0, true,
     &ModelSession::check_device_state, kProtocolDeviceState},
};
// clang-format on

FeatureSet model_features(const ModelEnvironment& environment) {
  FeatureSet all = environment.device->features();
  all.set(kFeatureLogAll);
  all.set(kFeatureIndirectDesc);
  all.set(kFeatureEventIdx);
  all.set(kFeatureProtocolFeatures);
  all.set(kFeatureVersion1);
  return all - environment.options.without_features;
}

uint64_t model_protocol_features(const ModelEnvironment& environment) {
  const ModelOptions& options = environment.options;
  uint64_t all = environment.device->protocol_features();
  for (const unsigned bit :
       {kProtocolMq, kProtocolLogShmfd, kProtocolReplyAck, kProtocolBackendReq,
        kProtocolConfig, kProtocolBackendSendFd, kProtocolInflightShmfd,
        kProtocolResetDevice, kProtocolConfigureMemSlots, kProtocolStatus}) {
    all |= user::bit_mask(bit);
  }
  if (options.inband_notifications) {
    all |= user::bit_mask(kProtocolInbandNotifications);
  }
  if (options.vring_base_inflight) {
    all |= user::bit_mask(kProtocolGetVringBaseInflight);
  }
  if (options.state.offered) all |= user::bit_mask(kProtocolDeviceState);
  return all & ~options.without_protocol_features;
}

ModelSession::ModelSession(UniqueFd socket, ModelEnvironment* environment)
    : environment_(environment), socket_(std::move(socket)) {
  for (uint32_t i = 0; i < environment->options.queues; ++i) {
    vrings_.push_back(
        std::make_unique<ModelVring>(i, environment, this, &context_));
  }
  context_.stores = &environment->stores;
  environment->device->accept_features({});
}

ModelSession::~ModelSession() {
  for (const auto& vring : vrings_) vring->stop();
  if (channel_.has_value()) environment_->poller.remove(channel_->fd());
  drop_state();
  environment_->poller.remove(socket_.fd());
}

absl::Status ModelSession::open() {
  return environment_->poller.add(socket_.fd(), ModelWatch::kSocket);
}

void ModelSession::on_event(const ModelEvent& event) {
  if (event.watch == ModelWatch::kSocket && event.hung_up) hung_up_ = true;
  if (event.watch == ModelWatch::kChannel) on_channel();
  if (event.watch == ModelWatch::kKick && event.index < vrings_.size()) {
    vrings_[event.index]->on_kick();
  }
}

absl::Status ModelSession::progress(ModelTime now) {
  VHOST_RETURN_IF_ERROR(socket_.flush());
  serve_rings(now);
  VHOST_RETURN_IF_ERROR(move_state(now));
  for (int i = 0; i < kMessagesPerRound && socket_.flushed(); ++i) {
    if (busy_with_state()) break;
    if (!message_.has_value()) VHOST_RETURN_IF_ERROR(receive(now));
    if (!message_.has_value()) break;
    if (now < message_due_ || !quiet_for(*message_)) {
      if (hung_up_) return absl::UnavailableError("the front-end hung up");
      break;
    }
    if (dead()) break;
    VHOST_RETURN_IF_ERROR(execute(*message_));
    message_.reset();
    for (const auto& vring : vrings_) vring->hold(false);
    if (environment_->options.on_handled) {
      environment_->options.on_handled(about_);
    }
  }
  VHOST_RETURN_IF_ERROR(move_state(now));
  more_ = serve_rings(now);
  if (dead()) return absl::CancelledError("killed");
  send_own_messages();
  watch_socket();
  return absl::OkStatus();
}

bool ModelSession::serve_rings(ModelTime now) {
  bool more = false;
  for (const auto& vring : vrings_) more = vring->serve(now) || more;
  return more;
}

absl::Status ModelSession::receive(ModelTime now) {
  absl::StatusOr<std::optional<ModelFrame>> frame = socket_.receive();
  if (!frame.ok()) return frame.status();
  if (!frame->has_value()) return absl::OkStatus();
  message_ = **std::move(frame);
  message_due_ = now;
  message_refused_ = false;
  ++environment_->counters.messages;
  about_ = {.number = messages_++,
            .request = message_->header.request,
            .need_reply = (message_->header.flags & wire::kNeedReplyFlag) != 0,
            .fds = message_->fds.size()};
  if (!environment_->options.on_message) return absl::OkStatus();
  const ModelVerdict verdict = environment_->options.on_message(about_);
  if (verdict.kind == ModelVerdict::Kind::kHangUp) {
    return absl::CancelledError(
        absl::StrCat("hung up before message ", about_.number));
  }
  message_refused_ = verdict.kind == ModelVerdict::Kind::kRefuse;
  message_due_ += verdict.delay;
  return absl::OkStatus();
}

// Whether the requests that `message` must not overtake are complete.  Until
// then no new ones are taken.
bool ModelSession::quiet_for(const ModelFrame& message) {
  const auto quiet = [](const std::unique_ptr<ModelVring>& vring) {
    vring->hold(true);
    return vring->in_flight() == 0;
  };
  switch (static_cast<Request>(message.header.request)) {
    case Request::kGetVringBase: {
      const auto state = wire::read_prefix<wire::VringState>(message.payload);
      return !state.has_value() || state->index >= vrings_.size() ||
             leaves_inflight(state->index) || quiet(vrings_[state->index]);
    }
    // Whoever takes memory away, or resets, may use it for something else as
    // soon as we have answered.
    case Request::kSetMemTable:
    case Request::kRemMemReg:
    case Request::kResetDevice:
    case Request::kSetStatus:
      return std::count_if(vrings_.begin(), vrings_.end(), quiet) ==
             static_cast<ptrdiff_t>(vrings_.size());
    default:
      return true;
  }
}

absl::Status ModelSession::check_header(const ModelFrame& message) const {
  const uint32_t flags = message.header.flags;
  if ((flags & wire::kVersionMask) != wire::kVersion) {
    return absl::DataLossError(
        absl::StrCat("message of version ", flags & wire::kVersionMask));
  }
  if ((flags & wire::kReplyFlag) != 0) {
    return absl::DataLossError("a reply where a request is due");
  }
  if ((flags & wire::kNeedReplyFlag) != 0 && !has_protocol(kProtocolReplyAck)) {
    return absl::DataLossError("need_reply without REPLY_ACK");
  }
  return absl::OkStatus();
}

absl::Status ModelSession::check(const Rule& rule,
                                 const ModelFrame& message) const {
  if (rule.protocol_feature != kAlways) {
    const uint64_t usable =
        rule.if_offered ? model_protocol_features(*environment_) : protocol_;
    if ((usable & user::bit_mask(rule.protocol_feature)) == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          protocol_feature_name(rule.protocol_feature), " was not negotiated"));
    }
  }
  const size_t size = message.payload.size();
  if (size < rule.min_size || size > rule.max_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("a payload of ", size, " bytes"));
  }
  const size_t fds = message.fds.size();
  if (fds < rule.min_fds || fds > rule.max_fds) {
    return absl::InvalidArgumentError(absl::StrCat(fds, " descriptors"));
  }
  return absl::OkStatus();
}

absl::Status ModelSession::execute(ModelFrame& message) {
  const uint32_t id = message.header.request;
  VHOST_RETURN_IF_ERROR(
      annotate(check_header(message), user::frontend_message_name(id)));
  const auto* rule = std::find_if(
      std::begin(rules), std::end(rules),
      [id](const Rule& one) { return user::to_int(one.id) == id; });
  if (rule == std::end(rules)) {
    return refuse(message, absl::UnimplementedError("unknown"));
  }
  if (is_ignored(message)) return absl::OkStatus();
  note_interruption(message);
  if (message_refused_) {
    return refuse(message, absl::CancelledError("refused on purpose"));
  }
  const absl::Status status = check(*rule, message);
  if (!status.ok()) return refuse(message, status);
  const Answer answer = (this->*rule->handler)(message);
  if (!answer.ok()) return refuse(message, answer.status());
  const uint32_t flags = wire::kVersion | wire::kReplyFlag;
  if (rule->replies) {
    return socket_.send(id, flags, *answer, std::move(answer_fd_));
  }
  if ((message.header.flags & wire::kNeedReplyFlag) == 0) {
    return absl::OkStatus();
  }
  const uint64_t success = 0;
  return socket_.send(id, flags, wire::bytes_of(success));
}

absl::Status ModelSession::refuse(const ModelFrame& message,
                                  const absl::Status& why) {
  const uint32_t id = message.header.request;
  const absl::Status named = annotate(why, user::frontend_message_name(id));
  ++environment_->counters.refused;
  const uint32_t flags = wire::kVersion | wire::kReplyFlag;
  if (id == user::to_int(Request::kGetConfig)) {
    environment_->tell(std::string(named.message()));
    return socket_.send(id, flags, {});  // Its own way to say no.
  }
  const auto* rule = std::find_if(
      std::begin(rules), std::end(rules),
      [id](const Rule& one) { return user::to_int(one.id) == id; });
  const bool replies = rule != std::end(rules) && rule->replies;
  if (replies || (message.header.flags & wire::kNeedReplyFlag) == 0) {
    return named;  // There is no way to say no but to hang up.
  }
  environment_->tell(std::string(named.message()));
  const uint64_t failure = 1;
  return socket_.send(id, flags, wire::bytes_of(failure));
}

void ModelSession::watch_socket() {
  const bool readable =
      !message_.has_value() && socket_.flushed() && !busy_with_state();
  const bool writable = !socket_.flushed();
  if (readable == watched_readable_ && writable == watched_writable_) return;
  environment_->poller.change(socket_.fd(), ModelWatch::kSocket, readable,
                              writable);
  watched_readable_ = readable;
  watched_writable_ = writable;
}

std::optional<ModelTime> ModelSession::wake_at(ModelTime now) const {
  if (more_) return now;
  std::optional<ModelTime> first;
  const auto note = [&first](ModelTime when) {
    if (!first.has_value() || when < *first) first = when;
  };
  if (message_.has_value() && message_due_ > now) note(message_due_);
  if (state_.has_value() && !state_->over() && !state_watched_ &&
      state_->waits()) {
    note(state_->start());
  }
  for (const auto& vring : vrings_) {
    if (const auto due = vring->due(); due.has_value()) note(*due);
  }
  return first;
}

bool ModelSession::polls() const {
  return std::any_of(vrings_.begin(), vrings_.end(),
                     [](const auto& vring) { return vring->polled(); });
}

bool ModelSession::suspended() const {
  return std::none_of(vrings_.begin(), vrings_.end(),
                      [](const auto& vring) { return vring->started(); });
}

ModelRingState ModelSession::ring(uint32_t index) const {
  if (index >= vrings_.size()) return {};
  return vrings_[index]->state();
}

bool ModelSession::driver_ok() const {
  return !has_protocol(kProtocolStatus) || (status_ & kStatusDriverOk) != 0;
}

}  // namespace vhost::testing
