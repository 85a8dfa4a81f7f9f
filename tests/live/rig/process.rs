//! A server as a child process with its log in a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// See the module. Killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command. Its standard input stays open as long as this process lives.
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::piped())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{name}: {program}: {e}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time so far, seconds.
    pub fn cpu_seconds(&self) -> f64 {
        Self::cpu_seconds_of(self.pid()).unwrap()
    }

    /// The same of any process that has not ended.
    pub fn cpu_seconds_of(pid: u32) -> Option<f64> {
        // man proc_pid_stat: fields 14 and 15, in ticks, 100 a second on all Linux.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
        Some((ticks(11) + ticks(12)) / 100.0)
    }

    /// The most memory that a process had so far, MB; none when it has ended.
    pub fn peak_mb_of(pid: u32) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(peak.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
    }

    /// Waits until it ends by itself, which must be well.
    #[track_caller]
    pub fn wait(mut self, at_most: Duration) {
        let mut ended = None;
        super::wait_until("the process ends by itself", at_most, || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.is_some_and(|s| s.success()), "{}: {ended:?}\n{}", self.name, self.log_end());
    }

    /// Panics with the log's end when it has ended by itself.
    pub fn must_run(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended ({status}):\n{}", self.name, self.log_end());
        }
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Whether its log says this.
    pub fn has_said(&self, text: &str) -> bool {
        let log = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).contains(text)
    }

    /// kill -9, at once.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; it must end by itself, and well.
    pub fn stop(mut self, at_most: Duration) {
        let code = self.terminate(at_most);
        assert!(code == Some(0), "{}: {code:?}\n{}", self.name, self.log_end());
    }

    /// SIGTERM; it must end by itself. With which code: none if a signal has ended it.
    #[track_caller]
    pub fn terminate(&mut self, at_most: Duration) -> Option<i32> {
        self.signal("TERM");
        let mut ended = None;
        super::wait_until("the process ends", at_most, || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.and_then(|status| status.code())
    }

    /// Sends a signal by name, as `STOP` and `CONT`.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success(), "kill -{name} {pid}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}, the end of its log:\n{}", self.name, self.log_end());
        }
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs a command to its end, and gives what it printed. A failure shows all of it.
pub fn run(command: &mut Command, missing: &str) -> String {
    let shown = format!("{command:?}");
    let output = command.output().unwrap_or_else(|e| panic!("{shown}: {e}; {missing}"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{shown}: {}\n{text}", output.status);
    text
}

/// How long a server may take to be ready.
pub const READY_MAX: Duration = Duration::from_secs(120);
