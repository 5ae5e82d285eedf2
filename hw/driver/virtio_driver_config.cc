// SPDX-License-Identifier: Apache-2.0
//
// Configuration space and introspection.

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "hw/driver/virtio_driver_impl.h"
#include "vhostdev/status.h"

namespace vhost {
namespace {

// A device whose configuration changes faster than it is read gets what was
// read last.
constexpr uint32_t kReadTries = 4;

struct StatusName {
  uint8_t bit;
  const char* name;
};
constexpr std::array<StatusName, 6> kStatusNames = {{
    {kStatusAcknowledge, "ACKNOWLEDGE"},
    {kStatusDriver, "DRIVER"},
    {kStatusFeaturesOk, "FEATURES_OK"},
    {kStatusDriverOk, "DRIVER_OK"},
    {kStatusNeedsReset, "NEEDS_RESET"},
    {kStatusFailed, "FAILED"},
}};

std::string status_names(uint8_t status) {
  std::vector<std::string> names;
  for (const StatusName& known : kStatusNames) {
    if ((status & known.bit) != 0) names.emplace_back(known.name);
  }
  return names.empty() ? "RESET" : absl::StrJoin(names, " ");
}

}  // namespace

absl::Status VirtioDriver::Impl::check_config(uint32_t offset, size_t size,
                                              bool write) const {
  if ((device_status & kStatusDriver) == 0) {
    return absl::FailedPreconditionError("the device was not reset");
  }
  if (write) VHOST_RETURN_IF_ERROR(check_usable());
  if (offset > options.config_size || size > options.config_size - offset) {
    return absl::InvalidArgumentError(
        absl::StrCat(size, " bytes at ", offset, " of ", options.config_size));
  }
  return absl::OkStatus();
}

absl::Status VirtioDriver::read_config(uint32_t offset,
                                       std::span<std::byte> out) {
  VHOST_RETURN_IF_ERROR(impl_->begin("read config"));
  absl::Status status = impl_->check_config(offset, out.size(), false);
  if (!status.ok() || out.empty()) return impl_->end(status);
  for (uint32_t tries = 0; tries < kReadTries; ++tries) {
    const uint32_t before = impl_->generation;
    status = impl_->dev->run(
        [&](Completion done) {
          impl_->dev->get_config(offset, out, std::move(done));
        },
        impl_->options.config_timeout);
    if (!status.ok() || before == impl_->generation) break;
  }
  impl_->over();
  return status;
}

void VirtioDriver::read_config(uint32_t offset, std::span<std::byte> out,
                               Completion done) {
  absl::Status status = impl_->begin("read config");
  if (status.ok()) {
    status = impl_->check_config(offset, out.size(), false);
    if (!status.ok() || out.empty()) {
      return impl_->post(std::move(done), impl_->end(status));
    }
    return impl_->read_config_again(offset, out, kReadTries, std::move(done));
  }
  impl_->post(std::move(done), std::move(status));
}

void VirtioDriver::Impl::read_config_again(uint32_t offset,
                                           std::span<std::byte> out,
                                           uint32_t tries, Completion done) {
  const uint32_t before = generation;
  dev->get_config(
      offset, out,
      [=, this, done = std::move(done)](absl::Status status) mutable {
        if (status.ok() && before != generation && tries > 1) {
          return read_config_again(offset, out, tries - 1, std::move(done));
        }
        over();
        done(std::move(status));
      });
}

absl::Status VirtioDriver::write_config(uint32_t offset,
                                        std::span<const std::byte> bytes) {
  VHOST_RETURN_IF_ERROR(impl_->begin("write config"));
  absl::Status status = impl_->check_config(offset, bytes.size(), true);
  if (!status.ok() || bytes.empty()) return impl_->end(status);
  status = impl_->dev->run(
      [&](Completion done) {
        impl_->dev->set_config(offset, bytes, ConfigWriter::kDriver,
                               std::move(done));
      },
      impl_->options.config_timeout);
  impl_->over();
  return status;
}

void VirtioDriver::write_config(uint32_t offset,
                                std::span<const std::byte> bytes,
                                Completion done) {
  absl::Status status = impl_->begin("write config");
  if (!status.ok()) return impl_->post(std::move(done), std::move(status));
  status = impl_->check_config(offset, bytes.size(), true);
  if (!status.ok() || bytes.empty()) {
    return impl_->post(std::move(done), impl_->end(status));
  }
  impl_->dev->set_config(offset, bytes, ConfigWriter::kDriver,
                         impl_->then(
                             [this](absl::Status written) {
                               impl_->over();
                               return written;
                             },
                             std::move(done)));
}

uint32_t VirtioDriver::config_generation() const { return impl_->generation; }

std::vector<std::string> VirtioDriver::describe() const {
  const Impl& impl = *impl_;
  std::vector<std::string> out;
  out.push_back(absl::StrCat("name: ", impl.options.name));
  out.push_back(absl::StrCat("back-end: ", impl.dev->traits().kind));
  out.push_back(
      absl::StrCat("device: ", std::string(to_string(impl.dev->state()))));
  out.push_back(absl::StrCat("status: ", status_names(impl.device_status)));
  out.push_back(absl::StrCat(
      "features: ",
      absl::StrJoin(feature_names(impl.options.device_id, impl.agreed.features),
                    " ")));
  out.push_back(absl::StrCat("queues: ", impl.counts.queues, " and ",
                             impl.counts.fixed, " fixed, of ",
                             impl.agreed.max_queues));
  for (const std::shared_ptr<DriverQueue>& queue : impl.all_queues()) {
    const VirtqueueConfig config = queue->config();
    out.push_back(absl::StrCat("vq ", to_int(queue->index()), ": ", config.num,
                               " descriptors at 0x", absl::Hex(config.desc_gpa),
                               queue->acquired() ? ", acquired" : ""));
  }
  return out;
}

}  // namespace vhost
