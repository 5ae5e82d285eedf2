// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/vsock_client.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "hw/driver/queue_sleep.h"
#include "hw/driver/vsock_queue.h"
#include "hw/driver/vsock_streams.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

constexpr QueueIndex kReceive{0};
constexpr QueueIndex kTransmit{1};
constexpr QueueIndex kEvent{2};
// As many as Linux has.
constexpr uint32_t kEventBuffers = 8;
constexpr uint32_t kMostStreamBuffer = 1u << 30;

MonotonicTime clock_now() { return std::chrono::steady_clock::now(); }

// Not soon the same again.
uint32_t some_port() {
  return static_cast<uint32_t>(clock_now().time_since_epoch().count() / 1024);
}

uint32_t queues_of(const VirtioDriver& driver) {
  return driver.started().fixed + driver.started().queues;
}

absl::Status check_options(const VirtioDriver& driver,
                           const VsockClient::Options& options) {
  const uint32_t queues = queues_of(driver);
  if (queues != 2 && queues != 3) {
    return absl::InvalidArgumentError(
        absl::StrCat(queues, " queues: a socket device has 2 or 3"));
  }
  if (driver.options().no_call_notifiers) {
    return absl::InvalidArgumentError(
        "without call notifiers nothing wakes it");
  }
  if (options.buffer_size <= kVsockHeaderSize || options.max_payload == 0 ||
      options.max_payload > kMostStreamBuffer || options.stream_buffer == 0 ||
      options.stream_buffer > kMostStreamBuffer) {
    return absl::InvalidArgumentError(absl::StrCat(
        "receive buffers of ", options.buffer_size, " bytes, packets of ",
        options.max_payload, ", streams of ", options.stream_buffer));
  }
  const uint32_t depth = driver.started().depth;
  if (options.send_depth == 0 || options.send_depth > depth ||
      options.buffers == 0 || options.buffers > depth) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.send_depth, " packets under way and ",
                     options.buffers, " buffers in rings of ", depth));
  }
  if (options.guest_cid == 0) return absl::OkStatus();
  return check_guest_cid(options.guest_cid);
}

absl::StatusOr<uint64_t> read_cid(VirtioDriver& driver) {
  std::array<std::byte, kVsockConfigSize> bytes{};
  VHOST_RETURN_IF_ERROR(driver.read_config(0, bytes));
  return decode_vsock_config(bytes);
}

}  // namespace

struct VsockClient::Impl {
  Impl(VirtioDriver& virtio_driver, const Options& chosen)
      : driver(virtio_driver),
        options(chosen),
        streams(chosen, some_port()),
        generation(virtio_driver.config_generation()) {}

  absl::Status make_queues();
  template <typename Visit>
  void for_each_queue(const Visit& visit);
  void fail(const absl::Status& why);
  void begin_anew();
  size_t take_packets();
  bool take_events();
  void take_config();
  bool has_config() const { return driver.options().config_size != 0; }
  bool wants_config() const {
    return has_config() &&
           (cid_unread || driver.config_generation() != generation);
  }
  void send_answers();
  bool has_news();
  void add_queues(QueueSleep& sleep);

  VirtioDriver& driver;
  const Options options;
  VsockStreams streams;
  std::unique_ptr<VsockReceiveQueue> receiver;
  std::unique_ptr<VsockSendQueue> sender;
  std::unique_ptr<VsockReceiveQueue> events;  // Null: no event queue.
  std::vector<std::byte> packet;              // The one that is looked at.
  uint32_t generation;       // Of the configuration space that was read.
  bool cid_unread = false;   // An event says that it may be another one.
  bool driver_busy = false;  // When the CID was to be read.
  absl::Status status;
};

absl::Status VsockClient::Impl::make_queues() {
  absl::StatusOr<QueueHandle> transmit = driver.acquire(kTransmit);
  if (!transmit.ok()) return transmit.status();
  absl::StatusOr<std::unique_ptr<VsockSendQueue>> made_sender =
      VsockSendQueue::create(driver.memory(), *std::move(transmit),
                             options.send_depth, options.max_payload);
  if (!made_sender.ok()) return made_sender.status();
  sender = *std::move(made_sender);

  // Buffers are on a ring at once: the device must not see them before all is
  // made, so that those of a client that fails are taken back unseen.
  const auto make = [this](QueueIndex vq, uint32_t buffers, uint32_t size,
                           std::unique_ptr<VsockReceiveQueue>& out) {
    absl::StatusOr<QueueHandle> handle = driver.acquire(vq);
    if (!handle.ok()) return handle.status();
    absl::StatusOr<std::unique_ptr<VsockReceiveQueue>> made =
        VsockReceiveQueue::create(driver.memory(), *std::move(handle), buffers,
                                  size);
    if (made.ok()) out = *std::move(made);
    return made.status();
  };
  VHOST_RETURN_IF_ERROR(
      make(kReceive, options.buffers, options.buffer_size, receiver));
  if (queues_of(driver) > 2) {
    const uint32_t buffers = std::min(kEventBuffers, driver.started().depth);
    VHOST_RETURN_IF_ERROR(make(kEvent, buffers, kVsockEventSize, events));
    VHOST_RETURN_IF_ERROR(events->handle().kick());
  }
  return receiver->handle().kick();
}

