// SPDX-License-Identifier: Apache-2.0
#ifndef TESTS_GUEST_PAYLOAD_DRIVER_H_
#define TESTS_GUEST_PAYLOAD_DRIVER_H_

// All devices, and the vCPUs that drive them.  Queue q of all disks' is driven
// by vCPU q % cpus.  Interrupts reach vCPU 0 alone, which also has the network
// devices; the others poll their used rings.

#include "tests/guest/payload/boot.h"
#include "tests/guest/payload/disk.h"
#include "tests/guest/payload/nic.h"

namespace vhost::payload {

// Ticks of the watchdog come on it, and minivm's wake-ups.
inline constexpr u32 kWatchdogLine = 1;

class Driver {
 public:
  // Finds the devices and starts them; vCPU 0, before the others.
  void set_up(const TreeFacts& tree, u32 cpus);
  // Until the workload is over.  Every vCPU, with its number.
  void run(u32 cpu);

 private:
  static constexpr u32 kMax = TreeFacts::kMaxDevices;

  // What vCPU 0 knows of a device's interrupts.
  struct Attention {
    bool interrupts = false;  // It has them, and they are used.
    u32 taken = 0;            // Interrupts that were seen to.
    bool armed = false;       // Every ring of it was asked for one.
    bool suspect = false;     // A tick found it with work and no interrupt.
    u32 resets = 0;           // One after the other, with nothing done between.
  };

  bool turn(u32 cpu);
  void wait(u32 seen);

  // vCPU 0's part of it; whether there was anything to do.
  bool look_at_disk(u32 index, bool tick);
  bool look_at_nic(u32 index, bool tick);
  template <typename Reap, typename HasUsed>
  bool attend(Attention& attention, const Device& device, bool tick,
              bool& restart, Reap&& reap, HasUsed&& has_used);
  bool interrupted(Attention& attention, const Device& device, bool& restart);
  void restart(Attention& attention, Disk* disk, Nic* nic);
  // Whether all devices are armed and there is nothing in any ring.
  bool arm_all();

  u32 follow_command(u32 cpu);
  void submit(u32 cpu);
  // Tells minivm what a command came to, when all vCPUs have seen it.
  void answer();
  void answer(u32 command, u32 state, bool checked);

  template <typename Each>
  void each_queue(u32 cpu, Each&& each);
  template <typename Each>
  void each_queue(u32 cpu, u32 disk, Each&& each);

  u32 cpus_ = 1;
  bool polled_ = false;
  Disk disks_[kMax];
  u32 disk_count_ = 0;
  u32 first_queue_[kMax] = {};  // Of all, for each disk.
  Nic nics_[kMax];
  u32 nic_count_ = 0;
  Attention disk_attention_[kMax];
  Attention nic_attention_[kMax];
  u32 ticks_ = 0;  // Seen by vCPU 0.

  // Shared by the vCPUs.
  u32 task_[kMaxCpus] = {};  // The command that each follows.
  u32 checked_[kMaxCpus] = {};
  u32 stop_ = 0;  // vCPU 0 wants the others to keep their hands off.
  u32 stopped_[kMaxCpus] = {};
  u32 answering_ = 0;  // Some vCPU is.
};

}  // namespace vhost::payload

#endif  // TESTS_GUEST_PAYLOAD_DRIVER_H_
