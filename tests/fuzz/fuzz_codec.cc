// SPDX-License-Identifier: Apache-2.0
//
// Every decoder over any bytes: selector:u8 id:u8 payload...
#include <cstdlib>
#include <span>

#include "backends/user/codec.h"

namespace vhost::user {
namespace {

void check(bool condition) {
  if (!condition) std::abort();
}

void decode_reply(Request id, std::span<const std::byte> payload) {
  for (const bool need_reply : {false, true}) {
    const auto shape = reply_shape(id, need_reply, need_reply);
    if (!shape) continue;
    const CountRange fds = reply_fds(id, *shape, payload);
    check(fds.max <= wire::kMaxFds && fds.min <= fds.max);
  }
  const auto queue = queue_of(id, payload);
  check(!queue || payload.size() >= sizeof(uint32_t));
}

void decode_config_reply(std::span<const std::byte> payload) {
  const auto head = wire::read_prefix<wire::ConfigHead>(payload);
  const uint32_t size = head ? head->size : 8;
  const auto bytes = decode_config(payload, head ? head->offset : 0, size);
  check(!bytes.ok() || bytes->size() == size);
}

void decode(uint8_t selector, uint8_t id, std::span<const std::byte> payload) {
  switch (selector % 5) {
    case 0:
      return decode_reply(Request{1u + id % 44u}, payload);
    case 1:
      check(backend_request_fds(BackendRequest{1u + id % 10u}, payload) <= 1);
      return;
    case 2:
      return decode_config_reply(payload);
    case 3: {
      const auto area = decode_inflight(payload, {.num_queues = 1});
      check(area.ok() == (payload.size() == 20 || payload.size() == 24));
      return;
    }
    case 4:
      check(decode_u64(payload).ok() == (payload.size() == 8));
      return;
  }
}

}  // namespace
}  // namespace vhost::user

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  vhost::user::decode(data[0], data[1],
                      std::as_bytes(std::span(data + 2, size - 2)));
  return 0;
}
