//! A small catalogue of a test's own over topics, with the embedded store or another.

use std::process::Command;

use super::kafka::{Kafka, Record};
use super::process::Process;
use super::write_files;

/// See the module.
pub struct Shop {
    pub kafka: Kafka,
    dir: tempfile::TempDir,
    settings: Vec<String>,
}

impl Shop {
    /// Starts a broker, makes topics with so many partitions, and writes the catalogue.
    pub fn start(catalog: &[(&str, &str)], topics: &[(&str, i32)]) -> Self {
        Self::over(&[], catalog, topics)
    }

    /// The same with settings of its own, such as another store's.
    pub fn over(settings: &[String], catalog: &[(&str, &str)], topics: &[(&str, i32)]) -> Self {
        let kafka = Kafka::start();
        topics.iter().for_each(|(topic, partitions)| kafka.create(topic, *partitions));
        let dir = tempfile::Builder::new().prefix("tagloom-live-shop-").tempdir().unwrap();
        write_files(&dir.path().join("tags"), catalog);
        let shop = Self { kafka, dir, settings: settings.to_vec() };
        shop.ok(&["check", "--write"]);
        shop
    }

    /// A command over its store.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
        let servers = format!("kafka.bootstrap.servers={}", self.kafka.servers());
        command.current_dir(self.dir.path()).args(arguments);
        command.args(["--set", &servers, "--set", "store.path=store"]);
        command.args(["--set", "kafka.group.id=shop", "--set", "window.close_ms=300"]);
        command.args(self.settings.iter().flat_map(|setting| ["--set", setting]));
        command
    }

    /// What a command prints that must succeed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A process that reads the topics. `arguments`: more than `run`.
    pub fn run(&self, name: &str, arguments: &[&str]) -> Process {
        let arguments: Vec<&str> =
            std::iter::once("run").chain(arguments.iter().copied()).collect();
        Process::start(name, self.dir.path(), &mut self.command(&arguments))
    }

    /// Sends a record that arrives now.
    pub fn put(&self, topic: &str, key: &str, value: &str) {
        let at_ms = tagloom::clock::wall_ms();
        self.kafka.send(topic, [Record { key: key.as_bytes(), value: value.as_bytes(), at_ms }]);
    }

    /// A customer of the topic `buy` spends something now.
    pub fn buy(&self, customer: u64, amount: u64) {
        let at_ms = tagloom::clock::wall_ms();
        let event = format!("{{\"customer\":{customer},\"at\":{at_ms},\"amount\":{amount}}}");
        self.put("buy", &customer.to_string(), &event);
    }

    /// Writes a file into its directory.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// A file of its directory.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }
}
