//! What the system says of this process: on Linux, from `/proc`. Where it says nothing there are no figures.

use std::{
    fs,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

use super::exposition::{Exposition, Kind};

/// About when the process was started: when its first node was. The kernel says it in ticks since it was itself.
static STARTED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// Notes that the process has started.
pub fn start() {
    LazyLock::force(&STARTED);
}

/// Tells the figures by the names that Prometheus' own libraries give them. Reads files that are no files: call it where
/// one may wait.
pub fn tell(out: &mut Exposition) {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let cpu_seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    out.counter("process_cpu_seconds_total", "Processor time that the process has taken.", cpu_seconds);
    let started = STARTED.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    out.gauge("process_start_time_seconds", "When the process was started, in seconds since 1970.", started);
    let mut figure = |name, help, value: Option<u64>| {
        let mut family = out.family(Kind::Gauge, name, help);
        value.into_iter().for_each(|value| family.sample(&[], value));
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name| field(&status, name).map(|kib: u64| kib * 1024);
    figure("process_resident_memory_bytes", "Memory that the process takes.", bytes("VmRSS:"));
    figure("process_virtual_memory_bytes", "Addresses that the process has laid out.", bytes("VmSize:"));
    // The directory itself is open while it is read.
    let fds = fs::read_dir("/proc/self/fd").map(|fds| fds.count().saturating_sub(1) as u64);
    figure("process_open_fds", "File descriptors that are open.", fds.ok());
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    figure("process_max_fds", "File descriptors that may be.", field(&limits, "Max open files"));
    figure("process_threads", "Threads of the process.", field(&status, "Threads:"));
}

/// The first word behind a name that begins a line, as a number.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_names() {
        let status = "Name:\tlamplight\nVmRSS:\t   12345 kB\nThreads:\t7\n";
        assert_eq!(field(status, "VmRSS:"), Some(12_345));
        assert_eq!(field(status, "Threads:"), Some(7));
        assert_eq!(field(status, "VmSize:"), None);
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 unlimited            files\n";
        assert_eq!(field(limits, "Max open files"), Some(1_024));
        assert_eq!(field("Max open files  unlimited  unlimited  files", "Max open files"), None);
    }
}
