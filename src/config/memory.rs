//! How much memory this process may use.
//!
//! In: what Linux says of the machine and of the control group. Out: bytes.
//! Invariant: a limit that cannot be read is none.

use std::path::Path;

/// Taken where the system says nothing.
const UNKNOWN_BYTES: u64 = 8 << 30;

/// Limits of a control group: version 2, and 1.
const GROUP_LIMITS: [&str; 2] =
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// The machine's memory, or the control group's limit where that is less.
pub(super) fn available_bytes() -> u64 {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).ok();
    let groups = GROUP_LIMITS.map(|path| read(path).and_then(|text| limit(&text)));
    let machine = read("/proc/meminfo").and_then(|text| total(&text));
    groups.into_iter().flatten().chain(machine).min().unwrap_or(UNKNOWN_BYTES)
}

/// `max` is no limit; version 1 writes a number beyond any memory instead.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_linux_writes_them() {
        assert_eq!(limit("4294967296\n"), Some(4 << 30));
        assert_eq!(limit("max\n"), None);
        let meminfo = "MemTotal:       24576000 kB\nMemFree:        1 kB\n";
        assert_eq!(total(meminfo), Some(24_576_000 << 10));
        assert_eq!(total("nothing"), None);
        assert!(available_bytes() > 1 << 20);
    }
}
