// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/net_client.h"

#include <sched.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/driver/net_client_impl.h"
#include "hw/driver/net_queue.h"
#include "hw/driver/queue_sleep.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// The payload of the largest MTU, an Ethernet header, a VLAN tag.
constexpr uint32_t kLargestFrame = 0xffff + 18;

// Polls between two looks at the clock.
constexpr int kSpins = 64;
// Idle for this long, a poller gives its processor to others now and then.
constexpr Duration kYieldAfter = std::chrono::microseconds(50);
// How often a waiting poller turns the loop.
constexpr Duration kTurnInterval = std::chrono::milliseconds(1);

MonotonicTime clock_now() { return std::chrono::steady_clock::now(); }

void relax_processor() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Bytes that a buffer may take beyond its size.
constexpr uint64_t kBufferSlack = 256;

}  // namespace

absl::Status NetClient::Impl::check(const VirtioDriver& driver,
                                    const Options& options) {
  const uint32_t queues = driver.started().fixed + driver.started().queues;
  if (queues == 0 || queues % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(queues, " queues are no pairs"));
  }
  const bool mergeable = driver.has(kNetFeatureMrgRxbuf);
  const uint32_t least = kNetHeaderSize + (mergeable ? 1 : options.max_frame);
  if (options.max_frame == 0 || options.max_frame > kLargestFrame ||
      options.buffer_size < least) {
    return absl::InvalidArgumentError(absl::StrCat(
        "frames of ", options.max_frame, " bytes, receive buffers of ",
        options.buffer_size, mergeable ? "" : " without MRG_RXBUF"));
  }
  const uint32_t depth = driver.started().depth;
  if (options.send_depth == 0 || options.send_depth > depth ||
      options.buffers == 0 || options.buffers > depth) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.send_depth, " frames under way and ",
                     options.buffers, " buffers in rings of ", depth));
  }
  if (options.wait_mode == NetClient::WaitMode::kSleep &&
      driver.options().no_call_notifiers) {
    return absl::InvalidArgumentError(
        "without call notifiers nothing wakes it");
  }
  return absl::OkStatus();
}

