//! Real servers for live tests: started on free loopback ports, stopped by their pid.

pub mod debezium;
pub mod hbase;
pub mod kafka;
pub mod mariadb;
pub mod maven;
pub mod metrics;
pub mod portrait;
pub mod process;
pub mod served;
pub mod shop;

use std::net::TcpListener;
use std::time::Duration;

use tagloom::clock::Deadline;

/// Waits for a condition; a test that waits in vain says for what.
#[track_caller]
pub fn wait_until(what: &str, at_most: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Deadline::after(at_most);
    while !holds() {
        assert!(!deadline.is_over(), "waited {} s in vain: {what}", at_most.as_secs());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Writes files below a folder.
pub fn write_files(dir: &std::path::Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// Ports that were free just now, all different.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Where downloads stay between runs, outside of the repository.
pub fn cache_dir() -> std::path::PathBuf {
    let home = || std::env::var_os("HOME").map(|home| std::path::Path::new(&home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME").map(Into::into).or_else(home);
    let dir = base.expect("HOME or XDG_CACHE_HOME is set").join("tagloom/live");
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
