// SPDX-License-Identifier: Apache-2.0
//
// Parts of a guest that comes from another process, of any content:
//   kind:u8 bytes
// kind: 0 a journal of 16 units, 1 a report, 2 a workload, 3 a guest without
// devices, 4 a run over a client with nothing in flight, behind its address.
// What is accepted is written as it was read.
#include <cstdlib>
#include <memory>

#include "absl/strings/string_view.h"
#include "tools/minivm/driver_guest.h"
#include "tools/minivm/workload.h"
#include "tools/vhostctl/journal.h"
#include "tools/vhostctl/journal_run.h"
#include "vhostdev/testing/fake_vhost_ops.h"
#include "vhostdev/testing/manual_event_loop.h"

namespace vhost::minivm {
namespace {

constexpr uint32_t kUnits = 16;
constexpr uint32_t kUnit = 512;

void check(bool condition) {
  if (!condition) std::abort();
}

void run_journal(absl::string_view bytes) {
  StateReader in(bytes);
  ctl::Journal journal(kUnits, kUnit, 1);
  if (!journal.load(in).ok() || !in.finish().ok()) return;
  StateWriter out;
  journal.save(out);
  check(out.out() == bytes);
  // And it works.
  for (uint64_t unit = 0; unit < kUnits; ++unit) {
    if (journal.writing(unit)) journal.end_write(unit, unit % 2 == 0);
    journal.begin_write(unit);
    journal.end_write(unit, true);
  }
}

void run_report(absl::string_view bytes) {
  StateReader in(bytes);
  const WorkloadReport report = load_report(in);
  if (!in.finish().ok()) return;
  StateWriter out;
  save_report(report, out);
  // Nets are sorted.
  check(out.out().size() == bytes.size());
}

void run_workload(absl::string_view bytes) {
  StateReader in(bytes);
  const Workload workload = load_workload(in);
  if (!in.finish().ok()) return;
  StateWriter out;
  save_workload(workload, out);
  check(out.out() == bytes);
}

// A guest's place, and a disk.
struct Place {
  Place() {
    auto ops = std::make_unique<testing::FakeVhostOps>();
    ops->backend.config.resize(kBlkConfigSize);
    ops->backend.config[1] = std::byte{1};  // 256 sectors.
    driver = std::make_unique<VirtioDriver>(
        context, dma, std::move(ops),
        VirtioDriver::Options{.device_id = kDeviceIdBlock,
                              .max_queues = 1,
                              .config_size = kBlkConfigSize});
    check(driver->reset({kFeatureVersion1}).ok());
    check(driver->start({.queues = 1, .depth = 16}).ok());
    auto made = BlkClient::create(*driver, {.depth = 4});
    check(made.ok());
    client = *std::move(made);
  }

  testing::ManualEventLoop loop;
  AddressSpace memory;
  VhostContext context{loop, memory};
  DmaMemory dma{context, memory};
  std::unique_ptr<VirtioDriver> driver;
  std::unique_ptr<BlkClient> client;
};

void run_guest(absl::string_view bytes) {
  testing::ManualEventLoop loop;
  AddressSpace memory;
  VhostContext context(loop, memory);
  DmaMemory dma(context, memory);
  DriverGuest guest(loop, dma, {});
  if (!guest.load(bytes).ok()) return;
  const auto saved = guest.save();
  check(saved.ok() && *saved == bytes);
}

void run_run(absl::string_view bytes) {
  static Place& place = *new Place;
  const ctl::JournalRun::Options options = {
      .size = kUnits * kUnit, .unit = kUnit, .window = 4};
  uint64_t gpa = 0;
  {
    const auto piece =
        place.dma.allocate(ctl::JournalRun::memory_for(options), 4096);
    check(piece.ok());
    gpa = piece->gpa();
  }
  StateWriter whole;
  whole.u64(gpa);
  const std::string input = whole.take() + std::string(bytes);
  StateReader in(input);
  const auto run =
      ctl::JournalRun::restore(*place.client, place.dma, options, in);
  if (!run.ok() || !in.finish().ok()) return;
  check((*run)->in_flight() == 0);
  StateWriter out;
  (*run)->save(out);
  check(out.out() == input);
}

}  // namespace
}  // namespace vhost::minivm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace vhost::minivm;
  if (size == 0) return 0;
  const absl::string_view bytes(reinterpret_cast<const char*>(data + 1),
                                size - 1);
  switch (data[0] % 5) {
    case 0:
      run_journal(bytes);
      break;
    case 1:
      run_report(bytes);
      break;
    case 2:
      run_workload(bytes);
      break;
    case 3:
      run_guest(bytes);
      break;
    default:
      run_run(bytes);
  }
  return 0;
}
