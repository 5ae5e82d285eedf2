// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/model_front.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "gtest/gtest.h"

namespace vhost::testing {
namespace {

namespace wire = user::wire;

constexpr uint64_t kDiskSize = 1 << 20;
constexpr auto kPatience = std::chrono::seconds(5);

EventNotifier make_notifier() { return *EventNotifier::create(); }

}  // namespace

ModelFront::ModelFront(ModelOptions options, ModelBlkOptions disk) {
  make_memory();
  disk_ = *ModelBlk::on_memory(kDiskSize, std::move(disk));
  restart(*disk_, std::move(options));
}

ModelFront::ModelFront(ModelDevice& device, ModelOptions options) {
  make_memory();
  restart(device, std::move(options));
}

void ModelFront::make_memory() {
  memory_ = UniqueFd(::memfd_create("guest", MFD_CLOEXEC));
  EXPECT_EQ(::ftruncate(memory_.get(), kMemorySize), 0);
  mapping_ = *ModelMapping::map(memory_, 0, kMemorySize);
  map_ = mapping_->data();
}

void ModelFront::use(UniqueFd socket) {
  backend_.reset();
  socket_.emplace(std::move(socket));
}

void ModelFront::restart(ModelDevice& device, ModelOptions options) {
  backend_.reset();  // A device has one back-end at a time.
  backend_ = std::make_unique<ModelBackend>(&device, std::move(options));
  int ends[2] = {-1, -1};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  socket_.emplace(UniqueFd(ends[0]));
  EXPECT_TRUE(backend_->connect(UniqueFd(ends[1])).ok());
}

void ModelFront::send(Request id, std::span<const std::byte> payload,
                      std::initializer_list<FdRef> fds, uint32_t flags) {
  wire::Header header = {user::to_int(id), flags,
                         static_cast<uint32_t>(payload.size())};
  iovec parts[] = {{&header, sizeof(header)},
                   {const_cast<std::byte*>(payload.data()), payload.size()}};
  alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int) * 16)] = {};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  if (fds.size() > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    size_t i = 0;
    for (const FdRef fd : fds) {
      const int number = fd.get();
      std::memcpy(CMSG_DATA(rights) + sizeof(int) * i++, &number,
                  sizeof(number));
    }
  }
  ASSERT_EQ(::sendmsg(socket_->fd().get(), &message, MSG_NOSIGNAL),
            static_cast<ssize_t>(sizeof(header) + payload.size()));
}

std::optional<ModelFrame> ModelFront::reply() {
  absl::StatusOr<std::optional<ModelFrame>> frame;
  until([&] {
    frame = socket_->receive();
    return !frame.ok() || frame->has_value();
  });
  return frame.ok() ? *std::move(frame) : std::nullopt;
}

std::optional<uint64_t> ModelFront::reply_u64() {
  const std::optional<ModelFrame> frame = reply();
  if (!frame.has_value()) return std::nullopt;
  EXPECT_EQ(frame->header.flags, wire::kVersion | wire::kReplyFlag);
  return wire::read_prefix<uint64_t>(frame->payload);
}

wire::SingleMemoryRegion ModelFront::region() const {
  return {0, {kGpa, kMemorySize, kUser, 0}};
}

void ModelFront::set_up(FeatureSet features, bool with_memory) {
  ASSERT_TRUE(get(Request::kGetFeatures).has_value());
  const std::optional<uint64_t> offered = get(Request::kGetProtocolFeatures);
  ASSERT_TRUE(offered.has_value());
  send(Request::kSetProtocolFeatures, *offered);
  send(Request::kSetOwner, std::span<const std::byte>());
  features.set(kFeatureVersion1).set(kFeatureProtocolFeatures);
  ASSERT_EQ(ask(Request::kSetFeatures, features.low()), 0u);
  if (!with_memory) return;
  ASSERT_EQ(ask(Request::kAddMemReg, region(), {memory_}), 0u);
}