absl::Status NetClient::Impl::make_queues() {
  const bool mergeable = driver.has(kNetFeatureMrgRxbuf);
  const uint32_t queues = driver.started().fixed + driver.started().queues;
  for (uint32_t i = 0; i < queues; i += 2) {
    absl::StatusOr<QueueHandle> receive = driver.acquire(QueueIndex{i});
    if (!receive.ok()) return receive.status();
    absl::StatusOr<QueueHandle> transmit = driver.acquire(QueueIndex{i + 1});
    if (!transmit.ok()) return transmit.status();
    absl::StatusOr<std::unique_ptr<NetSendQueue>> sender =
        NetSendQueue::create(driver.memory(), *std::move(transmit), options);
    if (!sender.ok()) return sender.status();
    senders.push_back(*std::move(sender));
    // Its buffers are on the ring at once: nothing may fail between.
    absl::StatusOr<std::unique_ptr<NetReceiveQueue>> receiver =
        NetReceiveQueue::create(driver.memory(), *std::move(receive), options,
                                mergeable);
    if (!receiver.ok()) return receiver.status();
    receivers.push_back(*std::move(receiver));
  }
  // ORDER: the device sees no buffer before all are there.
  for (const auto& receiver : receivers) {
    VHOST_RETURN_IF_ERROR(receiver->handle().kick());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<NetClient>> NetClient::create(
    VirtioDriver& driver, const Options& options) {
  VHOST_RETURN_IF_ERROR(annotate(Impl::check(driver, options), "net client"));
  auto impl = std::make_unique<Impl>(driver, options);
  std::unique_ptr<NetClient> out(new NetClient(std::move(impl)));
  VHOST_RETURN_IF_ERROR(annotate(out->impl_->make_queues(), "net client"));
  return out;
}

uint64_t NetClient::memory_for(uint32_t pairs, const Options& options) {
  const auto piece = [](uint64_t count, uint64_t size) {
    return count * (size + kBufferSlack) + kBufferSlack;
  };
  return pairs *
         (piece(options.send_depth, options.max_frame + kNetHeaderSize) +
          piece(options.buffers, options.buffer_size));
}

NetClient::NetClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

NetClient::~NetClient() {
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

uint32_t NetClient::pairs() const {
  return static_cast<uint32_t>(impl_->senders.size());
}

uint32_t NetClient::in_flight() const {
  uint32_t sum = 0;
  for (const auto& sender : impl_->senders) sum += sender->in_flight();
  return sum;
}

uint64_t NetClient::max_received() const {
  const uint64_t buffers =
      impl_->driver.has(kNetFeatureMrgRxbuf) ? impl_->options.buffers : 1;
  return buffers * impl_->options.buffer_size - kNetHeaderSize;
}

const absl::Status& NetClient::status() const { return impl_->status; }

void NetClient::Impl::note_failure(const BufferQueue& queue) {
  status.Update(queue.failure());
}

absl::Status NetClient::send(std::span<const std::byte> frame, uint64_t cookie,
                             uint32_t pair) {
  VHOST_RETURN_IF_ERROR(impl_->status);
  if (pair >= pairs()) {
    return absl::InvalidArgumentError(
        absl::StrCat("pair ", pair, " of ", pairs()));
  }
  if (frame.empty() || frame.size() > impl_->options.max_frame) {
    return absl::InvalidArgumentError(
        absl::StrCat("a frame of ", frame.size(), " bytes: 1 to ",
                     impl_->options.max_frame, " work"));
  }
  return impl_->senders[pair]->send(frame, cookie);
}

absl::Status NetClient::kick() {
  absl::Status first;
  for (const auto& sender : impl_->senders) {
    first.Update(sender->handle().kick());
  }
  return first;
}

size_t NetClient::poll_sent(std::span<NetSent> out) {
  size_t count = 0;
  for (const auto& sender : impl_->senders) {
    count += sender->poll(out.subspan(count));
    impl_->note_failure(*sender);
  }
  return count;
}

size_t NetClient::receive(std::span<NetFrame> out) {
  Impl& impl = *impl_;
  size_t count = 0;
  for (size_t i = 0; i < impl.receivers.size() && count < out.size(); ++i) {
    const uint32_t pair = impl.next_receive;
    impl.next_receive = pair + 1 == pairs() ? 0 : pair + 1;
    count += impl.receivers[pair]->receive(out.subspan(count), pair);
    impl.note_failure(*impl.receivers[pair]);
  }
  return count;
}

bool NetClient::Impl::has_news() {
  bool news = !status.ok();
  for_each_queue([&](BufferQueue& queue) { news = news || queue.has_news(); });
  return news;
}

bool NetClient::wait(Duration timeout) {
  NetClient* const self = this;
  return wait_any(std::span(&self, 1), timeout);
}

bool NetClient::wait_any(std::span<NetClient* const> clients,
                         Duration timeout) {
  const MonotonicTime begin = clock_now();
  const MonotonicTime until = begin + timeout;
  MonotonicTime turned = begin;
  const auto news = [&] {
    return std::any_of(clients.begin(), clients.end(), [](NetClient* client) {
      return client->impl_->has_news();
    });
  };
  bool sleeps = true;
  for (NetClient* client : clients) {
    // A kick that cannot be given shows as frames that do not complete.
    client->kick().IgnoreError();
    sleeps = sleeps && client->impl_->options.wait_mode == WaitMode::kSleep;
  }
  while (true) {
    for (int spin = 0; spin < kSpins; ++spin) {
      if (news()) return true;
      relax_processor();
    }
    const MonotonicTime now = clock_now();
    if (now >= until) return false;
    if (sleeps) {
      sleep(clients, until - now);
    } else if (now - begin >= kYieldAfter) {
      ::sched_yield();
    }
    if (!sleeps && now - turned < kTurnInterval) continue;
    for (NetClient* client : clients) client->impl_->driver.turn_loop();
    turned = now;
  }
}

// Until a device signals, the loop has something to do, or `limit` is over.
void NetClient::sleep(std::span<NetClient* const> clients, Duration limit) {
  QueueSleep sleep;
  sleep.begin();
  for (NetClient* client : clients) {
    client->impl_->for_each_queue(
        [&sleep](BufferQueue& queue) { sleep.add(queue.handle()); });
    sleep.add_loop(client->impl_->driver.loop_fd());
  }
  sleep.until(clock_now() + limit);
}

}  // namespace vhost
