// SPDX-License-Identifier: Apache-2.0
// Features: what is offered, what the guest accepted, what a back-end is told.
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "hw/virtio/vhost_dev_impl.h"

namespace vhost {

FeatureSet VhostDev::Impl::get_features(FeatureSet table,
                                        FeatureSet features) const {
  FeatureSet offered = traits().features;
  if (!takes_iommu()) offered.clear(kFeatureAccessPlatform);
  return features - (table - offered);
}

absl::Status VhostDev::Impl::ack_features(FeatureSet table,
                                          FeatureSet features) {
  if (services_.answering()) {
    return absl::FailedPreconditionError(absl::StrCat(
        options_.name, ": called while a request of the back-end is answered"));
  }
  const FeatureSet wanted = table & features;
  FeatureSet offered = traits().features;
  if (!takes_iommu()) offered.clear(kFeatureAccessPlatform);
  const FeatureSet lacking = wanted - offered;
  if (!lacking.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        options_.name, ": back-end does not offer ",
        absl::StrJoin(feature_names(device_.device_id(), lacking), " ")));
  }
  acked_ = acked_ | wanted;
  look_at_blockers();
  return absl::OkStatus();
}

void VhostDev::Impl::clear_acked_features() {
  acked_ = FeatureSet();
  look_at_blockers();
}

// A log may not work behind an IOMMU.
void VhostDev::Impl::look_at_blockers() {
  using enum DeviceState;
  if (state() != kCreated && state() != kBroken) update_blockers();
}

// Whether an IOMMU in front of the device, if there is one, is no obstacle.
bool VhostDev::Impl::takes_iommu() const {
  return !device_.has_iommu() || traits().has_iotlb;
}

// What SET_FEATURES says.  An IOMMU that the VMM does not have must not be
// asked for translations, and nobody logs where there is no log, whatever the
// guest accepted.
FeatureSet VhostDev::Impl::wire_features(bool log) const {
  FeatureSet features = acked_;
  features.set(kFeatureLogAll, log);
  if (!device_.has_iommu()) features.clear(kFeatureAccessPlatform);
  return features;
}

}  // namespace vhost
