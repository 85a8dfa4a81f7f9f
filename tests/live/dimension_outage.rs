//! A dimension table that cannot be read for a while, when everything else can.

use std::net::SocketAddr;
use std::time::Duration;

use hbase_thrift::hbase::THbaseSyncClient;
use serde_json::Value;

use crate::http;
use crate::rig::free_ports;
use crate::rig::hbase::{Hbase, client};
use crate::rig::portrait::Portrait;
use crate::rig::served::Served;
use crate::rig::shop::Shop;

const REACHED: Duration = Duration::from_secs(60);

/// Rows are kept for a second, and serve for 20 more when they cannot be read anew.
const CATALOG: [(&str, &str); 5] = [
    ("catalog.yaml", "name: shop\nuid: u64\ntimezone: UTC\n"),
    (
        "streams/buy.yaml",
        "stream: buy\nfrom: {kafka: buy, format: json}\ncolumns: {customer: u64, at: \
         timestamp(ms), amount: int}\nuid: customer\ntime: at\n",
    ),
    ("features/f.yaml", "feature: spend\nstream: buy\nvalue: sum(amount)\nwindow: lifetime\n"),
    (
        "dimensions/d.yaml",
        "dimension: campaign\ntable: campaign\nkey: uid\ncolumns: {arm: string}\nstrategy: cached\n\
         ttl: 1s\nmax_stale: 20s\n",
    ),
    (
        "rules/r.yaml",
        "tag: arm\ndoc: d\nowner: o\ngroup: g\nexpr: campaign_arm\n---\ntag: spent\ndoc: d\n\
         owner: o\ngroup: g\nexpr: spend\n",
    ),
];

/// Waits until a user's stored tags and marks are these.
#[track_caller]
fn wait(at: SocketAddr, customer: u64, arm: Value, spent: u64, marks: &[&str]) {
    let expect = [arm, spent.into(), marks.into()];
    let deadline = tagloom::clock::Deadline::after(REACHED);
    loop {
        let answer = http::get(at, &format!("/v1/users/{customer}"));
        if answer.status == 200 {
            let user = answer.json();
            let tags = &user["tags"];
            if [&tags["arm"], &tags["spent"], &user["marks"]] == expect.each_ref() {
                return;
            }
        }
        assert!(!deadline.is_over(), "not {expect:?}: {answer:?}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn a_dimension_table_that_cannot_be_read_for_a_while_leaves_nobody_wrong() {
    let hbase = Hbase::start();
    let options = hbase.options("gone");
    let [port] = free_ports();
    let at = SocketAddr::from(([127, 0, 0, 1], port));
    let settings = [
        "store.kind=hbase".to_owned(),
        format!("store.hbase.gateways={}", options.gateways),
        format!("store.hbase.prefix={}", options.prefix),
        format!("serve.listen=127.0.0.1:{port}"),
        "store.hbase.call_timeout_ms=2000".to_owned(),
        "store.hbase.deadline_ms=3000".to_owned(),
    ];
    let shop = Shop::over(&settings, &CATALOG, &[("buy", 4)]);
    shop.ok(&["store", "init"]);
    shop.write("campaign.csv", "customer,arm\n7,a\n8,b\n");
    shop.ok(&["dims", "load", "campaign", "campaign.csv"]);
    let served = Served::new(shop.run("gone", &["--serve"]), port);
    shop.buy(7, 10);
    wait(at, 7, "a".into(), 10, &[]);

    // Read anew just before.
    std::thread::park_timeout(Duration::from_millis(1_500));
    shop.buy(7, 1);
    wait(at, 7, "a".into(), 11, &[]);
    let mut admin = client(hbase.port()).unwrap();
    let table = || b"gonedim_campaign".to_vec();
    admin.disable_table(table()).unwrap();
    std::thread::park_timeout(Duration::from_millis(1_500));
    shop.buy(7, 5);
    wait(at, 7, "a".into(), 16, &["stale"]);
    std::thread::park_timeout(Duration::from_secs(22));
    shop.buy(7, 3);
    shop.buy(8, 1);
    wait(at, 7, Value::Null, 19, &["missing"]);
    wait(at, 8, Value::Null, 1, &["missing"]);
    assert!(served.metric("tagloom_dimension_rows_missing_total") >= 2.0);

    // Nobody buys any more.
    admin.enable_table(table()).unwrap();
    wait(at, 7, "a".into(), 19, &[]);
    wait(at, 8, "b".into(), 1, &[]);
    Portrait::stop(served.process);
}
