// SPDX-License-Identifier: Apache-2.0
#include "tests/model_based/step.h"

#include <array>

#include "absl/strings/str_cat.h"

namespace vhost::model_based {
namespace {

struct Named {
  Kind kind;
  const char* name;
  uint32_t weight;  // How often, among all.
};

// What makes a device run is frequent, so that the rest meets running devices.
constexpr std::array<Named, kKinds> kNamed = {{
    {Kind::kInit, "init", 12},
    {Kind::kStart, "start", 18},
    {Kind::kStop, "stop", 8},
    {Kind::kForceStop, "force stop", 1},
    {Kind::kReset, "reset", 3},
    {Kind::kStartQueue, "start queue", 6},
    {Kind::kStopQueue, "stop queue", 5},
    {Kind::kEnable, "enable", 4},
    {Kind::kDisable, "disable", 4},
    {Kind::kGetConfig, "get config", 3},
    {Kind::kSetConfig, "set config", 2},
    {Kind::kMask, "mask", 4},
    {Kind::kUnmask, "unmask", 5},
    {Kind::kPlug, "plug", 6},
    {Kind::kUnplug, "unplug", 5},
    {Kind::kLogOn, "log on", 3},
    {Kind::kLogOff, "log off", 3},
    {Kind::kOffer, "offer", 8},
    {Kind::kComplete, "complete", 9},
    {Kind::kStick, "stick", 2},
    {Kind::kUnstick, "unstick", 3},
    {Kind::kSignal, "signal", 4},
    {Kind::kChangeConfig, "change config", 2},
    {Kind::kDisconnect, "disconnect", 2},
    {Kind::kInterrupted, "interrupted", 3},
}};

const Named& named(Kind kind) { return kNamed[static_cast<size_t>(kind)]; }

constexpr std::array<Kind, 5> kInterruptible = {
    Kind::kStart, Kind::kStop, Kind::kReset, Kind::kStopQueue, Kind::kEnable};
constexpr uint32_t kMostAnswers = 5;

const char* name_of(Interrupted::By by) {
  switch (by) {
    case Interrupted::By::kStop:
      return "stop";
    case Interrupted::By::kForceStop:
      return "force stop";
    case Interrupted::By::kCancel:
      return "cancel";
    case Interrupted::By::kDisconnect:
      return "disconnect";
    case Interrupted::By::kRefusal:
      return "refusal";
    case Interrupted::By::kSilence:
      return "silence";
    case Interrupted::By::kSecond:
      return "a second operation";
    case Interrupted::By::kPlug:
      return "plug";
    case Interrupted::By::kDestruction:
      return "destruction";
  }
  return "?";
}

Kind random_kind(std::mt19937_64& random) {
  uint32_t total = 0;
  for (const Named& entry : kNamed) total += entry.weight;
  auto left = static_cast<uint32_t>(random() % total);
  for (const Named& entry : kNamed) {
    if (left < entry.weight) return entry.kind;
    left -= entry.weight;
  }
  return Kind::kInit;
}

}  // namespace

Interrupted decode_interrupted(uint32_t value) {
  Interrupted out;
  out.operation = kInterruptible[value % kInterruptible.size()];
  value /= static_cast<uint32_t>(kInterruptible.size());
  out.by = static_cast<Interrupted::By>(value % Interrupted::kByCount);
  value /= Interrupted::kByCount;
  out.after = value % kMostAnswers;
  return out;
}

std::string to_string(const Step& step) {
  std::string out = named(step.kind).name;
  switch (step.kind) {
    case Kind::kInit:
    case Kind::kStart:
    case Kind::kForceStop:
    case Kind::kReset:
    case Kind::kGetConfig:
    case Kind::kLogOn:
    case Kind::kLogOff:
    case Kind::kDisconnect:
      return out;
    case Kind::kStop:
    case Kind::kSetConfig:
    case Kind::kChangeConfig:
      return absl::StrCat(out, " ", step.value);
    case Kind::kInterrupted: {
      const Interrupted what = decode_interrupted(step.value);
      return absl::StrCat(named(what.operation).name, " interrupted after ",
                          what.after, " answers by ", name_of(what.by));
    }
    case Kind::kOffer:
    case Kind::kComplete:
      return absl::StrCat(out, " q", step.queue, " ", step.value);
    default:
      return absl::StrCat(out, " ", step.queue);
  }
}

std::string to_string(const std::vector<Step>& steps) {
  std::string out;
  for (const Step& step : steps) {
    absl::StrAppend(&out, out.empty() ? "" : "; ", to_string(step));
  }
  return out;
}

std::vector<Step> random_steps(std::mt19937_64& random, size_t count) {
  std::vector<Step> steps(count);
  for (Step& step : steps) {
    step.kind = random_kind(random);
    const bool place = step.kind == Kind::kPlug || step.kind == Kind::kUnplug;
    step.queue = static_cast<uint32_t>(random() % (place ? kPlugs : kQueues));
    switch (step.kind) {
      case Kind::kStop:
        step.value = static_cast<uint32_t>(random() % 4);  // Not kForced.
        break;
      case Kind::kOffer:
      case Kind::kComplete:
        step.value = 1 + static_cast<uint32_t>(random() % 5);
        break;
      default:
        step.value = static_cast<uint32_t>(random() % 100'000);
    }
  }
  return steps;
}

}  // namespace vhost::model_based
