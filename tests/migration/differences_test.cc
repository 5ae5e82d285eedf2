// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/migration/stream_kit.h"

namespace vhost {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// What is said of a destination that differs from the sample like this.
std::vector<std::string> said(const std::function<void(Manifest&)>& change) {
  Manifest destination = sample_manifest();
  change(destination);
  return differences(sample_manifest(), destination);
}

TEST(Differences, OfEqualMachinesAreNone) {
  EXPECT_THAT(differences(sample_manifest(), sample_manifest()), IsEmpty());
}

TEST(Differences, InWhatDoesNotMatterAreNone) {
  EXPECT_THAT(said([](Manifest& m) {
                m.integrity = Integrity::kTransport;  // Takes both.
                m.devices[0].backend = "kernel";
                m.devices[0].protocol_features = 0;
                m.devices[0].queue_sizes = {1024, 128};
                m.devices[0].offered.set(5);
                m.devices[0].acked = {};  // No driver there yet.
                m.devices[0].device_state = true;
                m.devices[0].inflight->size = 0;  // Not known yet.
                m.devices[1].inflight = InflightLayout{64, 1, 1};
              }),
              IsEmpty());
}

TEST(Differences, OfStreams) {
  EXPECT_THAT(said([](Manifest& m) {
                m.major = 2;
                m.page_size = 65536;
              }),
              ElementsAre("the stream is of version 1.0, the destination knows "
                          "2.x",
                          "the page size is 4096, the destination's is 65536"));
  Manifest source = sample_manifest();
  source.integrity = Integrity::kTransport;
  source.required_features = 0x30;
  Manifest destination = sample_manifest();
  destination.optional_features = 0x10;
  EXPECT_THAT(
      differences(source, destination),
      ElementsAre("the stream needs features 0x20 that the destination does "
                  "not know",
                  "the records are not hashed, the destination insists on it"));
}

TEST(Differences, OfMemory) {
  EXPECT_THAT(
      said([](Manifest& m) {
        m.blocks[0].gpa = 0x1000;
        m.blocks[0].size = 0x2000;
        m.blocks[1].id = 7;
      }),
      ElementsAre(
          "RAM block 0 (ram): its address is 0, the destination's is 4096",
          "RAM block 0 (ram): its size is 1048576, the destination's is 8192",
          "RAM block 1 (rom-shadow): the destination has none",
          "RAM block 7 (rom-shadow): only the destination has one"));
}

TEST(Differences, OfDevices) {
  EXPECT_THAT(
      said([](Manifest& m) {
        m.devices[0].id = 77;
        m.devices[1].name = "share";
        m.devices[1].virtio_id = 1;
        m.devices[1].device_class = "virtio-fs-pci";
        m.devices[1].config_length = 44;
      }),
      ElementsAre("disk0: the destination has no device 5",
                  "files: its name is files, the destination's is share",
                  "files: the virtio id is 26, the destination's is 1",
                  "files: the class is virtio-fs-mmio, the "
                  "destination's is virtio-fs-pci",
                  "files: the configuration's length is 0, the "
                  "destination's is 44",
                  "disk0: only the destination has device 77"));
}

TEST(Differences, OfQueues) {
  EXPECT_THAT(
      said([](Manifest& m) {
        m.devices[0].queue_sizes = {256, 64, 64};
      }),
      ElementsAre("disk0: the number of queues is 2, the destination's is 3",
                  "disk0: queue 1 has 128 descriptors, the destination at most "
                  "64"));
}

TEST(Differences, OfFeaturesAreNamed) {
  EXPECT_THAT(
      said([](Manifest& m) { m.devices[0].offered = {kFeatureVersion1}; }),
      ElementsAre("disk0: the guest uses features that the destination "
                  "does not offer: FLUSH EVENT_IDX"));
}

TEST(Differences, OfFeaturesThatTheGuestKnowsNothingOfAreNone) {
  Manifest source = sample_manifest();
  source.devices[0].acked.set(kFeatureLogAll).set(kFeatureProtocolFeatures);
  EXPECT_THAT(differences(source, sample_manifest()), IsEmpty());
}

TEST(Differences, OfPackedRings) {
  Manifest source = sample_manifest();
  source.devices[0].format = RingFormat::kPacked;
  EXPECT_THAT(differences(source, sample_manifest()),
              ElementsAre("disk0: the guest uses features that the destination "
                          "does not offer: RING_PACKED"));
}

TEST(Differences, OfMemorySlots) {
  EXPECT_THAT(said([](Manifest& m) { m.devices[1].max_memory_slots = 1; }),
              ElementsAre("files: there are 2 blocks of RAM, the destination "
                          "takes 1"));
}

TEST(Differences, OfStateThatNobodyTakes) {
  EXPECT_THAT(
      said([](Manifest& m) {
        m.devices[0].inflight.reset();
        m.devices[1].device_state = false;
      }),
      ElementsAre("disk0: the back-end has an inflight area, the "
                  "destination's has none",
                  "files: the back-end has a state, the destination's takes "
                  "none"));
  EXPECT_THAT(
      said([](Manifest& m) { m.devices[0].inflight->queue_size = 256; }),
      ElementsAre("disk0: the inflight area is 256 bytes for 2 queues "
                  "of 128, the destination's is 256 bytes for 2 queues "
                  "of 256"));
  EXPECT_THAT(said([](Manifest& m) { m.devices[0].inflight->size = 320; }),
              ElementsAre("disk0: the inflight area is 256 bytes for 2 queues "
                          "of 128, the destination's is 320 bytes for 2 queues "
                          "of 128"));
}

TEST(Differences, IncludeTheBlockersOfBothSides) {
  Manifest source = sample_manifest();
  source.devices[0].blockers = {"no LOG_SHMFD"};
  Manifest destination = sample_manifest();
  destination.devices[0].blockers = {"it is in use"};
  EXPECT_THAT(differences(source, destination),
              ElementsAre("disk0: no LOG_SHMFD",
                          "disk0: at the destination: it is in use"));
}

}  // namespace
}  // namespace vhost
