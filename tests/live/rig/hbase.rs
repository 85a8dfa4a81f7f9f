//! HBase and its Thrift gateways, as processes that can be killed, frozen and started again.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hbase_thrift::hbase::{HbaseSyncClient, THbaseSyncClient};
use tagloom::store::hbase::HbaseOptions;
use thrift::protocol::{TBinaryInputProtocol, TBinaryOutputProtocol};
use thrift::transport::{TBufferedReadTransport, TBufferedWriteTransport, TIoChannel, TTcpChannel};

use super::process::{Process, READY_MAX, run};
use super::{cache_dir, free_ports, wait_until};

const MISSING: &str = "the live tests need Java 17 (a JDK) and Maven: on Debian, apt-get install \
                       openjdk-17-jdk-headless maven";

/// What HBase needs to reach into on Java 17.
const JVM: [&str; 9] = [
    "--add-opens",
    "java.base/java.lang=ALL-UNNAMED",
    "--add-opens",
    "java.base/java.nio=ALL-UNNAMED",
    "--add-opens",
    "java.base/jdk.internal.misc=ALL-UNNAMED",
    "--add-exports",
    "java.base/jdk.internal.misc=ALL-UNNAMED",
    "-Djava.net.preferIPv4Stack=true",
];

/// A gateway: its port, and its process while it runs.
struct Gateway {
    port: u16,
    process: Option<Process>,
}

/// See the module. Everything ends when it is dropped.
pub struct Hbase {
    server: Option<Process>,
    gateways: Vec<Gateway>,
    dir: tempfile::TempDir,
    classpath: String,
}

impl Hbase {
    /// Starts HBase and a gateway, and waits until both answer.
    pub fn start() -> Self {
        Self::start_with(1)
    }

    /// The same with several gateways.
    pub fn start_with(gateways: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("tagloom-live-hbase-").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("conf")).unwrap();
        let site = site(dir.path(), free_ports());
        std::fs::write(dir.path().join("conf/hbase-site.xml"), site).unwrap();
        let mut hbase = Self { server: None, gateways: Vec::new(), dir, classpath: classpath() };
        hbase.start_server();
        for _ in 0..gateways {
            let [port] = free_ports();
            hbase.gateways.push(Gateway { port, process: None });
            hbase.start_gateway(hbase.gateways.len() - 1);
        }
        hbase.wait_ready();
        hbase
    }

    fn java(&self, arguments: &[String], heap: &str) -> Command {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/rig/HbaseServer.java");
        let conf = self.dir.path().join("conf");
        let mut command = Command::new("java");
        command
            .args(JVM)
            .arg(heap)
            .arg("-cp")
            .arg(format!("{}:{}", conf.display(), self.classpath))
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            // Its web server unpacks itself there, and a killed one never tidies up.
            .arg(format!("-Djava.io.tmpdir={}", self.dir.path().display()))
            .arg(source)
            .args(arguments);
        command
    }

    /// Starts HBase where it stood.
    pub fn start_server(&mut self) {
        let mut command = self.java(&["hbase".to_owned()], "-Xmx1g");
        self.server = Some(Process::start("hbase", self.dir.path(), &mut command));
    }

    /// kill -9 of HBase; the gateways stay.
    pub fn kill_server(&mut self) {
        self.server.take().expect("it runs").kill();
    }

    /// Starts a gateway on the port it has.
    pub fn start_gateway(&mut self, number: usize) {
        let port = self.gateways[number].port;
        let [info] = free_ports::<1>();
        let arguments = ["gateway".to_owned(), port.to_string(), info.to_string()];
        let mut command = self.java(&arguments, "-Xmx512m");
        let name = format!("gateway-{number}");
        self.gateways[number].process = Some(Process::start(&name, self.dir.path(), &mut command));
    }

    /// kill -9 of a gateway.
    pub fn kill_gateway(&mut self, number: usize) {
        self.gateways[number].process.take().expect("it runs").kill();
    }

    /// Freezes or continues a gateway.
    pub fn signal_gateway(&self, number: usize, signal: &str) {
        self.gateways[number].process.as_ref().expect("it runs").signal(signal);
    }

    /// An open port is no proof: a gateway listens while HBase is down. Asks until HBase answers.
    pub fn wait_ready(&mut self) {
        let ports: Vec<u16> = self.gateways.iter().map(|gateway| gateway.port).collect();
        wait_until("HBase answers", READY_MAX, || {
            self.server.as_mut().into_iter().for_each(Process::must_run);
            let gateways = self.gateways.iter_mut().filter_map(|gateway| gateway.process.as_mut());
            gateways.for_each(Process::must_run);
            ports.iter().all(|port| answers(*port).is_some())
        });
    }

    /// Where the first gateway listens.
    pub fn port(&self) -> u16 {
        self.gateways[0].port
    }

    /// Options of a store of its own.
    pub fn options(&self, prefix: &str) -> HbaseOptions {
        let gateways: Vec<String> =
            self.gateways.iter().map(|gateway| format!("127.0.0.1:{}", gateway.port)).collect();
        HbaseOptions {
            gateways: gateways.join(","),
            prefix: prefix.to_owned(),
            call_timeout_ms: 12_000,
            deadline_ms: 30_000,
            ..HbaseOptions::default()
        }
    }
}

