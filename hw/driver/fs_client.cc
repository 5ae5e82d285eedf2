// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/fs_client.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "hw/driver/fs_message.h"
#include "hw/driver/fs_queue.h"
#include "hw/driver/queue_sleep.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

MonotonicTime clock_now() { return std::chrono::steady_clock::now(); }

}  // namespace

struct FsClient::Impl {
  Impl(VirtioDriver& virtio_driver, const Options& chosen)
      : driver(virtio_driver), options(chosen) {}

  FsQueue& urgent() { return *queues.front(); }
  uint32_t in_flight() const;
  absl::Status submit(const FsRequest& request);
  size_t poll(std::span<FsCompletion> out);
  // Until the device signals, the loop has something to do, or `until`.
  void sleep(MonotonicTime until);
  void give_up(Duration waited);

  VirtioDriver& driver;
  const Options options;
  FsSession session;
  std::vector<std::unique_ptr<FsQueue>> queues;  // [0]: what must not wait.
  uint64_t next_unique = 2;  // Odd ones are those of interruptions.
  size_t next_submit = 0;    // Request queues take turns.
  size_t next_poll = 0;
  absl::Status status;
  QueueSleep queue_sleep;
};

absl::StatusOr<std::unique_ptr<FsClient>> FsClient::create(
    VirtioDriver& driver, const Options& options) {
  const VirtioDriver::Started& started = driver.started();
  std::vector<QueueHandle> queues;
  for (uint32_t i = 0; i < started.fixed + started.queues; ++i) {
    absl::StatusOr<QueueHandle> queue = driver.acquire(QueueIndex{i});
    if (!queue.ok()) return queue.status();
    queues.push_back(*std::move(queue));
  }
  absl::StatusOr<std::unique_ptr<FsClient>> client =
      create(driver, std::move(queues), FsSession(), options);
  if (!client.ok()) return client;
  Impl& impl = *(*client)->impl_;
  FsRequest init;
  init.op = FsOp::kInit;
  VHOST_RETURN_IF_ERROR(impl.submit(init));
  std::array<FsCompletion, 1> done;
  (*client)->wait(done);
  VHOST_RETURN_IF_ERROR(annotate(done[0].status, "file system client"));
  return client;
}

absl::StatusOr<std::unique_ptr<FsClient>> FsClient::create(
    VirtioDriver& driver, std::vector<QueueHandle> queues,
    const FsSession& session, const Options& options) {
  if (options.depth == 0 || options.depth > kMaxSplitRingSize ||
      queues.size() <= kFsFixedQueues || driver.options().no_call_notifiers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "file system client: depth ", options.depth, ", ", queues.size(),
        " queues, ",
        driver.options().no_call_notifiers ? "no call notifiers" : "notified"));
  }
  auto impl = std::make_unique<Impl>(driver, options);
  impl->session = session;
  for (QueueHandle& handle : queues) {
    absl::StatusOr<std::unique_ptr<FsQueue>> queue =
        FsQueue::create(driver.memory(), std::move(handle), options.depth);
    if (!queue.ok()) return annotate(queue.status(), "file system client");
    impl->queues.push_back(*std::move(queue));
  }
  return std::unique_ptr<FsClient>(new FsClient(std::move(impl)));
}

FsClient::FsClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

FsClient::~FsClient() = default;

const FsSession& FsClient::session() const { return impl_->session; }
uint32_t FsClient::queue_count() const {
  return static_cast<uint32_t>(impl_->queues.size()) - kFsFixedQueues;
}
uint32_t FsClient::in_flight() const { return impl_->in_flight(); }
const absl::Status& FsClient::status() const { return impl_->status; }

uint32_t FsClient::Impl::in_flight() const {
  uint32_t sum = 0;
  for (const std::unique_ptr<FsQueue>& queue : queues) {
    sum += queue->in_flight();
  }
  return sum;
}

absl::Status FsClient::submit(const FsRequest& request) {
  VHOST_RETURN_IF_ERROR(impl_->status);
  VHOST_RETURN_IF_ERROR(check_fs_request(impl_->session, request));
  return impl_->submit(request);
}

absl::Status FsClient::Impl::submit(const FsRequest& request) {
  const FsCaller caller = {options.uid, options.gid, options.pid};
  const uint64_t unique = next_unique;
  if (request.op == FsOp::kForget) {
    next_unique += 2;
    return urgent().submit(request, caller, unique);
  }
  const size_t count = queues.size() - kFsFixedQueues;
  absl::Status submitted;
  for (size_t tries = count; tries != 0; --tries) {
    FsQueue& queue = *queues[kFsFixedQueues + next_submit];
    next_submit = next_submit + 1 == count ? 0 : next_submit + 1;
    submitted = queue.submit(request, caller, unique);
    if (!absl::IsResourceExhausted(submitted)) break;
  }
  if (submitted.ok()) next_unique += 2;
  return submitted;
}

