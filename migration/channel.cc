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
  // A writer has a header even if nothing is ever to be sent.
  bool has_pending() const {
    return options.writes && writer.pending_bytes() != 0;
  }
  bool has_external() const {
    return options.writes && writer.external_left() != 0;
  }
  uint64_t sent() const {
    return writer.bytes() - writer.pending_bytes() - writer.external_left();
  }
  bool wants_to_write() const;
  bool wants_to_read() const;

  void arm();
  void arm_again_soon();
  void turn(IoEvents events);
  void write_turn();
  void refill();
  absl::StatusOr<size_t> send_some(size_t most);
  void read_turn();
  bool take_records();
  bool skip_rest();
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
  // Of a payload that is left in the channel.
  bool external_watched = false;
  bool skipping = false;
  bool read_all = false;     // The end came, and was allowed to.
  bool said_end = false;     // Closing: nothing more is sent.
  bool turn_posted = false;  // What cannot be watched has its turns so.
  RateLimit rate;
  uint64_t sent_told = 0;    // To the handler.
  uint64_t sent_before = 0;  // When it was looked at for silence.
  uint64_t received = 0;
  // Or when there was nothing to send; as it was looked at.
  MonotonicTime last_sent;
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
FdRef Channel::fd() const { return impl_->io.fd(); }
StreamReader& Channel::reader() { return impl_->reader; }
uint64_t Channel::bytes_sent() const { return impl_->sent(); }
uint64_t Channel::bytes_received() const { return impl_->received; }
bool Channel::failed() const { return impl_->state != Impl::State::kOpen; }

void Channel::wake() {
  if (!impl_->open()) return;
  impl_->more = true;
  impl_->arm();
}

absl::StatusOr<bool> Channel::flush() {
  while (impl_->has_pending()) {
    const absl::StatusOr<size_t> out =
        impl_->send_some(impl_->writer.pending_bytes());
    if (!out.ok()) return out.status();
    if (*out == 0) return false;
  }
  return true;
}

void Channel::watch_external() {
  if (!impl_->open()) return;
  impl_->external_watched = true;
  impl_->last_received = impl_->loop.now();
  impl_->arm();
}

void Channel::skip_external() {
  if (!impl_->open() || impl_->reader.external_left() == 0) return;
  impl_->skipping = true;
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
  if (state == State::kClosing) return has_pending();
  return open() && options.writes && rate_timer == nullptr &&
         (more || has_pending() || has_external());
}

bool Channel::Impl::wants_to_read() const {
  if (state == State::kClosing) return options.reads;
  if (!open() || read_all) return false;
  if (reader.external_left() != 0) return external_watched || skipping;
  return reading;
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
  if (has_external()) return;
  for (int i = 0; i < kFills && more; ++i) {
    if (writer.pending_bytes() >= kLowWater) return;
    more = handler.fill != nullptr && handler.fill();
    if (!open()) return;
  }
}

void Channel::Impl::write_turn() {
  size_t left = kTurn;
  while (left != 0 && wants_to_write()) {
    refill();
    if (!open()) return;
    if (!has_pending()) break;
    const MonotonicTime now = loop.now();
    const size_t most = std::min<size_t>(left, rate.allowed(now));
    if (most == 0) {
      rate_timer = loop.timer(rate.next(now), [this] {
        rate_timer.reset();
        last_sent = loop.now();
        arm();
      });
      break;
    }
    const absl::StatusOr<size_t> out = send_some(most);
    if (!out.ok()) {
      // The other side may have said why.
      reading = options.reads;
      read_turn();
      return fail(out.status());
    }
    if (*out == 0) break;
    rate.spend(*out);
    left -= *out;
  }
  // What somebody else moved counts too.
  const bool news = std::exchange(sent_told, sent()) != sent();
  if ((news || has_external()) && handler.sent != nullptr) handler.sent();
}

absl::StatusOr<size_t> Channel::Impl::send_some(size_t most) {
  const std::span<const std::byte> bytes = writer.pending();
  const absl::StatusOr<size_t> out =
      io.send(bytes.first(std::min(bytes.size(), most)));
  if (!out.ok()) return out;
  writer.consume(*out);
  return out;
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

// The rest of a payload that nobody wants.  False: there is more, or an error.
bool Channel::Impl::skip_rest() {
  std::array<std::byte, 64 << 10> nowhere;
  while (reader.external_left() != 0) {
    const size_t most = std::min(nowhere.size(), reader.external_left());
    const auto got = io.receive(std::span(nowhere).first(most));
    if (!got.ok()) fail(got.status());
    if (got.ok() && got->end) ended();
    if (!got.ok() || got->end || got->bytes == 0) return false;
    last_received = loop.now();
    reader.external_moved(got->bytes);
  }
  skipping = false;
  return true;
}

void Channel::Impl::read_turn() {
  if (reader.external_left() != 0 && !skipping) {
    if (!std::exchange(external_watched, false)) return;
    last_received = loop.now();
    return handler.external();
  }
  for (size_t left = kTurn; left != 0;) {
    if (skipping && !skip_rest()) return;
    if (!take_records()) return;
    if (skipping) continue;
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
  while (has_pending()) {
    const absl::StatusOr<size_t> out = io.send(writer.pending());
    if (!out.ok()) return shut();
    if (*out == 0) break;
    writer.consume(*out);
  }
  if (!has_pending() && !std::exchange(said_end, true)) {
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
  const bool moved = std::exchange(sent_before, sent()) != sent();
  const bool sending = has_pending() || has_external();
  if (moved || !sending) last_sent = loop.now();
  if (wants_to_write() && last_sent <= limit) {
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
