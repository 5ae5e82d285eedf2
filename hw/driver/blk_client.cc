// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/blk_client.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "hw/driver/blk_client_impl.h"
#include "hw/driver/blk_queue.h"
#include "hw/driver/blk_request.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Polls between two looks at the clock.
constexpr int kSpins = 64;
// Idle for this long, a poller gives its processor to others now and then.
constexpr Duration kYieldAfter = std::chrono::microseconds(50);
// How often a waiting poller turns the loop.
constexpr Duration kTurnInterval = std::chrono::milliseconds(1);

// Bytes that an allocation may take beyond its size.
constexpr uint64_t kPieceSlack = 256;

MonotonicTime clock_now() { return std::chrono::steady_clock::now(); }

void relax_processor() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

absl::StatusOr<BlkConfig> read_blk_config(VirtioDriver& driver) {
  std::array<std::byte, kBlkConfigSize> bytes{};
  const auto known = std::span(bytes).first(
      std::min(kBlkConfigSize, driver.options().config_size));
  VHOST_RETURN_IF_ERROR(driver.read_config(0, known));
  return decode_blk_config(driver.negotiated().features, known);
}

}  // namespace

absl::Status BlkClient::Impl::check(const VirtioDriver& driver, size_t queues,
                                    const Options& options) {
  if (options.depth == 0 || options.depth > kMaxSplitRingSize || queues == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "block client: depth ", options.depth, ", ", queues, " queues"));
  }
  if (options.wait_mode == WaitMode::kSleep &&
      driver.options().no_call_notifiers) {
    return absl::InvalidArgumentError(
        "block client: without call notifiers nothing wakes it");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<BlkClient>> BlkClient::create(
    VirtioDriver& driver, const Options& options) {
  const absl::StatusOr<BlkConfig> config = read_blk_config(driver);
  if (!config.ok()) return config.status();
  std::vector<QueueHandle> queues;
  for (uint32_t i = 0; i < driver.started().queues; ++i) {
    absl::StatusOr<QueueHandle> queue = driver.acquire(QueueIndex{i});
    if (!queue.ok()) return queue.status();
    queues.push_back(*std::move(queue));
  }
  return create(driver, std::move(queues), *config, options);
}

absl::StatusOr<std::unique_ptr<BlkClient>> BlkClient::create(
    VirtioDriver& driver, std::vector<QueueHandle> queues,
    const BlkConfig& config, const Options& options) {
  VHOST_RETURN_IF_ERROR(Impl::check(driver, queues.size(), options));
  auto impl = std::make_unique<Impl>(driver, config, options);
  absl::StatusOr<DmaBuffer> id = driver.memory().allocate(kBlkIdSize);
  if (!id.ok()) return annotate(id.status(), "block client");
  impl->id = *std::move(id);
  for (QueueHandle& handle : queues) {
    absl::StatusOr<std::unique_ptr<BlkQueue>> queue =
        BlkQueue::create(driver.memory(), std::move(handle), options.depth);
    if (!queue.ok()) return annotate(queue.status(), "block client");
    impl->queues.push_back(*std::move(queue));
  }
  return std::unique_ptr<BlkClient>(new BlkClient(std::move(impl)));
}

uint64_t BlkClient::memory_for(uint32_t queues, const Options& options) {
  // Each piece is rounded up to its alignment.
  return kPieceSlack + kBlkIdSize +
         queues * (uint64_t{sizeof(BlkWire)} * options.depth + kPieceSlack);
}

BlkClient::BlkClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

BlkClient::~BlkClient() = default;

const BlkConfig& BlkClient::config() const { return impl_->config; }
uint32_t BlkClient::queue_count() const {
  return static_cast<uint32_t>(impl_->queues.size());
}
uint32_t BlkClient::in_flight() const { return impl_->in_flight(); }
uint32_t BlkClient::in_flight(uint32_t queue) const {
  return queue < queue_count() ? impl_->queues[queue]->in_flight() : 0;
}
const absl::Status& BlkClient::status() const { return impl_->status; }

uint32_t BlkClient::Impl::in_flight() const {
  uint32_t sum = 0;
  for (const std::unique_ptr<BlkQueue>& queue : queues) {
    sum += queue->in_flight();
  }
  return sum;
}

void BlkClient::Impl::note_failure() {
  for (const std::unique_ptr<BlkQueue>& queue : queues) {
    status.Update(queue->failure());
  }
}

absl::Status BlkClient::submit(const BlkRequest& request) {
  Impl& impl = *impl_;
  VHOST_RETURN_IF_ERROR(impl.status);
  VHOST_RETURN_IF_ERROR(check_blk_request(impl.config, request));
  absl::Status status;
  for (size_t tries = impl.queues.size(); tries != 0; --tries) {
    BlkQueue& queue = *impl.queues[impl.next_submit];
    impl.next_submit =
        impl.next_submit + 1 == impl.queues.size() ? 0 : impl.next_submit + 1;
    status = queue.submit(request);
    if (!absl::IsResourceExhausted(status)) return status;
  }
  return status;
}

absl::Status BlkClient::submit(const BlkRequest& request, uint32_t queue) {
  VHOST_RETURN_IF_ERROR(impl_->status);
  if (queue >= queue_count()) {
    return absl::InvalidArgumentError(
        absl::StrCat("queue ", queue, " of ", queue_count()));
  }
  VHOST_RETURN_IF_ERROR(check_blk_request(impl_->config, request));
  return impl_->queues[queue]->submit(request);
}

absl::Status BlkClient::kick() {
  absl::Status first;
  for (const std::unique_ptr<BlkQueue>& queue : impl_->queues) {
    first.Update(queue->handle().kick());
  }
  return first;
}

size_t BlkClient::poll(std::span<BlkCompletion> out) {
  // Without a stack frame: the loop that calls this is then short, and a short
  // loop sees a completion earlier.
  for (const std::unique_ptr<BlkQueue>& queue : impl_->queues) {
    if (!queue->idle()) [[unlikely]]
      return impl_->poll(out);
  }
  return 0;
}

size_t BlkClient::Impl::poll(std::span<BlkCompletion> out) {
  size_t count = 0;
  for (size_t i = 0; i < queues.size() && count < out.size(); ++i) {
    BlkQueue& queue = *queues[next_poll];
    next_poll = next_poll + 1 == queues.size() ? 0 : next_poll + 1;
    count += queue.poll(out.subspan(count));
    if (!queue.failure().ok()) [[unlikely]]
      note_failure();
  }
  return count;
}

size_t BlkClient::wait(std::span<BlkCompletion> out) {
  return wait_for(out, Duration::max());
}

size_t BlkClient::wait_for(std::span<BlkCompletion> out, Duration timeout) {
  Impl& impl = *impl_;
  // A kick that cannot be given shows as requests that do not complete.
  kick().IgnoreError();
  if (out.empty()) return 0;
  size_t count = impl.poll(out);
  if (count != 0 || impl.in_flight() == 0) return count;
  const MonotonicTime begin = clock_now();
  // A sum that would overflow is never reached.
  const MonotonicTime end = timeout < MonotonicTime::max() - begin
                                ? begin + timeout
                                : MonotonicTime::max();
  MonotonicTime turned = begin;
  while (true) {
    for (int spin = 0; spin < kSpins; ++spin) {
      count = impl.poll(out);
      if (count != 0) return count;
      relax_processor();
    }
    const MonotonicTime now = clock_now();
    const MonotonicTime since = impl.driver.counts_from(begin);
    if (now - since >= impl.options.stall_timeout) impl.give_up(now - since);
    if (now >= end) return 0;
    if (impl.options.wait_mode == WaitMode::kSleep) {
      impl.sleep(std::min(since + impl.options.stall_timeout, end));
      impl.driver.turn_loop();
      continue;
    }
    if (now - begin >= kYieldAfter) ::sched_yield();
    if (now - turned < kTurnInterval) continue;
    impl.driver.turn_loop();
    turned = now;
  }
}

void BlkClient::Impl::sleep(MonotonicTime until) {
  queue_sleep.begin();
  for (const std::unique_ptr<BlkQueue>& queue : queues) {
    if (queue->in_flight() != 0) queue_sleep.add(queue->handle());
  }
  queue_sleep.add_loop(driver.loop_fd());
  queue_sleep.until(until);
}

void BlkClient::Impl::give_up(Duration waited) {
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(waited).count();
  driver.abandon(absl::DeadlineExceededError(absl::StrCat(
      in_flight(), " requests in flight, none completed for ", ms, " ms")));
}

absl::Status BlkClient::run(const BlkRequest& request) {
  if (in_flight() != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(in_flight(), " requests in flight"));
  }
  VHOST_RETURN_IF_ERROR(submit(request));
  std::array<BlkCompletion, 1> done;
  if (wait(done) == 1) return std::move(done[0].status);
  return absl::InternalError("request did not complete");
}

absl::StatusOr<std::string> BlkClient::get_id() {
  const std::array<DmaSpan, 1> buffers = {impl_->id.span()};
  BlkRequest request;
  request.op = BlkOp::kGetId;
  request.buffers = buffers;
  const absl::Status status = run(request);
  if (!status.ok()) {
    impl_->id.abandon();
    return status;
  }
  // The device may still write: copy, then look.
  std::string id(reinterpret_cast<const char*>(impl_->id.data()), kBlkIdSize);
  id.resize(std::min<size_t>(id.find('\0'), id.size()));
  return id;
}

}  // namespace vhost
