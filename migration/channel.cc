// SPDX-License-Identifier: Apache-2.0
#include "migration/channel.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "migration/channel_io.h"
#include "migration/rate_limit.h"
#include "vhostdev/migration_records.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// Bytes that move in one turn of the loop, either way.
constexpr size_t kTurn = 1 << 20;
// Below so many pending bytes more is asked for.
constexpr size_t kLowWater = 256 << 10;
// Times that is done in one turn.
constexpr int kFills = 4;
// How long a last word may take.
constexpr Duration kGoodbye = std::chrono::seconds(1);

}  // namespace

struct Channel::Impl : std::enable_shared_from_this<Channel::Impl> {
  enum class State : uint8_t { kOpen, kFailed, kClosing, kClosed };

  Impl(EventLoop& its_loop, ChannelIo its_io, const Options& its_options,
       Handler its_handler)
      : loop(its_loop),
        options(its_options),
        handler(std::move(its_handler)),
        io(std::move(its_io)),
        writer(options.write),
        reader(options.read) {}

  bool open() const { return state == State::kOpen; }
  bool is_file() const { return io.kind() == ChannelIo::Kind::kFile; }
  bool wants_to_write() const;
  bool wants_to_read() const;

  void arm();
  void arm_again_soon();
  void turn(IoEvents events);
  void write_turn();
  void refill();
  void read_turn();
  bool take_records();
  void ended();
  void closing_turn(IoEvents events);
  void fail(absl::Status why);
  void shut();
  void close_soon();
  void watch_silence();
  void look_at_silence();

  EventLoop& loop;
  const Options options;
  Handler handler;
  ChannelIo io;
  StreamWriter writer;
  StreamReader reader;
  State state = State::kOpen;
  bool more = true;  // fill() may have something.
  bool reading = true;
  bool expecting = false;
  bool read_all = false;     // The end came, and was allowed to.
  bool said_end = false;     // Closing: nothing more is sent.
  bool turn_posted = false;  // What cannot be watched has its turns so.
  RateLimit rate;
  uint64_t sent = 0;
  uint64_t received = 0;
  MonotonicTime last_sent;      // Or when there was something to send again.
  MonotonicTime last_received;  // Or when something was expected again.
  std::unique_ptr<EventLoop::Watch> watch;
  std::unique_ptr<EventLoop::Timer> rate_timer;
  std::unique_ptr<EventLoop::Timer> silence_timer;  // Closing: the limit.
};

absl::StatusOr<std::unique_ptr<Channel>> Channel::open(EventLoop& loop,
                                                       UniqueFd fd,
                                                       const Options& options,
                                                       Handler handler) {
  absl::StatusOr<ChannelIo> io = ChannelIo::open(std::move(fd));
  if (!io.ok()) return io.status();
  auto impl =
      std::make_shared<Impl>(loop, *std::move(io), options, std::move(handler));
  impl->last_sent = impl->last_received = loop.now();
  impl->more = options.writes;
  impl->reading = options.reads;
  impl->arm();
  impl->watch_silence();
  return std::unique_ptr<Channel>(new Channel(std::move(impl)));
}

