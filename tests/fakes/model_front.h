// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_FAKES_MODEL_FRONT_H_
#define TESTS_FAKES_MODEL_FRONT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backends/user/message_table.h"
#include "backends/user/wire.h"
#include "tests/fakes/model_memory.h"
#include "tests/fakes/model_socket.h"
#include "vhostdev/event_notifier.h"
#include "vhostdev/testing/model_backend.h"
#include "vhostdev/testing/model_blk.h"
#include "vhostdev/unique_fd.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {

using user::Request;

// A front-end made by hand, a model back-end, and one piece of guest memory
// between them.  Nothing has a thread: the back-end does what it does inside
// the calls here, which wait for it at most five seconds.
class ModelFront {
 public:
  static constexpr uint64_t kGpa = 0x100000;
  static constexpr uint64_t kUser = 0x7f0000000000;
  static constexpr uint64_t kMemorySize = 0x100000;

  explicit ModelFront(ModelOptions options = {}, ModelBlkOptions disk = {});
  // The back-end is `device`, which outlives this, instead of a disk.
  ModelFront(ModelDevice& device, ModelOptions options);

  // Ends the back-end, if it is ours, and connects to a new one.
  void restart(ModelDevice& device, ModelOptions options);
  // The same, to one that is served elsewhere at the other end of `socket`;
  // there is no backend() then.
  void use(UniqueFd socket);

  ModelBackend& backend() { return *backend_; }
  ModelBlk& disk() { return *disk_; }
  FdRef memory_fd() const { return memory_; }
  // The byte of guest memory at `offset` from its begin.
  std::byte* at(uint64_t offset) { return map_ + offset; }

  // Sends a message as it is.
  void send(Request id, std::span<const std::byte> payload,
            std::initializer_list<FdRef> fds = {}, uint32_t flags = 1);
  template <user::wire::WireStruct T>
  void send(Request id, const T& payload, std::initializer_list<FdRef> fds = {},
            uint32_t flags = 1) {
    send(id, user::wire::bytes_of(payload), fds, flags);
  }

  // The next message back; empty if the back-end hung up instead.
  std::optional<ModelFrame> reply();
  std::optional<uint64_t> reply_u64();
  // Whether the back-end hung up.
  bool hung_up() { return !reply().has_value(); }

  // Sends with need_reply; what the ack said, empty if it hung up.
  template <user::wire::WireStruct T>
  std::optional<uint64_t> ask(Request id, const T& payload,
                              std::initializer_list<FdRef> fds = {}) {
    send(id, payload, fds, 1 | user::wire::kNeedReplyFlag);
    return reply_u64();
  }
  std::optional<uint64_t> ask(Request id,
                              std::initializer_list<FdRef> fds = {}) {
    send(id, std::span<const std::byte>(), fds, 1 | user::wire::kNeedReplyFlag);
    return reply_u64();
  }
  // Sends a message without payload that has a u64 for an answer.
  std::optional<uint64_t> get(Request id) {
    send(id, std::span<const std::byte>());
    return reply_u64();
  }

  // SET_MEM_TABLE with `regions` small ones, and ADD_MEM_REG; with need_reply.
  std::optional<uint64_t> set_table(uint32_t regions,
                                    std::initializer_list<FdRef> fds);
  std::optional<uint64_t> add_region(const user::wire::MemoryRegion& region,
                                     std::initializer_list<FdRef> fds) {
    return ask(Request::kAddMemReg, user::wire::SingleMemoryRegion{0, region},
               fds);
  }

  // GET_FEATURES to the memory table: accepts `features` besides VERSION_1 and
  // bit 30, and all protocol features that are offered.
  void set_up(FeatureSet features = {}, bool with_memory = true);
  user::wire::SingleMemoryRegion region() const;

  // Lets the back-end work until `done`; false if five seconds were not enough.
  bool until(const std::function<bool()>& done);
  // Lets it do all that it would do now.
  void settle();

 private:
  void make_memory();

  UniqueFd memory_;
  std::byte* map_ = nullptr;
  std::shared_ptr<ModelMapping> mapping_;
  std::unique_ptr<ModelBlk> disk_;
  std::unique_ptr<ModelBackend> backend_;
  std::optional<ModelSocket> socket_;
};

// One split ring at the begin of the guest memory of a ModelFront, driven by
// hand.  Ring `index` has 64 KiB there; its data begin 32 KiB in.
class HandRing {
 public:
  static constexpr uint16_t kNum = 16;
  static constexpr uint64_t kAvail = 0x1000;
  static constexpr uint64_t kUsed = 0x2000;
  static constexpr uint64_t kData = 0x8000;

  struct Desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
  };
  static constexpr uint16_t kNext = 1;
  static constexpr uint16_t kWrite = 2;
  static constexpr uint16_t kIndirect = 4;

  explicit HandRing(ModelFront& front, uint32_t index = 0);

  // NUM, BASE, ADDR, CALL, ERR; then KICK and ENABLE.
  void configure(bool log_used = false);
  void set_kick();
  void enable(bool enabled = true);
  void start() {
    configure();
    set_kick();
    enable();
  }
  std::optional<uint64_t> set_addresses(bool log_used);
  uint32_t get_base();  // 0xffff'ffff if there is no answer.

  uint64_t base() const { return uint64_t{index_} * 0x10000; }
  uint64_t gpa(uint64_t offset) const {
    return ModelFront::kGpa + base() + offset;
  }
  std::byte* at(uint64_t offset) { return front_.at(base() + offset); }
  Desc& desc(uint16_t i) { return reinterpret_cast<Desc*>(at(0))[i]; }
  uint16_t& avail(uint64_t i) {  // 0: flags, 1: idx, 2..: ring
    return reinterpret_cast<uint16_t*>(at(kAvail))[i];
  }
  uint16_t& used(uint64_t i) {  // 0: flags, 1: idx
    return reinterpret_cast<uint16_t*>(at(kUsed))[i];
  }
  uint16_t used_idx() { return used(1); }
  uint32_t used_len(uint16_t i) {
    return reinterpret_cast<uint32_t*>(at(kUsed + 4))[2 * (i % kNum) + 1];
  }

  // Makes `head` available and kicks.
  void offer(uint16_t head);
  void kick() { static_cast<void>(kick_.signal()); }
  void take_kick_back() { static_cast<void>(kick_.test_and_clear()); }
  bool called() { return call_.test_and_clear(); }
  bool failed() { return err_.test_and_clear(); }

  // Puts a block request into descriptors 0 to 2: header, data, status.  Only
  // puts it: offer(0) makes it available.
  void put_block(uint32_t type, uint64_t sector, uint32_t data_size,
                 bool device_writes);
  uint8_t block_status() { return std::to_integer<uint8_t>(*at(0xf000)); }
  std::byte* data() { return at(kData); }
  // put_block, offer, wait; the status, 0xff if it was never completed.
  uint8_t block(uint32_t type, uint64_t sector, uint32_t data_size,
                bool device_writes);

 private:
  ModelFront& front_;
  uint32_t index_;
  EventNotifier kick_;
  EventNotifier call_;
  EventNotifier err_;
};

}  // namespace vhost::testing

#endif  // TESTS_FAKES_MODEL_FRONT_H_
