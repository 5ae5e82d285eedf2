// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/channel_scenario.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "backends/user/backend_channel.h"

namespace vhost::user {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

UniqueFd any_fd() { return UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)); }

// Serves odd things and refuses even ones.
class Host final : public BackendChannel::Host, public BackendServices {
 public:
  explicit Host(std::set<std::string>* served) : served_(served) {}

  void on_config_changed() override { served_->insert("config"); }
  absl::Status on_vring_call(BackendQueue) override {
    served_->insert("call");
    return absl::OkStatus();
  }
  absl::Status on_vring_error(BackendQueue) override {
    served_->insert("error");
    return absl::OkStatus();
  }
  absl::Status on_iotlb_miss(uint64_t iova, IotlbAccess) override {
    return note("miss", iova);
  }
  absl::Status on_host_notifier(BackendQueue vq,
                                HostNotifierArea area) override {
    check(area.fd.valid() || area.size == 0);
    return note("notifier", to_int(vq));
  }
  BackendServices& services() override { return *this; }
  void iotlb_access_failed(uint64_t, IotlbAccess) override {
    served_->insert("access failed");
  }
  absl::Status map_shared_memory(const SharedMemoryMapping& mapping,
                                 UniqueFd fd) override {
    check(fd.valid() && mapping.length != 0);
    return note("map", mapping.shmid);
  }
  absl::Status unmap_shared_memory(const SharedMemoryMapping& m) override {
    return note("unmap", m.shmid);
  }
  absl::Status add_shared_object(const ObjectUuid& uuid) override {
    return note("add", uuid[0]);
  }
  absl::Status remove_shared_object(const ObjectUuid& uuid) override {
    return note("remove", uuid[0]);
  }
  absl::StatusOr<UniqueFd> look_up_shared_object(
      const ObjectUuid& uuid) override {
    const absl::Status status = note("look up", uuid[0]);
    if (!status.ok()) return status;
    return any_fd();
  }

 private:
  absl::Status note(const char* what, uint64_t value) {
    served_->insert(what);
    return (value & 1) != 0 ? absl::OkStatus() : absl::AbortedError("no");
  }

  std::set<std::string>* const served_;
};

// Sends some of what waits, a few bytes at a time.
size_t drain(BackendChannel& channel) {
  size_t bytes = 0;
  for (size_t step = 7;; step = step % 31 + 5) {
    const BackendChannel::Segment segment = channel.next_segment();
    check(segment.fds.size() <= 1);
    if (segment.bytes.empty()) return bytes;
    const size_t n = std::min(step, segment.bytes.size());
    channel.sent(n);
    bytes += n;
  }
}

}  // namespace

ChannelScenario run_channel_scenario(const uint8_t* data, size_t size) {
  ChannelScenario out;
  std::span<const std::byte> input = std::as_bytes(std::span(data, size));
  const uint32_t features = wire::read_prefix<uint32_t>(input).value_or(0);
  input = input.subspan(std::min<size_t>(4, input.size()));
  Host host(&out.served);
  MessageRecorder recorder(4);
  BackendChannel channel(features, &host, &recorder);
  channel.set_features({kFeatureAccessPlatform});
  size_t sent = 0;
  while (!input.empty() && channel.status().ok()) {
    const auto control = static_cast<uint8_t>(input.front());
    input = input.subspan(1);
    const std::span<std::byte> space = channel.input_space();
    check(!space.empty());
    const size_t n =
        std::min({size_t{control} & 127, input.size(), space.size()});
    if (n == 0) continue;
    std::memcpy(space.data(), input.data(), n);
    input = input.subspan(n);
    std::vector<UniqueFd> fds;
    if ((control & 128) != 0) fds.push_back(any_fd());
    channel.received(n, std::move(fds));
    static_cast<void>(channel.serve(MonotonicTime()));
    sent += drain(channel);
  }
  check(sent % 20 == 0);
  out.answers = sent / 20;
  out.malformed = !channel.status().ok();
  check(!out.malformed || channel.input_space().empty());
  return out;
}

}  // namespace vhost::user
