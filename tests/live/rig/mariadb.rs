//! A MariaDB of its own, with a binary log of whole rows, for change data capture.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Process, READY_MAX, run};
use super::{free_ports, wait_until};

const MISSING: &str = "the live test of change data capture needs MariaDB: on Debian, apt-get install \
                       mariadb-server";

/// How long the server may take to end.
const END_MAX: Duration = Duration::from_secs(30);

/// Whom the connector is.
pub const USER: &str = "capture";
pub const PASSWORD: &str = "capture-1";

/// See the module. It ends when it is dropped.
pub struct MariaDb {
    server: Option<Process>,
    dir: tempfile::TempDir,
    pub port: u16,
}

/// A program, also where only administrators have it on their path.
fn program(name: &str) -> Command {
    let elsewhere = ["/usr/sbin", "/usr/local/sbin"].map(|dir| Path::new(dir).join(name));
    let found = elsewhere.into_iter().find(|path| path.exists());
    Command::new(found.unwrap_or_else(|| PathBuf::from(name)))
}

impl MariaDb {
    /// Starts a server in this zone (`+08:00`) and waits until it answers.
    pub fn start(zone: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("tagloom-live-mariadb-").tempdir().unwrap();
        let [port] = free_ports();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let settings = format!(
            "[mariadbd]\ndatadir={}\nsocket={}\npid-file={}\nport={port}\nbind-address=127.0.0.1\n\
             user=root\nserver_id=1\nlog_bin=binlog\nbinlog_format=ROW\nbinlog_row_image=FULL\n\
             binlog_row_metadata=FULL\nbinlog_annotate_row_events=OFF\n\
             character-set-server=utf8mb4\nskip-name-resolve\ndefault-time-zone={zone}\n",
            path("data"),
            path("socket"),
            path("pid"),
        );
        std::fs::write(dir.path().join("my.cnf"), settings).unwrap();
        let mut install = program("mariadb-install-db");
        install.args(["--no-defaults", "--skip-test-db", "--user=root"]);
        install.arg("--auth-root-authentication-method=normal");
        run(install.arg(format!("--datadir={}", path("data"))), MISSING);
        let mut command = program("mariadbd");
        command.arg(format!("--defaults-file={}", path("my.cnf")));
        let server = Process::start("mariadb", dir.path(), &mut command);
        let mut started = Self { server: Some(server), dir, port };
        wait_until("MariaDB answers", READY_MAX, || {
            started.server.as_mut().unwrap().must_run();
            started.client().args(["-e", "SELECT 1"]).output().is_ok_and(|o| o.status.success())
        });
        started.sql(&format!(
            "CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'; GRANT SELECT, RELOAD, SHOW \
             DATABASES, REPLICATION SLAVE, BINLOG MONITOR, LOCK TABLES ON *.* TO \
             '{USER}'@'127.0.0.1';"
        ));
        started
    }

    fn client(&self) -> Command {
        let mut client = Command::new("mariadb");
        let socket = self.dir.path().join("socket");
        client.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"]);
        client.arg("--default-character-set=utf8mb4").arg(format!("--socket={}", socket.display()));
        client
    }

    /// Runs statements; gives what they answer, a row a line, columns apart by tabs.
    pub fn sql(&self, statements: &str) -> String {
        let file = self.dir.path().join("statements.sql");
        std::fs::write(&file, statements).unwrap();
        run(self.client().arg("-e").arg(format!("source {}", file.display())), MISSING)
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        if let Some(server) = self.server.take().filter(|_| !std::thread::panicking()) {
            server.stop(END_MAX);
        }
    }
}
