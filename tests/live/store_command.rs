//! `tagloom store` and other commands over HBase, as processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tagloom::store::hbase::HbaseStore;
use tagloom::store::{ProfileCells, Store, WindowWrite};

use crate::rig::hbase::Hbase;
use crate::rig::wait_until;

const CATALOG: [(&str, &str); 4] = [
    ("catalog.yaml", "name: small\nuid: u64\ntimezone: UTC\n"),
    (
        "streams/buy.yaml",
        "stream: buy\nfrom: {file: buy.jsonl}\ncolumns: {customer: u64, at: timestamp(ms), amount: int}\n\
         uid: customer\ntime: at\n",
    ),
    (
        "features/spend.yaml",
        "feature: spend\nstream: buy\nvalue: sum(amount)\nwindow: lifetime\n---\nfeature: buys\n\
         stream: buy\nvalue: count()\nwindow: lifetime\n",
    ),
    (
        "rules/tags.yaml",
        "tag: level\ndoc: d\nowner: o\ngroup: g\nbands: {of: spend, cuts: [10, 100], labels: [low, mid, \
         top]}\n---\ntag: often\ndoc: d\nowner: o\ngroup: g\nexpr: buys > 1\n",
    ),
];

struct Shop {
    dir: tempfile::TempDir,
    settings: Vec<String>,
}

