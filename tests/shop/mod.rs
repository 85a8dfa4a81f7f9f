//! A small shop's catalogue in a folder of its own, and commands typed there.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

const FILES: [(&str, &str); 6] = [
    ("tags/catalog.yaml", "name: shop\nuid: u64\ntimezone: UTC\nparams: {big: 100}\n"),
    (
        "tags/streams/s.yaml",
        "stream: consume\nfrom: {file: consume.jsonl}\ncolumns: {sku: string, price: int, at: \
         timestamp(iso), user: u64}\nuid: user\ntime: at\n",
    ),
    (
        "tags/features/f.yaml",
        "feature: spend_{span}\nstream: consume\nvalue: sum(price)\nwindow: '{span}'\nmatrix: {span: \
         [7d, 30d]}\n---\nfeature: last_sku\nstream: consume\nvalue: last(sku)\nwindow: lifetime\n",
    ),
    (
        "tags/dimensions/d.yaml",
        "dimension: product\nfile: products.csv\nkey: last_sku\ncolumns: {shelf: string}\n",
    ),
    (
        "tags/rules/r.yaml",
        "tag: level\ndoc: How much.\nowner: growth\ngroup: value\nbands: {of: spend_30d, cuts: [50], \
         labels: [low, high], missing: none}\ncases:\n  - given: {consume: [{sku: A, price: 50, at: \
         -1d}]}\n    expect: {level: high}\n    after: {29d: {level: low}}\n---\ntag: shelf\ndoc: \
         Where.\nowner: shop\ngroup: place\nexpr: product_shelf\n---\ntag: big\ndoc: Big.\nowner: \
         growth\ngroup: value\nexpr: spend_7d >= $big AND level = 'high'\n",
    ),
    ("tags/products.csv", "key,shelf\nA,top\nB,low\n"),
];

pub struct Shop(pub TempDir);

impl Shop {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shop = Self(dir);
        FILES.iter().for_each(|(path, text)| shop.write(path, text));
        let events = "{\"sku\":\"A\",\"price\":120,\"at\":\"2026-03-01T12:00:00Z\",\"user\":7}\n";
        shop.write("tags/consume.jsonl", events);
        shop
    }

    /// Writes a file.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Replaces a text in a file.
    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let path = self.0.path().join(path);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    pub fn run(&self, args: &[&str]) -> Output {
        tagloom(args, self.0.path())
    }

    /// Runs it and looks for texts in what it says; gives what it says.
    #[track_caller]
    pub fn check(&self, args: &[&str], code: i32, texts: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        for text in texts {
            assert!(said.contains(text), "{args:?} does not say `{text}`:\n{said}");
        }
        said
    }

    /// The JSON that a command gives.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let output = self.run(&[args, &["--json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}\n{error}"))
    }

    /// A `tagloom run` that reads `consume` from its standard input until the guard is dropped.
    pub fn running(&self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
        command.args(["run", "--source", "consume=-", "--set", "window.close_ms=100"]);
        command.current_dir(self.0.path()).env_clear();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running(child.spawn().unwrap());
        let socket = self.0.path().join(".tagloom/tagloom.sock");
        let watch = tagloom::clock::Stopwatch::start();
        while !socket.exists() {
            assert!(watch.elapsed() < Duration::from_secs(60), "the run does not answer");
            std::thread::yield_now();
        }
        running
    }
}

/// A command that is stopped when the test is done with it.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn tagloom(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
    command.args(args).current_dir(dir).env_clear();
    command.output().unwrap()
}