std::optional<uint64_t> ModelFront::set_table(
    uint32_t regions, std::initializer_list<FdRef> fds) {
  wire::MemoryTable table = {};
  table.head.num_regions = regions;
  for (uint32_t i = 0; i < regions && i < wire::kMaxTableRegions; ++i) {
    table.regions[i] = {i * 0x10000ull, 0x1000, i * 0x10000ull, 0};
  }
  const size_t size =
      sizeof(wire::MemoryTableHead) + regions * sizeof(wire::MemoryRegion);
  send(Request::kSetMemTable,
       wire::bytes_of(table).first(std::min(size, sizeof(table))), fds,
       wire::kVersion | wire::kNeedReplyFlag);
  return reply_u64();
}

bool ModelFront::until(const std::function<bool()>& done) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!done()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    if (backend_ == nullptr) {
      ::poll(nullptr, 0, 1);
      continue;
    }
    EXPECT_TRUE(backend_->step(std::chrono::milliseconds(1)).ok());
  }
  return true;
}

void ModelFront::settle() {
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(backend_->step(std::chrono::nanoseconds(0)).ok());
  }
}

HandRing::HandRing(ModelFront& front, uint32_t index)
    : front_(front),
      index_(index),
      kick_(make_notifier()),
      call_(make_notifier()),
      err_(make_notifier()) {}

std::optional<uint64_t> HandRing::set_addresses(bool log_used) {
  const uint64_t user = ModelFront::kUser + base();
  const wire::VringAddr addr = {
      index_,        log_used ? wire::kVringLogFlag : 0,
      user,          user + kUsed,
      user + kAvail, gpa(kUsed)};
  return front_.ask(Request::kSetVringAddr, addr);
}

void HandRing::configure(bool log_used) {
  ASSERT_EQ(front_.ask(Request::kSetVringNum, wire::VringState{index_, kNum}),
            0u);
  ASSERT_EQ(front_.ask(Request::kSetVringBase, wire::VringState{index_, 0}),
            0u);
  ASSERT_EQ(set_addresses(log_used), 0u);
  const auto payload = uint64_t{index_};
  ASSERT_EQ(front_.ask(Request::kSetVringCall, payload, {call_.write_fd()}),
            0u);
  ASSERT_EQ(front_.ask(Request::kSetVringErr, payload, {err_.write_fd()}), 0u);
}

void HandRing::set_kick() {
  ASSERT_EQ(
      front_.ask(Request::kSetVringKick, uint64_t{index_}, {kick_.read_fd()}),
      0u);
}

void HandRing::enable(bool enabled) {
  ASSERT_EQ(front_.ask(Request::kSetVringEnable,
                       wire::VringState{index_, enabled ? 1u : 0u}),
            0u);
}

uint32_t HandRing::get_base() {
  front_.send(Request::kGetVringBase, wire::VringState{index_, 0});
  const std::optional<ModelFrame> frame = front_.reply();
  if (!frame.has_value()) return ~0u;
  return wire::read_prefix<wire::VringState>(frame->payload)
      .value_or(wire::VringState{0, ~0u})
      .num;
}

void HandRing::offer(uint16_t head) {
  avail(2 + avail(1) % kNum) = head;
  ++avail(1);
  kick();
}

void HandRing::put_block(uint32_t type, uint64_t sector, uint32_t data_size,
                         bool device_writes) {
  struct {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
  } header = {type, 0, sector};
  std::memcpy(at(0x7000), &header, sizeof(header));
  *at(0xf000) = std::byte{0xff};
  const uint16_t direction = device_writes ? kWrite : uint16_t{0};
  const uint16_t second = data_size > 0 ? 1 : 2;
  desc(0) = {gpa(0x7000), sizeof(header), kNext, second};
  desc(1) = {gpa(kData), data_size, static_cast<uint16_t>(kNext | direction),
             2};
  desc(2) = {gpa(0xf000), 1, kWrite, 0};
}

uint8_t HandRing::block(uint32_t type, uint64_t sector, uint32_t data_size,
                        bool device_writes) {
  const uint16_t before = used_idx();
  put_block(type, sector, data_size, device_writes);
  offer(0);
  if (!front_.until([&] { return used_idx() != before; })) return 0xff;
  return block_status();
}

}  // namespace vhost::testing