impl Shop {
    fn new(hbase: &Hbase, prefix: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in CATALOG {
            let path = dir.path().join("tags").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let events: String = [(3, 500), (12, 50), (12, 7), (7, 1), (100, 20)]
            .iter()
            .enumerate()
            .map(|(at, (uid, amount))| {
                format!("{{\"customer\":{uid},\"at\":{},\"amount\":{amount}}}\n", 1_000 * at)
            })
            .collect();
        std::fs::write(dir.path().join("buy.jsonl"), events).unwrap();
        let options = hbase.options(prefix);
        let settings = vec![
            "store.kind=hbase".to_owned(),
            format!("store.hbase.gateways={}", options.gateways),
            format!("store.hbase.prefix={prefix}"),
        ];
        let shop = Self { dir, settings };
        shop.ok(&["check", "--write"]);
        shop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagloom"));
        command.current_dir(self.dir.path()).args(arguments);
        command.args(self.settings.iter().flat_map(|setting| ["--set", setting]));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a command prints that must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What a command says that must fail with this code.
    fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        text
    }

    fn check(&self, repair: bool) -> Value {
        let arguments = ["store", "check", "--json", "--repair"];
        let output = self.run(&arguments[..if repair { 4 } else { 3 }]);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    fn ids(&self) -> Vec<(String, String)> {
        let lock = std::fs::read_to_string(self.path("tags/ids.lock")).unwrap();
        let line = |line: &str| {
            let (name, rest) = line.split_once(" = ")?;
            Some((name.to_owned(), rest.split(' ').next()?.to_owned()))
        };
        lock.lines().filter_map(line).collect()
    }
}

fn read_csv(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs Java: tests/live/run.sh"]
fn commands_work_over_hbase() {
    let hbase = Hbase::start();
    let shop = Shop::new(&hbase, "shop_");
    let error = shop.fails(&["run", "--source", "buy=buy.jsonl"], 2);
    assert!(error.contains("no table `shop_profile`") && error.contains("store init"), "{error}");
    let printed = shop.ok(&["store", "init", "--print"]);
    assert!(printed.contains("create 'shop_profile'") && printed.contains("SPLITS => ['1', "));
    let made = shop.ok(&["store", "init"]);
    assert!(made.contains("shop_profile: made") && made.contains("--print"), "{made}");
    let there = shop.ok(&["store", "init"]);
    assert!(there.contains("shop_meta: there") && !there.contains("but"), "{there}");

    shop.ok(&["run", "--source", "buy=buy.jsonl"]);
    shop.ok(&["export", "--out", "tags.csv"]);
    let expect = ["uid,level,often", "3,top,false", "7,low,false", "12,mid,true", "100,mid,false"];
    assert_eq!(read_csv(&shop.path("tags.csv")), expect);
    let one: Value = serde_json::from_str(&shop.ok(&["get", "12", "--json"])).unwrap();
    assert_eq!(one["tags"]["level"], "mid", "{one}");
    assert!(shop.ok(&["why", "12", "level"]).contains("mid"));

    // A second run over the same source adds nothing: its position is in HBase.
    shop.ok(&["run", "--source", "buy=buy.jsonl"]);
    shop.ok(&["export", "--out", "again.csv"]);
    assert_eq!(read_csv(&shop.path("again.csv")), expect);

    cells_are_checked_and_repaired(&hbase, &shop);
    cells_that_were_left_out_come_with_the_next_write(&hbase);
    refused_rows_of_files_count_once(&hbase, &shop);
    wrong_tables_are_told(&hbase);
}

/// Rows that were refused are read again after the catalogue is mended, each once, though the command is
/// killed.
fn refused_rows_of_files_count_once(hbase: &Hbase, shop: &Shop) {
    const ROWS: u64 = 3_000;
    let line = |row: u64| format!("{{\"customer\":{},\"at\":9000}}\n", 10_000 + row);
    std::fs::write(shop.path("refused.jsonl"), (0..ROWS).map(line).collect::<String>()).unwrap();
    shop.ok(&["run", "--source", "buy=refused.jsonl"]);
    let kept = |shop: &Shop| {
        let said = shop.ok(&["rejects", "list", "--json", "--limit", "0"]);
        serde_json::from_str::<Value>(&said).unwrap()["kept"].as_u64().unwrap()
    };
    assert_eq!(kept(shop), ROWS);
    let path = shop.path("tags/streams/buy.yaml");
    let mended = std::fs::read_to_string(&path).unwrap().replace("amount: int", "amount: 'int?'");
    std::fs::write(path, mended).unwrap();
    let store = HbaseStore::open_existing(&hbase.options("shop_")).unwrap();
    let is_under_way = || {
        let rows = store.meta("redrive/rows").unwrap();
        rows.is_some_and(|rows| {
            let rows: Value = serde_json::from_slice(&rows).unwrap();
            rows["rejects"].as_object().is_some_and(|rejects| !rejects.is_empty())
        })
    };
    for after_ms in [0, 300, 600] {
        let mut command = shop.command(&["rejects", "redrive"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("rows are tried again", Duration::from_secs(30), || {
            is_under_way() || child.try_wait().unwrap().is_some()
        });
        std::thread::park_timeout(Duration::from_millis(after_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(after_ms > 0 || is_under_way(), "it was to be killed before it was done");
    }
    shop.ok(&["rejects", "redrive"]);
    assert_eq!(kept(shop), 0);
    shop.ok(&["export", "--out", "redriven.csv"]);
    let rows = read_csv(&shop.path("redriven.csv"));
    let of_rows = |row: &&String| row.len() > "10000,".len() && row.starts_with('1');
    let rows: Vec<&String> =
        rows.iter().filter(of_rows).filter(|row| !row.starts_with("12,")).collect();
    let new = rows.iter().filter(|row| !row.starts_with("100,"));
    assert_eq!(new.clone().count() as u64, ROWS);
    let twice: Vec<_> = new.filter(|row| !row.ends_with(",false")).collect();
    assert!(twice.is_empty(), "who bought once did not buy often: {twice:?}");
}

/// Cells as their owner would write them, one of them wrong, one too many, and one user without.
fn cells_are_checked_and_repaired(hbase: &Hbase, shop: &Shop) {
    let store = HbaseStore::open_existing(&hbase.options("shop_")).unwrap();
    let ids = shop.ids();
    let id = |tag: &str| ids.iter().find(|(name, _)| name == tag).unwrap().1.as_str();
    let (level, often) = (id("level"), id("often"));
    let rows = store.scan_profiles(None, 99).unwrap();
    let (mut window, mut without) = (WindowWrite::default(), WindowWrite::default());
    for (key, profile) in rows {
        let tags: &[(&str, Option<&str>)] = match key.as_u64().unwrap() {
            3 => &[(level, Some("top")), (often, Some("false"))],
            7 => &[(level, Some("top")), (often, Some("false"))],
            12 => &[(level, Some("mid")), (often, None), ("zz", Some("left over"))],
            100 => {
                without.profiles.push((key, profile));
                continue;
            }
            other => panic!("nobody bought as {other}"),
        };
        let tags = tags.iter().map(|(id, value)| ((*id).into(), value.map(Into::into))).collect();
        window.profiles.push((key, profile));
        window.cells.push(ProfileCells { all: true, tags });
    }
    store.write_window(window).unwrap();
    store.write_window(without).unwrap();

    let found = shop.check(false);
    let counts = |found: &Value| {
        ["users", "left_out", "wrong_users", "wrong_cells", "repaired_users"]
            .map(|name| found[name].as_u64().unwrap())
    };
    assert_eq!(counts(&found), [4, 1, 2, 3, 0], "{found}");
    let error = shop.fails(&["store", "check"], 1);
    assert!(error.contains("--repair"), "{error}");
    let shown = String::from_utf8_lossy(&shop.run(&["store", "check"]).stdout).into_owned();
    assert!(shown.contains(&format!("7: t:{level} (level): `top`, not `low`")), "{shown}");
    assert!(shown.contains("12: t:zz (no published tag): `left over`, not no value"), "{shown}");

    assert_eq!(counts(&shop.check(true)), [4, 1, 2, 3, 2]);
    assert_eq!(counts(&shop.check(false)), [4, 1, 0, 0, 0]);
    // What the owner writes later wins over the repair.
    let row =
        store.scan_checked(None, 99).unwrap().into_iter().find(|row| row.key.as_u64() == Some(7));
    let row = row.unwrap();
    assert_eq!(row.cells[level].value, b"low");
    let tags = vec![(level.into(), Some("top".into()))];
    store
        .write_window(WindowWrite {
            profiles: vec![(row.key, row.profile)],
            cells: vec![ProfileCells { all: false, tags }],
            ..WindowWrite::default()
        })
        .unwrap();
    assert_eq!(counts(&shop.check(false)), [4, 1, 1, 1, 0]);
}

fn cells_that_were_left_out_come_with_the_next_write(hbase: &Hbase) {
    let shop = Shop::new(hbase, "bare_");
    shop.ok(&["store", "init"]);
    let without = ["--set", "store.hbase.tag_cells=false"];
    shop.ok(&[&["run", "--source", "buy=buy.jsonl"][..], &without].concat());
    let counts = || {
        let found = shop.check(false);
        ["users", "left_out", "wrong_users"].map(|name| found[name].as_u64().unwrap())
    };
    assert_eq!(counts(), [4, 4, 0]);
    // Of one user no tag changes, of the other one both do.
    let more: String = [(12, 1), (7, 30)]
        .map(|(uid, amount)| format!("{{\"customer\":{uid},\"at\":9000,\"amount\":{amount}}}\n"))
        .concat();
    std::fs::write(shop.path("more.jsonl"), more).unwrap();
    shop.ok(&["run", "--source", "buy=more.jsonl"]);
    assert_eq!(counts(), [4, 2, 0]);
    let ids = shop.ids();
    let rows = HbaseStore::open_existing(&hbase.options("bare_")).unwrap();
    for row in rows.scan_checked(None, 99).unwrap() {
        let labels = ["level", "often"].map(|tag| {
            let id = &ids.iter().find(|(name, _)| name == tag).unwrap().1;
            row.cells.get(id).map(|cell| String::from_utf8_lossy(&cell.value).into_owned())
        });
        let labels = labels.each_ref().map(Option::as_deref);
        match row.key.as_u64().unwrap() {
            7 | 12 => assert_eq!(labels, [Some("mid"), Some("true")], "{:?}", row.key),
            _ => assert_eq!((labels, row.cells_left_out), ([None, None], true)),
        }
    }
}

fn wrong_tables_are_told(hbase: &Hbase) {
    use hbase_thrift::hbase::{ColumnDescriptor, THbaseSyncClient};
    let shop = Shop::new(hbase, "wrong_");
    let family = ColumnDescriptor {
        name: Some(b"s:".to_vec()),
        max_versions: Some(3),
        compression: Some("NONE".to_owned()),
        bloom_filter_type: Some("ROW".to_owned()),
        time_to_live: Some(60),
        ..ColumnDescriptor::default()
    };
    let port = hbase.options("").gateways.rsplit(':').next().unwrap().parse().unwrap();
    let mut client = crate::rig::hbase::client(port).unwrap();
    client.create_table(b"wrong_profile".to_vec(), vec![family]).unwrap();
    let output = shop.run(&["store", "init"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for expect in [
        "keeps 3 versions, not 1: alter 'wrong_profile', {NAME => 's', VERSIONS => 1",
        "keeps cells 60 s, not for ever: alter 'wrong_profile', {NAME => 's', TTL => 'FOREVER'}",
        "it has no family `t`: alter 'wrong_profile', {NAME => 't', VERSIONS => 1",
        "wrong_due: made",
    ] {
        assert!(text.contains(expect), "{expect}\n{text}");
    }
}