/// A client without the store: for what another reader of HBase sees.
pub fn client(port: u16) -> thrift::Result<impl THbaseSyncClient> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let socket = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(15)))?;
    let (read, write) = TTcpChannel::with_stream(socket).split()?;
    let input = TBinaryInputProtocol::new(TBufferedReadTransport::new(read), true);
    let output = TBinaryOutputProtocol::new(TBufferedWriteTransport::new(write), true);
    Ok(HbaseSyncClient::new(input, output))
}

/// Whether HBase answers through a gateway, for tables and for a row of each of their regions.
fn answers(port: u16) -> Option<()> {
    let mut client = client(port).ok()?;
    for table in client.get_table_names().ok()? {
        for region in client.get_table_regions(table.clone()).ok()? {
            let row = region.start_key.filter(|key| !key.is_empty());
            let row = row.unwrap_or_else(|| vec![0]);
            client.get_row(table.clone(), row, std::collections::BTreeMap::new()).ok()?;
        }
    }
    Some(())
}

/// The jars of HBase and its gateway, from Maven Central the first time.
fn classpath() -> String {
    run(Command::new("java").arg("-version"), MISSING);
    let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/live/rig/hbase-pom.xml");
    let print = tagloom::user::layout::hash64(&std::fs::read(&pom).unwrap());
    let file: PathBuf = cache_dir().join(format!("hbase-classpath-{print:016x}"));
    let there = |text: &String| text.split(':').all(|jar| Path::new(jar.trim()).exists());
    if let Some(known) = std::fs::read_to_string(&file).ok().filter(there) {
        return known.trim().to_owned();
    }
    let new = file.with_extension("new");
    let mut maven = Command::new("mvn");
    maven.args(["-B", "-q", "-f"]).arg(&pom).arg("dependency:build-classpath");
    maven.arg(format!("-Dmdep.outputFile={}", new.display()));
    run(&mut maven, MISSING);
    std::fs::rename(&new, &file).unwrap();
    std::fs::read_to_string(&file).unwrap().trim().to_owned()
}

fn site(dir: &Path, [zookeeper, master, region]: [u16; 3]) -> String {
    let dir = dir.display();
    let settings = [
        ("hbase.cluster.distributed", "false".to_owned()),
        ("hbase.rootdir", format!("file://{dir}/data")),
        ("hbase.tmp.dir", format!("{dir}/tmp")),
        ("hbase.unsafe.stream.capability.enforce", "false".to_owned()),
        ("hbase.wal.provider", "filesystem".to_owned()),
        ("hbase.zookeeper.quorum", "127.0.0.1".to_owned()),
        ("hbase.zookeeper.property.dataDir", format!("{dir}/zookeeper")),
        ("hbase.zookeeper.property.clientPort", zookeeper.to_string()),
        // Else a freeze of 12 s aborts the server.
        ("zookeeper.session.timeout.localHBaseCluster", "90000".to_owned()),
        ("hbase.master.hostname", "localhost".to_owned()),
        ("hbase.regionserver.hostname", "localhost".to_owned()),
        ("hbase.master.port", master.to_string()),
        ("hbase.regionserver.port", region.to_string()),
        ("hbase.master.info.port", "-1".to_owned()),
        ("hbase.regionserver.info.port", "-1".to_owned()),
        ("hbase.master.wait.on.regionservers.mintostart", "1".to_owned()),
        ("hbase.master.wait.on.regionservers.maxtostart", "1".to_owned()),
        ("hbase.master.wait.on.regionservers.interval", "100".to_owned()),
        ("hbase.regionserver.msginterval", "300".to_owned()),
    ];
    let property = |(name, value): (&str, String)| {
        format!("<property><name>{name}</name><value>{value}</value></property>\n")
    };
    let properties: String = settings.into_iter().map(property).collect();
    format!("<configuration>\n{properties}</configuration>\n")
}
