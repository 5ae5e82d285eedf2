// SPDX-License-Identifier: Apache-2.0
#include "tests/fakes/model_state.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "hw/virtio/sigpipe_held.h"
#include "tests/fakes/model_poller.h"

namespace vhost::testing {
namespace {

constexpr uint64_t kPiece = uint64_t{256} << 10;
constexpr int kPiecesPerTurn = 16;
// Prime: a piece that is missing, or comes twice, shows.
constexpr uint64_t kPeriod = 65521;

// So much of the pattern that any piece is a part of it.
const std::string& pattern() {
  static const std::string* const bytes = [] {
    auto* out = new std::string;
    uint32_t state = 1;
    for (uint64_t i = 0; i < kPeriod; ++i) {
      state = state * 1664525 + 1013904223;
      out->push_back(static_cast<char>(state >> 24));
    }
    while (out->size() < kPeriod + kPiece) {
      out->push_back((*out)[out->size() - kPeriod]);
    }
    return out;
  }();
  return *bytes;
}

}  // namespace

std::string model_state_bytes(uint64_t first, uint64_t count) {
  std::string out;
  out.reserve(count);
  while (out.size() < count) {
    const uint64_t at = (first + out.size()) % kPeriod;
    out.append(pattern(), at, std::min(kPiece, count - out.size()));
  }
  return out;
}

ModelStateMove::ModelStateMove(bool saving, UniqueFd fd,
                               const ModelStateOptions* options,
                               ModelStateReport* report, Time start)
    : saving_(saving),
      fd_(std::move(fd)),
      options_(*options),
      report_(*report),
      start_(start),
      size_(options->bytes.has_value() ? options->bytes->size()
                                       : options->size) {
  make_nonblocking(fd_);
  if (saving) {
    ++report_.saves;
    report_.saved = 0;
  } else {
    ++report_.loads;
    report_.loaded = 0;
    report_.load_ended = false;
    report_.load_matches = true;
  }
}

bool ModelStateMove::progress(Time now) {
  const SigpipeHeld held;
  for (int i = 0; i < kPiecesPerTurn && waits() && now >= start_; ++i) {
    const uint64_t before = moved_;
    if (met_fault()) return options_.fault != ModelStateFault::kDies;
    if (!(saving_ ? save() : load())) return true;
    (saving_ ? report_.saved : report_.loaded) += moved_ - before;
  }
  return true;
}

bool ModelStateMove::read_to_end() {
  for (bool more = true; more && waits();) {
    const uint64_t before = moved_;
    if (!progress(start_)) return false;
    more = moved_ != before;
  }
  return true;
}

bool ModelStateMove::met_fault() {
  using enum ModelStateFault;
  if (moved_ < options_.fault_after) return false;
  switch (options_.fault) {
    case kFallsSilent:
      silent_ = true;
      return true;
    case kDies:
      return true;
    case kEndsEarly:
    case kStopsReading:
    case kStopsAndVouches:
      cut_short_ = true;
      fd_.reset();
      return true;
    default:
      return false;
  }
}

// False: not now, or never again.
bool ModelStateMove::save() {
  const bool endless = options_.fault == ModelStateFault::kNeverEnds;
  uint64_t left = endless ? kPiece : size_ - moved_;
  if (left == 0) {
    fd_.reset();
    return false;
  }
  if (options_.fault != ModelStateFault::kNone && options_.fault_after > 0) {
    left = std::min(left, options_.fault_after - moved_);
  }
  const size_t count = static_cast<size_t>(std::min(left, kPiece));
  const char* const from = options_.bytes.has_value()
                               ? options_.bytes->data() + moved_
                               : pattern().data() + moved_ % kPeriod;
  const ssize_t done = ::write(fd_.get(), from, count);
  if (done < 0 && errno == EAGAIN) return false;
  if (done < 0) {
    cut_short_ = true;
    fd_.reset();
    return false;
  }
  moved_ += static_cast<uint64_t>(done);
  return true;
}

bool ModelStateMove::load() {
  std::string piece(kPiece, '\0');
  uint64_t most = kPiece;
  if (options_.fault != ModelStateFault::kNone && options_.fault_after > 0) {
    most = std::min(most, options_.fault_after - moved_);
  }
  const ssize_t got = ::read(fd_.get(), piece.data(), most);
  if (got < 0 && errno == EAGAIN) return false;
  if (got <= 0) {
    report_.load_ended = got == 0;
    fd_.reset();
    return false;
  }
  piece.resize(static_cast<size_t>(got));
  const std::string expected =
      options_.bytes.has_value()
          ? (moved_ < size_ ? options_.bytes->substr(moved_, piece.size()) : "")
          : model_state_bytes(moved_, piece.size());
  if (piece != expected) report_.load_matches = false;
  moved_ += static_cast<uint64_t>(got);
  return true;
}

bool ModelStateMove::whole() const {
  using enum ModelStateFault;
  if (options_.fault == kFailsCheck) return false;
  if (options_.fault == kStopsAndVouches) return true;
  if (!over() || cut_short_) return false;
  return moved_ == size_ && (saving_ || report_.load_matches);
}

}  // namespace vhost::testing
