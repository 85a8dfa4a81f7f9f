//! Debezium in Kafka Connect, as a process that can be killed and started again.

use std::path::Path;
use std::process::Command;

use super::kafka::Kafka;
use super::mariadb::{MariaDb, PASSWORD, USER};
use super::maven::libraries;
use super::process::{Process, READY_MAX};
use super::{free_ports, wait_until};

/// A line of its log once it follows the binary log.
const FOLLOWS: &str = "Keepalive thread is running";

/// A connector for one database; topics are named `PREFIX.DATABASE.TABLE`.
pub struct Connector<'a> {
    pub kafka: &'a Kafka,
    pub database: &'a MariaDb,
    pub prefix: &'a str,
    pub schema: &'a str,
    /// Where offsets and the tables' history are kept.
    pub dir: &'a Path,
}

impl Connector<'_> {
    /// Starts Connect, and waits until it follows the log. `name`: of this start.
    pub fn start(&self, name: &str) -> Process {
        let libraries = libraries("debezium");
        let file = |name: &str| self.dir.join(name).display().to_string();
        let [port] = free_ports();
        let (worker, connector) = (self.worker(port, &file), self.connector(&file));
        std::fs::write(file("worker.properties"), worker).unwrap();
        std::fs::write(file("connector.properties"), connector).unwrap();
        let mut command = Command::new("java");
        command.arg("-Xmx512m").arg("-cp").arg(libraries.join("*"));
        command.arg("org.apache.kafka.connect.cli.ConnectStandalone");
        command.args([file("worker.properties"), file("connector.properties")]);
        let mut process = Process::start(name, self.dir, &mut command);
        wait_until("Debezium follows the log", READY_MAX, || {
            process.must_run();
            process.has_said(FOLLOWS)
        });
        process
    }

    fn worker(&self, port: u16, file: &dyn Fn(&str) -> String) -> String {
        let json = "org.apache.kafka.connect.json.JsonConverter";
        let (servers, offsets) = (self.kafka.servers(), file("offsets"));
        let listeners = format!("http://127.0.0.1:{port}");
        lines(&[
            ("bootstrap.servers", &servers),
            ("listeners", &listeners),
            ("key.converter", json),
            ("value.converter", json),
            ("key.converter.schemas.enable", "false"),
            ("value.converter.schemas.enable", "false"),
            ("offset.storage.file.filename", &offsets),
            // Seldom, so that one that was killed repeats what it had sent.
            ("offset.flush.interval.ms", "10000"),
            ("plugin.discovery", "service_load"),
        ])
    }

    fn connector(&self, file: &dyn Fn(&str) -> String) -> String {
        let (port, history) = (self.database.port.to_string(), file("history"));
        lines(&[
            ("name", "capture"),
            ("connector.class", "io.debezium.connector.mariadb.MariaDbConnector"),
            ("database.hostname", "127.0.0.1"),
            ("database.port", &port),
            ("database.user", USER),
            ("database.password", PASSWORD),
            ("database.server.id", "7001"),
            ("database.ssl.mode", "disable"),
            ("database.include.list", self.schema),
            ("topic.prefix", self.prefix),
            ("decimal.handling.mode", "string"),
            ("schema.history.internal", "io.debezium.storage.file.history.FileSchemaHistory"),
            ("schema.history.internal.file.filename", &history),
        ])
    }
}

fn lines(settings: &[(&str, &str)]) -> String {
    settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}
