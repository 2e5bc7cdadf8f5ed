//! The memory that this process can have.

use sysinfo::{Process, ProcessRefreshKind, ProcessesToUpdate, System};

/// Bytes of the machine, or what a container or a batch system leaves this process of them.
#[derive(Clone, Copy, Debug)]
pub struct OwnMemory {
    /// All, free or in use.
    pub total: u64,
    /// Those that are free.
    pub available: u64,
}

impl OwnMemory {
    /// Asks the system; `None`: it does not say.
    pub fn read() -> Option<Self> {
        let mut system = System::new();
        system.refresh_memory();
        let own = sysinfo::get_current_pid().ok()?;
        let only_own = ProcessesToUpdate::Some(&[own]);
        system.refresh_processes_specifics(only_own, false, ProcessRefreshKind::nothing());
        let memory = Self {
            total: system.total_memory(),
            available: system.available_memory(),
        };
        let group = system.process(own).and_then(Process::cgroup_limits);
        Some(group.map_or(memory, |group| Self {
            total: memory.total.min(group.total_memory),
            available: memory.available.min(group.free_memory),
        }))
    }
}