template <typename Visit>
void VsockClient::Impl::for_each_queue(const Visit& visit) {
  if (receiver != nullptr) visit(*receiver);
  if (sender != nullptr) visit(*sender);
  if (events != nullptr) visit(*events);
}

absl::StatusOr<std::unique_ptr<VsockClient>> VsockClient::create(
    VirtioDriver& driver, const Options& options) {
  VHOST_RETURN_IF_ERROR(
      annotate(check_options(driver, options), "vsock client"));
  Options chosen = options;
  if (chosen.guest_cid == 0) {
    const absl::StatusOr<uint64_t> cid = read_cid(driver);
    if (!cid.ok()) return annotate(cid.status(), "vsock client");
    chosen.guest_cid = *cid;
  }
  std::unique_ptr<VsockClient> out(
      new VsockClient(std::make_unique<Impl>(driver, chosen)));
  VHOST_RETURN_IF_ERROR(annotate(out->impl_->make_queues(), "vsock client"));
  return out;
}

VsockClient::VsockClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

VsockClient::~VsockClient() {
  // A stopped device, or one that died, leaves the buffers alone.
  const absl::Status& stop = impl_->driver.last_stop().status;
  const bool confirmed = stop.ok() || absl::IsUnavailable(stop);
  impl_->for_each_queue([&](BufferQueue& queue) {
    const absl::Status lost = queue.handle().lost_status();
    const bool over =
        absl::IsFailedPrecondition(queue.handle().ring().status());
    const bool stopped = over && confirmed && lost.ok();
    const bool gone = absl::IsUnavailable(lost) || outcome_unknown(lost);
    if (!stopped && !gone) queue.abandon_memory();
  });
}

// The first reason counts.
void VsockClient::Impl::fail(const absl::Status& why) {
  if (!status.ok() || why.ok()) return;
  status = why;
  streams.close_all(why);
}

// Packets are left on the ring while answers to earlier ones find no room: so
// a device cannot have us keep more than those.
size_t VsockClient::Impl::take_packets() {
  size_t count = 0;
  while (status.ok() && streams.may_take() && receiver->receive(packet)) {
    const absl::StatusOr<VsockHeader> header = decode_vsock_header(packet);
    if (!header.ok()) {
      fail(annotate(header.status(), "vq 0"));
      break;
    }
    streams.take(*header,
                 std::span(packet).subspan(kVsockHeaderSize, header->length));
    ++count;
    send_answers();
  }
  return count;
}

// Whether there were any.
bool VsockClient::Impl::take_events() {
  bool any = false;
  while (events != nullptr && status.ok() && events->receive(packet)) {
    const absl::Status known = check_vsock_event(packet);
    any = true;
    if (!known.ok()) {
      fail(annotate(known, "vq 2"));
      break;
    }
    streams.transport_reset(streams.guest_cid());
    cid_unread = has_config();
  }
  return any;
}

// A device may announce the change of its configuration before the event that
// belongs to it, or behind.
void VsockClient::Impl::take_config() {
  if (!status.ok() || !wants_config()) return;
  const uint32_t before = driver.config_generation();
  const absl::StatusOr<uint64_t> cid = read_cid(driver);
  driver_busy = absl::IsFailedPrecondition(cid.status());
  if (driver_busy) return;  // The next poll() tries again.
  generation = before;
  cid_unread = false;
  if (!cid.ok()) return fail(annotate(cid.status(), "vsock client"));
  if (*cid != streams.guest_cid()) streams.transport_reset(*cid);
}

void VsockClient::Impl::send_answers() {
  while (status.ok() && sender->room() != 0) {
    const std::optional<VsockHeader> next = streams.next_answer();
    if (!next.has_value()) return;
    fail(sender->send(*next, {}));
  }
}

// A device that was reset knows no connection.
void VsockClient::Impl::begin_anew() {
  bool any = false;
  for_each_queue([&any](auto& queue) {
    if (!queue.renewable()) return;
    queue.begin_anew();
    any = true;
  });
  if (!any) return;
  streams.transport_reset(streams.guest_cid());
  cid_unread = has_config();
}