absl::Status FsClient::kick() {
  absl::Status first;
  for (const std::unique_ptr<FsQueue>& queue : impl_->queues) {
    first.Update(queue->handle().kick());
  }
  return first;
}

size_t FsClient::poll(std::span<FsCompletion> out) { return impl_->poll(out); }

size_t FsClient::Impl::poll(std::span<FsCompletion> out) {
  size_t count = 0;
  for (size_t i = 0; i < queues.size() && count < out.size(); ++i) {
    FsQueue& queue = *queues[next_poll];
    next_poll = next_poll + 1 == queues.size() ? 0 : next_poll + 1;
    count += queue.poll(out.subspan(count), session);
    status.Update(queue.failure());
  }
  return count;
}

size_t FsClient::wait(std::span<FsCompletion> out) {
  Impl& impl = *impl_;
  // A kick that cannot be given shows as requests that do not complete.
  kick().IgnoreError();
  if (out.empty()) return 0;
  const MonotonicTime begin = clock_now();
  size_t count = impl.poll(out);
  while (count == 0 && impl.in_flight() != 0) {
    const MonotonicTime now = clock_now();
    const MonotonicTime since = impl.driver.counts_from(begin);
    if (now - since >= impl.options.stall_timeout) {
      impl.give_up(now - since);
    } else {
      impl.sleep(since + impl.options.stall_timeout);
      impl.driver.turn_loop();
    }
    count = impl.poll(out);
  }
  return count;
}

void FsClient::Impl::sleep(MonotonicTime until) {
  queue_sleep.begin();
  for (const std::unique_ptr<FsQueue>& queue : queues) {
    if (queue->in_flight() != 0) queue_sleep.add(queue->handle());
  }
  queue_sleep.add_loop(driver.loop_fd());
  queue_sleep.until(until);
}

void FsClient::Impl::give_up(Duration waited) {
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(waited).count();
  driver.abandon(absl::DeadlineExceededError(absl::StrCat(
      in_flight(), " requests in flight, none completed for ", ms, " ms")));
}

FsCompletion FsClient::run(const FsRequest& request) {
  std::array<FsCompletion, 1> done;
  if (in_flight() != 0) {
    done[0].status = absl::FailedPreconditionError(
        absl::StrCat(in_flight(), " requests in flight"));
    return done[0];
  }
  done[0].status = submit(request);
  if (!done[0].status.ok()) return done[0];
  wait(done);
  return std::move(done[0]);
}

absl::StatusOr<FsNode> FsClient::lookup(absl::string_view path) {
  FsNode at;
  at.id = kFsRootNode;
  for (const absl::string_view name : absl::StrSplit(path, '/')) {
    if (name.empty()) continue;
    FsRequest request;
    request.op = FsOp::kLookup;
    request.node = at.id;
    request.name = name;
    FsCompletion found = run(request);
    if (at.id != kFsRootNode) found.status.Update(forget(at.id));
    if (!found.status.ok()) return annotate(found.status, path);
    at = found.node;
  }
  if (at.id != kFsRootNode) return at;
  absl::StatusOr<FsAttributes> attributes = get_attributes(kFsRootNode);
  if (!attributes.ok()) return attributes.status();
  at.attributes = *attributes;
  return at;
}

absl::StatusOr<FsAttributes> FsClient::get_attributes(uint64_t node) {
  FsRequest request;
  request.op = FsOp::kGetAttributes;
  request.node = node;
  const FsCompletion done = run(request);
  if (!done.status.ok()) return done.status;
  return done.node.attributes;
}

absl::StatusOr<uint64_t> FsClient::open(uint64_t node) {
  FsRequest request;
  request.op = FsOp::kOpen;
  request.node = node;
  const FsCompletion done = run(request);
  if (!done.status.ok()) return done.status;
  return done.handle;
}

absl::StatusOr<uint32_t> FsClient::read(uint64_t node, uint64_t handle,
                                        uint64_t offset, const DmaSpan& data) {
  FsRequest request;
  request.op = FsOp::kRead;
  request.node = node;
  request.handle = handle;
  request.offset = offset;
  request.buffers = std::span(&data, 1);
  const FsCompletion done = run(request);
  if (!done.status.ok()) return done.status;
  return done.bytes;
}

absl::Status FsClient::release(uint64_t node, uint64_t handle) {
  FsRequest request;
  request.op = FsOp::kRelease;
  request.node = node;
  request.handle = handle;
  return run(request).status;
}

absl::Status FsClient::forget(uint64_t node, uint64_t lookups) {
  FsRequest request;
  request.op = FsOp::kForget;
  request.node = node;
  request.lookups = lookups;
  return run(request).status;
}

}  // namespace vhost
