// SPDX-License-Identifier: Apache-2.0
#include "vhostdev/testing/fake_backend.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "tests/fakes/fake_backend_run.h"
#include "vhostdev/status.h"
#include "vhostdev/vhost_user.h"

namespace vhost::testing {
namespace {

constexpr uint32_t kMaxConfigAccess = 256;  // Bytes.
constexpr uint64_t kDoorbellSize = 4096;    // Bytes.

absl::Status unimplemented(absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat(what, ": not offered"));
}

}  // namespace

BatchResult FakeBackend::run(const Verb& verb, const BackendTraits& traits,
                             Plan plan) {
  Run run(*this, traits, plan);
  std::visit(run, verb);
  return run.finish();
}

void FakeBackend::Run::no_such_verb(absl::string_view what) {
  whole([&] { return unimplemented(what); });
}

void FakeBackend::forget_connection() {
  features.reset();
  memory.clear();
  queues.clear();
  inflight.reset();
  log_size = 0;
  log_base = nullptr;
  log_event.reset();
  suspended = false;
  driver_ok = false;
  config_call.reset();
  iotlb.clear();
  cid.reset();
  state_direction.reset();
  state.reset();
}

void FakeBackend::Run::operator()(const Open& verb) {
  whole([&] {
    if (verb.config_size == 0) return absl::OkStatus();
    if (!traits_.has_config) return unimplemented("configuration space");
    if (verb.config_size > backend_.config.size()) {
      return fake_refusal("configuration space is shorter");
    }
    const auto end = backend_.config.begin() + verb.config_size;
    result_.bytes.assign(backend_.config.begin(), end);
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const SetFeatures& verb) {
  whole([&] {
    if (!traits_.features.contains(verb.features)) {
      return fake_refusal("a feature that is not offered");
    }
    const bool running =
        std::any_of(backend_.queues.begin(), backend_.queues.end(),
                    [](const auto& entry) { return entry.second.started; });
    if (running && !verb.running) {
      return fake_refusal("features of a start while queues run");
    }
    if (running && verb.features.has(kFeatureLogAll)) {
      VHOST_RETURN_IF_ERROR(log_reaches_all());
    }
    if (running && backend_.features.has_value()) {
      FeatureSet changed = (verb.features - *backend_.features) |
                           (*backend_.features - verb.features);
      if (!changed.clear(kFeatureLogAll).empty()) {
        return fake_refusal("features change while queues run");
      }
    }
    backend_.features = verb.features;
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const GetInflight& verb) {
  if (!traits_.has_inflight) return no_such_verb("inflight area");
  step({.kind = StepKind::kInflight}, "inflight", [&] {
    const uint64_t size = uint64_t{64} * verb.num_queues * verb.queue_size;
    if (size == 0) return fake_refusal("inflight area of 0 bytes");
    if (!backend_.wants_inflight) return absl::OkStatus();
    const uint64_t file_size = backend_.inflight_file_bytes.value_or(size);
    UniqueFd fd(::memfd_create("inflight", MFD_CLOEXEC));
    if (!fd.valid() ||
        ::ftruncate(fd.get(), static_cast<off_t>(file_size)) != 0) {
      return fake_refusal("no memory for an inflight area");
    }
    result_.inflight = {
        .fd = std::make_shared<const UniqueFd>(std::move(fd)),
        .mmap_size = size,
        .num_queues = verb.num_queues,
        .queue_size = verb.queue_size,
    };
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const Configure& verb) {
  if (verb.memory.has_value()) change_memory(*verb.memory);
  if (verb.inflight.has_value()) {
    step({.kind = StepKind::kInflight}, "inflight", [&] {
      if (!traits_.has_inflight) {
        return fake_refusal("no inflight area negotiated");
      }
      backend_.inflight = verb.inflight;
      return absl::OkStatus();
    });
  }
  if (verb.log.has_value()) {
    step({.kind = StepKind::kLog}, "log", [&] { return set_log(*verb.log); });
  }
  for (uint32_t i = 0; i < verb.iotlb.size(); ++i) {
    step({.kind = StepKind::kIotlb, .index = i}, "iotlb",
         [&] { return update_iotlb(verb.iotlb[i]); });
  }
  for (const VringSetup& setup : verb.queues) configure_queue(setup);
}

void FakeBackend::Run::operator()(const Go& verb) {
  for (const Go::Queue& queue : verb.queues) {
    queue_step(StepKind::kKick, to_int(queue.index), "kick",
               [&] { return start(queue); });
  }
  for (const Go::Queue& queue : verb.queues) {
    if (!queue.enabled || !traits_.has_queue_enable) continue;
    queue_step(StepKind::kEnable, to_int(queue.index), "enable",
               [&] { return enable(to_int(queue.index), true); });
  }
}

void FakeBackend::Run::operator()(const DriverOk&) {
  whole([&] {
    if (!traits_.has_status) return absl::OkStatus();
    if (!backend_.features.has_value()) {
      return fake_refusal("features are not set");
    }
    backend_.driver_ok = true;
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const Quiesce& verb) {
  for (const BackendQueue vq : verb.queues) {
    queue_step(StepKind::kDisable, to_int(vq), "disable",
               [&] { return enable(to_int(vq), false); });
  }
  if (traits_.base_after_stop == BaseAfterStop::kNeedsSuspend &&
      result_.status.ok()) {
    backend_.suspended = true;
  }
}

void FakeBackend::Run::operator()(const Harvest& verb) {
  const bool worthless =
      traits_.base_after_stop == BaseAfterStop::kNeedsSuspend &&
      !backend_.suspended;
  for (const BackendQueue vq : verb.queues) {
    const uint32_t index = to_int(vq);
    queue_step(StepKind::kHarvest, index, "base", [&] {
      VHOST_RETURN_IF_ERROR(started(index));
      FakeQueue& queue = backend_.queues[index];
      queue.started = false;
      queue.enabled = false;
      if (const auto set = backend_.harvests.find(index);
          set != backend_.harvests.end()) {
        queue.base = set->second;
      }
      result_.bases.push_back(worthless ? std::nullopt
                                        : std::optional<VringBase>(queue.base));
      return absl::OkStatus();
    });
  }
}

void FakeBackend::Run::operator()(const Resume&) {
  if (traits_.resume != ResumeMode::kInPlace) return no_such_verb("resume");
  whole([&] {
    backend_.suspended = false;
    for (auto& [index, queue] : backend_.queues) queue.enabled = queue.started;
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const ResetStatus&) {
  whole([&] {
    if (!traits_.has_status) return absl::OkStatus();
    backend_.features.reset();
    backend_.queues.clear();
    backend_.suspended = false;
    backend_.driver_ok = false;
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const ResetDevice&) {
  if (!traits_.has_reset) return no_such_verb("reset");
  whole([&] {
    backend_.features.reset();
    backend_.queues.clear();
    backend_.inflight.reset();
    backend_.suspended = false;
    backend_.driver_ok = false;
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const SetQueuesEnabled& verb) {
  if (!traits_.has_queue_enable) return no_such_verb("queue enable");
  for (const SetQueuesEnabled::Queue& queue : verb.queues) {
    queue_step(queue.enabled ? StepKind::kEnable : StepKind::kDisable,
               to_int(queue.index), queue.enabled ? "enable" : "disable",
               [&] { return enable(to_int(queue.index), queue.enabled); });
  }
}

void FakeBackend::Run::operator()(const SetCalls& verb) {
  for (const SetCalls::Queue& queue : verb.queues) {
    queue_step(StepKind::kCall, to_int(queue.index), "call", [&] {
      const auto found = backend_.queues.find(to_int(queue.index));
      if (found == backend_.queues.end()) return fake_refusal("not configured");
      return set_notifier(queue.call, found->second.call,
                          found->second.call_mode);
    });
  }
}

void FakeBackend::Run::operator()(const SetLog& verb) {
  if (!traits_.takes_log) return no_such_verb("dirty log");
  step({.kind = StepKind::kLog}, "log", [&] { return set_log(verb.log); });
}

void FakeBackend::Run::operator()(const SetRingLogging& verb) {
  if (!traits_.takes_log) return no_such_verb("dirty log");
  for (const VringSetup& setup : verb.queues) {
    const uint32_t index = to_int(setup.index);
    queue_step(StepKind::kAddr, index, "addr", [&] {
      VHOST_RETURN_IF_ERROR(started(index));
      FakeQueue& queue = backend_.queues[index];
      if (queue.addr != setup.addr) {
        return fake_refusal("addresses of a running ring");
      }
      if (setup.log_used) VHOST_RETURN_IF_ERROR(log_reaches_all());
      queue.log_used = setup.log_used;
      return absl::OkStatus();
    });
  }
}

void FakeBackend::Run::operator()(const GetConfig& verb) {
  if (!traits_.has_config) return no_such_verb("configuration space");
  whole([&] {
    if (verb.size == 0 || verb.size > kMaxConfigAccess) {
      return absl::InvalidArgumentError(
          absl::StrCat("configuration space: read of ", verb.size, " bytes"));
    }
    if (uint64_t{verb.offset} + verb.size > backend_.config.size()) {
      return fake_refusal("past the configuration space");
    }
    const auto begin = backend_.config.begin() + verb.offset;
    result_.bytes.assign(begin, begin + verb.size);
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const SetConfig& verb) {
  if (!traits_.has_config) return no_such_verb("configuration space");
  whole([&] {
    if (verb.bytes.empty() || verb.bytes.size() > kMaxConfigAccess) {
      return absl::InvalidArgumentError(absl::StrCat(
          "configuration space: write of ", verb.bytes.size(), " bytes"));
    }
    if (verb.offset + verb.bytes.size() > backend_.config.size()) {
      return fake_refusal("past the configuration space");
    }
    if (backend_.config_read_only && verb.writer == ConfigWriter::kDriver) {
      return fake_refusal("read-only configuration");
    }
    std::copy(verb.bytes.begin(), verb.bytes.end(),
              backend_.config.begin() + verb.offset);
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const SetConfigCall& verb) {
  if (!traits_.has_config_interrupt) return no_such_verb("config interrupt");
  whole([&] {
    NotifyMode mode = NotifyMode::kPolling;
    return set_notifier(verb.call, backend_.config_call, mode);
  });
}

void FakeBackend::Run::operator()(const UpdateIotlb& verb) {
  if (!traits_.has_iotlb) return no_such_verb("iotlb");
  step({.kind = StepKind::kIotlb}, "iotlb", [&] { return update_iotlb(verb); });
}

void FakeBackend::Run::operator()(const KickQueues& verb) {
  if (!traits_.in_band_notifications) return no_such_verb("in-band kicks");
  for (const BackendQueue vq : verb.queues) {
    queue_step(StepKind::kKick, to_int(vq), "kick", [&] {
      VHOST_RETURN_IF_ERROR(started(to_int(vq)));
      FakeQueue& queue = backend_.queues[to_int(vq)];
      if (queue.kick_mode != NotifyMode::kInBand) {
        return fake_refusal("its kicks do not come in band");
      }
      ++queue.in_band_kicks;
      return absl::OkStatus();
    });
  }
}

void FakeBackend::Run::operator()(const GetHostNotifiers& verb) {
  if (!traits_.has_host_notifiers) return no_such_verb("host notifiers");
  whole([&] {
    for (const BackendQueue vq : verb.queues) {
      VHOST_RETURN_IF_ERROR(started(to_int(vq)));
      HostNotifierArea& area = result_.host_notifiers.emplace_back();
      if (backend_.queues_without_doorbell.contains(to_int(vq))) continue;
      area.fd = UniqueFd(::memfd_create("doorbell", MFD_CLOEXEC));
      area.offset = uint64_t{to_int(vq)} * kDoorbellSize;
      area.size = kDoorbellSize;
      if (!area.fd.valid()) return fake_refusal("no memory for a doorbell");
    }
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const ResetOwner&) {
  if (!backend_.can_reset_owner) return no_such_verb("reset of the owner");
  whole([&] {
    for (const auto& [index, queue] : backend_.queues) {
      if (queue.started) return fake_refusal("queues run");
    }
    backend_.forget_connection();
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const SetGuestCid& verb) {
  if (!backend_.is_vsock) return no_such_verb("guest CID");
  whole([&] {
    if (verb.cid < 3 || verb.cid > 0xffff'fffe) {
      return fake_refusal(absl::StrCat("no guest has cid ", verb.cid));
    }
    if (backend_.cids_in_use.contains(verb.cid)) {
      return fake_refusal(absl::StrCat("cid ", verb.cid, " is in use"));
    }
    backend_.cid = verb.cid;
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const SetDeviceStateFd& verb) {
  if (!traits_.has_device_state) return no_such_verb("device state");
  whole([&] {
    for (const auto& [index, queue] : backend_.queues) {
      if (queue.started) return fake_refusal("queues run");
    }
    backend_.state = UniqueFd(::dup(verb.fd.get()));
    if (!backend_.state.valid()) return fake_refusal("no descriptor came");
    backend_.state_direction = verb.direction;
    if (backend_.state_reply.valid()) {
      backend_.state.reset();
      result_.fd = std::move(backend_.state_reply);
    }
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const CheckDeviceState&) {
  if (!traits_.has_device_state) return no_such_verb("device state");
  whole([&] {
    if (!backend_.state_direction.has_value()) {
      return fake_refusal("no state moved");
    }
    backend_.state_direction.reset();
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const SetMtu& verb) {
  if ((traits_.protocol_features >> kProtocolMtu & 1) == 0) {
    return no_such_verb("mtu");
  }
  whole([&] {
    if (verb.mtu < 68) return fake_refusal("mtu below 68 bytes");
    backend_.mtu = verb.mtu;
    return absl::OkStatus();
  });
}

void FakeBackend::Run::operator()(const SendRarp&) {
  if ((traits_.protocol_features >> kProtocolRarp & 1) == 0) {
    return no_such_verb("rarp");
  }
  whole([] { return absl::OkStatus(); });
}

}  // namespace vhost::testing
