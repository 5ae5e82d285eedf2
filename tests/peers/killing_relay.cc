// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/killing_relay.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "backends/user/wire.h"

namespace vhost::testing {
namespace {

using user::wire::Header;

constexpr int kTurnMs = 5;  // How often it looks whether it is to end.
constexpr int kSendMs = 1000;

// All of `bytes`, with `fds` on the first; false at the end of the connection.
bool send_all(FdRef to, std::span<const std::byte> bytes,
              const std::vector<UniqueFd>& fds) {
  std::vector<int> numbers;
  for (const UniqueFd& fd : fds) numbers.push_back(fd.get());
  std::span<const int> first(numbers);
  while (!bytes.empty()) {
    const user::Sent sent = user::send_some(to, bytes, first);
    if (sent.outcome == user::SendOutcome::kBroken) return false;
    if (sent.outcome == user::SendOutcome::kSent) {
      bytes = bytes.subspan(sent.bytes);
      first = {};
      continue;
    }
    pollfd room = {to.get(), POLLOUT, 0};
    if (::poll(&room, 1, kSendMs) <= 0) return false;
  }
  return true;
}

}  // namespace

KillingRelay::~KillingRelay() {
  over_ = true;
  if (thread_.joinable()) thread_.join();
}

absl::Status KillingRelay::start() {
  absl::StatusOr<user::Listener> listener = user::Listener::listen_on(from_);
  if (!listener.ok()) return listener.status();
  listener_ = *std::move(listener);
  thread_ = std::thread([this] { run(); });
  return absl::OkStatus();
}

void KillingRelay::kill_at(uint64_t message, bool before) {
  before_ = before;
  at_ = message;
}

void KillingRelay::run() {
  while (!over_) {
    pollfd waiting = {listener_->fd().get(), POLLIN, 0};
    if (::poll(&waiting, 1, kTurnMs) <= 0) continue;
    absl::StatusOr<std::optional<UniqueFd>> front = listener_->accept();
    if (front.ok() && front->has_value()) serve(**std::move(front));
  }
}

void KillingRelay::serve(UniqueFd front) {
  // Nobody there: the front-end finds a connection that ends.
  absl::StatusOr<std::optional<UniqueFd>> back = user::connect_to(to_);
  if (!back.ok() || !back->has_value()) return;
  header_.clear();
  payload_left_ = 0;
  while (!over_) {
    std::array<pollfd, 2> both = {
        {{front.get(), POLLIN, 0}, {(*back)->get(), POLLIN, 0}}};
    if (::poll(both.data(), both.size(), kTurnMs) <= 0) continue;
    if (both[0].revents != 0 && !forward(front, **back)) return;
    constexpr size_t kPiece = 4096;
    if (both[1].revents != 0 && !pass_on(**back, front, kPiece, nullptr)) {
      return;
    }
  }
}

bool KillingRelay::pass_on(FdRef from, FdRef to, size_t limit,
                           std::vector<std::byte>* copy) {
  std::array<std::byte, 4096> space;
  const user::Received in =
      user::receive_some(from, std::span(space).first(limit));
  if (in.outcome == user::ReceiveOutcome::kEmpty) return true;
  if (in.outcome != user::ReceiveOutcome::kReceived) return false;
  const auto bytes = std::span<const std::byte>(space).first(in.bytes);
  if (copy != nullptr) copy->insert(copy->end(), bytes.begin(), bytes.end());
  return send_all(to, bytes, in.fds);
}

bool KillingRelay::forward(FdRef front, FdRef back) {
  // The header's bytes are counted as they pass; a message begins with them.
  if (header_.empty() && before_ && at_ == 1) {
    at_ = kNever;
    kill_();
    return false;
  }
  if (header_.size() < sizeof(Header)) {
    const size_t missing = sizeof(Header) - header_.size();
    if (!pass_on(front, back, missing, &header_)) return false;
    if (header_.size() < sizeof(Header)) return true;
    Header head;
    std::memcpy(&head, header_.data(), sizeof(head));
    payload_left_ = head.size;
  } else {
    std::vector<std::byte> payload;
    const size_t limit = std::min<size_t>(payload_left_, 4096);
    if (!pass_on(front, back, limit, &payload)) return false;
    payload_left_ -= payload.size();
  }
  if (payload_left_ > 0) return true;
  header_.clear();
  const uint64_t at = at_;
  if (at == kNever) return true;
  if (at > 1) {
    at_ = at - 1;
  } else if (!before_) {
    at_ = kNever;
    kill_();
    return false;
  }
  return true;
}

}  // namespace vhost::testing