size_t VsockClient::poll() {
  Impl& impl = *impl_;
  impl.begin_anew();
  impl.sender->collect();
  // ORDER: a reset of the transport before the packets of the new one.
  const bool had_events = impl.take_events();
  impl.take_config();
  impl.send_answers();
  const size_t count = impl.take_packets();
  // What completed before the end of the back-end counts.
  impl.for_each_queue([&](BufferQueue& queue) { impl.fail(queue.failure()); });
  // A kick that cannot be given shows as packets that do not arrive.
  if (impl.status.ok()) {
    if (count != 0) impl.receiver->handle().kick().IgnoreError();
    if (had_events) impl.events->handle().kick().IgnoreError();
    kick().IgnoreError();
  }
  return count;
}

absl::Status VsockClient::kick() {
  VHOST_RETURN_IF_ERROR(impl_->status);
  impl_->send_answers();
  return impl_->sender->handle().kick();
}

bool VsockClient::Impl::has_news() {
  if (!status.ok() || sender->has_news()) return true;
  if (wants_config() && !driver_busy) return true;
  if (events != nullptr && events->has_news()) return true;
  return streams.may_take() && receiver->has_news();
}

// Those has_news() looks at: others would not let it sleep.
void VsockClient::Impl::add_queues(QueueSleep& sleep) {
  sleep.add(sender->handle());
  if (events != nullptr) sleep.add(events->handle());
  if (streams.may_take()) sleep.add(receiver->handle());
}

bool VsockClient::wait(Duration timeout) {
  const MonotonicTime until = clock_now() + timeout;
  // A kick that cannot be given shows as packets that do not arrive.
  kick().IgnoreError();
  while (!impl_->has_news()) {
    if (clock_now() >= until) return false;
    QueueSleep sleep;
    sleep.begin();
    impl_->add_queues(sleep);
    sleep.add_loop(impl_->driver.loop_fd());
    sleep.until(until);
    impl_->driver.turn_loop();
    impl_->driver_busy = false;  // Perhaps: poll() finds out.
  }
  return true;
}

uint64_t VsockClient::guest_cid() const { return impl_->streams.guest_cid(); }

absl::StatusOr<VsockStream> VsockClient::connect(const VsockAddress& peer,
                                                 uint32_t local_port) {
  VHOST_RETURN_IF_ERROR(impl_->status);
  return impl_->streams.connect(peer, local_port);
}

absl::Status VsockClient::listen(uint32_t port) {
  return impl_->streams.listen(port);
}

void VsockClient::stop_listening(uint32_t port) {
  impl_->streams.stop_listening(port);
}

std::optional<VsockStream> VsockClient::accept(uint32_t port) {
  return impl_->streams.accept(port);
}

absl::StatusOr<size_t> VsockClient::send(VsockStream stream,
                                         std::span<const std::byte> bytes) {
  Impl& impl = *impl_;
  VHOST_RETURN_IF_ERROR(impl.status);
  size_t sent = 0;
  while (sent < bytes.size()) {
    if (impl.sender->room() == 0) impl.sender->collect();
    impl.send_answers();
    VHOST_RETURN_IF_ERROR(impl.status);
    const auto wanted = static_cast<uint32_t>(
        std::min<size_t>(bytes.size() - sent, impl.options.max_payload));
    const absl::StatusOr<uint32_t> size =
        impl.streams.begin_data(stream, wanted);
    if (!size.ok()) return size.status();
    if (*size == 0 || impl.sender->room() == 0) break;
    const VsockHeader header = impl.streams.data(stream, *size);
    impl.fail(impl.sender->send(header, bytes.subspan(sent, *size)));
    VHOST_RETURN_IF_ERROR(impl.status);
    sent += *size;
  }
  return sent;
}

absl::StatusOr<size_t> VsockClient::receive(VsockStream stream,
                                            std::span<std::byte> out) {
  return impl_->streams.receive(stream, out);
}

absl::Status VsockClient::shutdown(VsockStream stream, bool receive,
                                   bool send) {
  VHOST_RETURN_IF_ERROR(impl_->status);
  const uint32_t flags =
      (receive ? kVsockShutdownReceive : 0) | (send ? kVsockShutdownSend : 0);
  return impl_->streams.shutdown(stream, flags);
}

void VsockClient::close(VsockStream stream) { impl_->streams.close(stream); }

std::optional<VsockStreamInfo> VsockClient::info(VsockStream stream) const {
  return impl_->streams.info(stream);
}

void VsockClient::transport_reset(uint64_t guest_cid) {
  impl_->streams.transport_reset(guest_cid);
}

uint64_t VsockClient::stray_packets() const { return impl_->streams.stray(); }

const absl::Status& VsockClient::status() const { return impl_->status; }

}  // namespace vhost