Channel::Channel(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
Channel::~Channel() { impl_->shut(); }

StreamWriter& Channel::writer() { return impl_->writer; }
uint64_t Channel::bytes_sent() const { return impl_->sent; }
uint64_t Channel::bytes_received() const { return impl_->received; }
bool Channel::failed() const { return impl_->state != Impl::State::kOpen; }

void Channel::wake() {
  if (!impl_->open()) return;
  if (impl_->writer.pending_bytes() == 0) impl_->last_sent = impl_->loop.now();
  impl_->more = true;
  impl_->arm();
}

void Channel::set_reading(bool on) {
  if (!impl_->open() || impl_->reading == on) return;
  impl_->reading = on;
  impl_->last_received = impl_->loop.now();
  impl_->arm();
  // Records may be there already.
  if (on) impl_->arm_again_soon();
}

void Channel::expect_bytes(bool on) {
  impl_->expecting = on;
  impl_->last_received = impl_->loop.now();
}

void Channel::set_bandwidth(uint64_t bytes_per_second) {
  impl_->rate.set(bytes_per_second, impl_->loop.now());
  impl_->rate_timer.reset();
  if (impl_->open()) impl_->arm();
}

bool Channel::Impl::wants_to_write() const {
  if (state == State::kClosing) return writer.pending_bytes() != 0;
  return open() && options.writes && rate_timer == nullptr &&
         (more || writer.pending_bytes() != 0);
}

bool Channel::Impl::wants_to_read() const {
  if (state == State::kClosing) return options.reads;
  return open() && reading && !read_all;
}

// Watches for what there is to do, and for nothing else: who hung up is
// reported again and again.
void Channel::Impl::arm() {
  const IoEvents wanted{.readable = wants_to_read(),
                        .writable = wants_to_write()};
  if (!wanted.readable && !wanted.writable) {
    watch.reset();
    return;
  }
  if (is_file()) return arm_again_soon();
  if (watch != nullptr) return watch->set_events(wanted);
  watch = loop.watch(io.fd(), wanted, [self = weak_from_this()](IoEvents e) {
    if (const std::shared_ptr<Impl> impl = self.lock()) impl->turn(e);
  });
}

void Channel::Impl::arm_again_soon() {
  if (std::exchange(turn_posted, true)) return;
  loop.post([self = weak_from_this()] {
    const std::shared_ptr<Impl> impl = self.lock();
    if (impl == nullptr) return;
    impl->turn_posted = false;
    impl->turn({.readable = true, .writable = true});
  });
}

void Channel::Impl::turn(IoEvents events) {
  const std::shared_ptr<Impl> self = shared_from_this();
  if (state == State::kClosing) return closing_turn(events);
  if (events.writable || events.hung_up) write_turn();
  if (events.readable || events.hung_up) read_turn();
  if (open() && events.hung_up && !options.reads) {
    fail(absl::UnavailableError("channel: nobody reads it any more"));
  }
  if (open()) arm();
}

void Channel::Impl::refill() {
  for (int i = 0; i < kFills && more; ++i) {
    if (writer.pending_bytes() >= kLowWater) return;
    more = handler.fill != nullptr && handler.fill();
    if (!open()) return;
  }
}

void Channel::Impl::write_turn() {
  size_t left = kTurn;
  const uint64_t before = sent;
  while (left != 0 && wants_to_write()) {
    refill();
    if (!open()) return;
    std::span<const std::byte> bytes = writer.pending();
    if (bytes.empty()) break;
    const MonotonicTime now = loop.now();
    bytes = bytes.first(std::min({bytes.size(), left, rate.allowed(now)}));
    if (bytes.empty()) {
      rate_timer = loop.timer(rate.next(now), [this] {
        rate_timer.reset();
        last_sent = loop.now();
        arm();
      });
      break;
    }
    const absl::StatusOr<size_t> out = io.send(bytes);
    if (!out.ok()) {
      // The other side may have said why.
      reading = options.reads;
      read_turn();
      return fail(out.status());
    }
    if (*out == 0) break;
    writer.consume(*out);
    rate.spend(*out);
    sent += *out;
    left -= *out;
    last_sent = now;
  }
  if (sent != before && open() && handler.sent != nullptr) handler.sent();
}

// False: no more for now.
bool Channel::Impl::take_records() {
  while (wants_to_read()) {
    absl::StatusOr<std::optional<StreamRecord>> record = reader.next();
    if (!record.ok()) {
      fail(record.status());
      return false;
    }
    if (!record->has_value()) return true;
    received = reader.bytes();
    const absl::Status status = handler.record(**record);
    if (!status.ok()) {
      fail(status);
      return false;
    }
  }
  return false;
}

void Channel::Impl::read_turn() {
  for (size_t left = kTurn; left != 0;) {
    if (!take_records()) return;
    std::span<std::byte> space = reader.space();
    space = space.first(std::min(space.size(), left));
    const absl::StatusOr<ChannelIo::Received> got = io.receive(space);
    if (!got.ok()) return fail(got.status());
    if (got->end) return ended();
    if (got->bytes == 0) return;
    last_received = loop.now();
    reader.filled(got->bytes);
    left -= got->bytes;
  }
  take_records();
}

void Channel::Impl::ended() {
  const absl::Status status = reader.finish();
  read_all = true;
  if (status.ok()) return;
  if (is_file()) return fail(status);
  fail(absl::UnavailableError(
      absl::StrCat("channel: the other side closed it: ", status.message())));
}

void Channel::Impl::fail(absl::Status why) {
  if (!open()) return;
  state = State::kFailed;
  watch.reset();
  rate_timer.reset();
  silence_timer.reset();
  if (handler.failed != nullptr) handler.failed(std::move(why));
}

void Channel::Impl::shut() {
  state = State::kClosed;
  watch.reset();
  rate_timer.reset();
  silence_timer.reset();
  io.close();
}

void Channel::finish() { impl_->close_soon(); }

void Channel::goodbye(const absl::Status& why) {
  using State = Impl::State;
  if (impl_->state == State::kClosing || impl_->state == State::kClosed) return;
  if (impl_->options.writes) {
    // Where the stream cannot take it, its missing end says it.
    impl_->writer.record(RecordType::kAbort, 0, encode_abort(why))
        .IgnoreError();
  }
  impl_->close_soon();
}

void Channel::drop() { impl_->shut(); }

void Channel::Impl::close_soon() {
  if (state == State::kClosing || state == State::kClosed) return;
  state = State::kClosing;
  rate_timer.reset();
  watch.reset();
  silence_timer = loop.timer(loop.now() + kGoodbye, [this] { shut(); });
  closing_turn({.writable = true});
}

// Sends what is left, says that it was all, and drops what comes until the
// other side does the same: a socket closed with unread bytes would take back
// what was sent last.
void Channel::Impl::closing_turn(IoEvents events) {
  while (writer.pending_bytes() != 0) {
    const absl::StatusOr<size_t> out = io.send(writer.pending());
    if (!out.ok()) return shut();
    if (*out == 0) break;
    writer.consume(*out);
    sent += *out;
  }
  if (writer.pending_bytes() == 0 && !std::exchange(said_end, true)) {
    if (!options.reads || read_all || is_file()) return shut();
    io.end_sending();
  }
  if (events.readable || events.hung_up) {
    std::array<std::byte, 64 << 10> nowhere;
    for (int i = 0; i < 16; ++i) {
      const auto got = io.receive(nowhere);
      if (!got.ok() || got->end) return shut();
      if (got->bytes == 0) break;
    }
  }
  arm();
}

void Channel::Impl::watch_silence() {
  if (options.silence <= Duration::zero()) return;
  silence_timer = loop.timer(loop.now() + options.silence / 4,
                             [this] { look_at_silence(); });
}

void Channel::Impl::look_at_silence() {
  const MonotonicTime limit = loop.now() - options.silence;
  const double seconds = std::chrono::duration<double>(options.silence).count();
  const std::shared_ptr<Impl> self = shared_from_this();
  if (wants_to_write() && writer.pending_bytes() != 0 && last_sent <= limit) {
    return fail(absl::DeadlineExceededError(absl::StrCat(
        "channel: the other side took no byte for ", seconds, " s")));
  }
  if (expecting && wants_to_read() && last_received <= limit) {
    return fail(absl::DeadlineExceededError(absl::StrCat(
        "channel: the other side sent no byte for ", seconds, " s")));
  }
  watch_silence();
}

}  // namespace vhost
