//! Processes of a group that answer over HTTP: what their metrics and `/readyz` say while others, HBase or
//! Kafka are away, and how they end then.

use std::time::Duration;

use crate::group::Group;
use crate::rig::portrait::{Portrait, uid};
use crate::rig::served::Served;
use crate::rig::{free_ports, wait_until};

/// A change may take so long until it is told.
const TOLD: Duration = Duration::from_secs(60);

/// An operator waits so long for the end (SIGTERM).
const END_MAX: Duration = Duration::from_secs(30);

const PARTITIONS: f64 = 8.0;

/// Less patience than a real process has: the test waits for its end.
const SETTINGS: [&str; 4] = [
    "kafka.reconnect.backoff.max.ms=500",
    "kafka.statistics.interval.ms=500",
    "store.hbase.call_timeout_ms=2000",
    "store.hbase.deadline_ms=4000",
];

fn sum(processes: &[&Served], metric: &str) -> f64 {
    processes.iter().map(|process| process.metric(metric)).sum()
}

/// Everything that was sent is read and committed, and the metrics say so.
fn wait_no_lag(group: &Group, processes: &[&Served]) {
    group.wait_committed();
    for metric in ["tagloom_kafka_lag_records", "tagloom_kafka_unread_records"] {
        wait_until(metric, TOLD, || sum(processes, metric) == 0.0);
    }
    let found = processes[0].readiness();
    let (_, topics) = &found.conditions["topics"];
    assert!(topics.contains(", 0 records behind"), "{topics}");
}

/// Both have partitions, and together all of them.
fn wait_shared(processes: &[&Served; 2]) {
    let owned = || processes.map(|process| process.metric("tagloom_kafka_partitions_assigned"));
    wait_until("partitions are shared", TOLD, || {
        let owned = owned();
        owned[0] > 0.0 && owned[1] > 0.0 && owned[0] + owned[1] == PARTITIONS
    });
}

/// Some users, the first of the workload.
fn users(group: &Group) -> Vec<String> {
    let lines = std::fs::read(group.portrait.path("data/register.jsonl")).unwrap();
    let uids = lines.split(|b| *b == b'\n').map(uid).filter(|uid| *uid != b"none");
    uids.take(20).map(|uid| String::from_utf8(uid.to_vec()).unwrap()).collect()
}

/// Whoever is asked for a user answers the same, whoever owns it.
fn assert_both_answer_for_everybody(group: &Group, processes: &[&Served; 2]) {
    let mut known = 0;
    for uid in users(group) {
        let answers = processes.map(|process| process.get(&format!("/v1/users/{uid}")));
        assert_eq!(answers[0].status, answers[1].status, "{answers:?}");
        let [one, other] = answers.each_ref().map(|answer| answer.json()["tags"].clone());
        assert_eq!(one, other, "user {uid}");
        known += usize::from(one.as_object().is_some_and(|tags| tags.len() > 10));
    }
    assert!(known > 10, "{known}");
}

#[test]
#[ignore = "starts Kafka and HBase: tests/live/run.sh"]
fn two_processes_say_how_they_are_and_end_in_time_whatever_is_away() {
    let mut group = Group::start("served");
    let (first, second) = (group.serving("first", &SETTINGS), group.serving("second", &SETTINGS));
    let both = [&first, &second];
    wait_shared(&both);
    group.send(0, 40);
    both.iter().for_each(|process| process.wait_ready(TOLD));
    wait_no_lag(&group, &both);
    assert_both_answer_for_everybody(&group, &both);
    one_that_is_frozen_loses_its_partitions(&group, &both);
    a_gateway_that_is_away_is_told(&mut group, &both);
    a_broker_that_is_away_is_told(&mut group, &both);
    assert_both_answer_for_everybody(&group, &both);
    Portrait::stop(first.process);
    Portrait::stop(second.process);
    ends_without_broker(&mut group);
    group.assert_equal();
}

fn one_that_is_frozen_loses_its_partitions(group: &Group, both: &[&Served; 2]) {
    let [first, second] = both;
    let counted = |process: &Served| {
        ["tagloom_kafka_rebalances_total", "tagloom_kafka_commits_total", "tagloom_ownership_term"]
            .map(|metric| process.metric(metric))
    };
    let before = both.map(counted);
    assert!(before.iter().flatten().all(|count| *count > 0.0), "{before:?}");
    assert_ne!(before[0][2], before[1][2], "each assignment has a term of its own");
    second.process.signal("STOP");
    group.send(40, 60);
    wait_until("the first has all partitions", TOLD, || {
        first.metric("tagloom_kafka_partitions_assigned") == PARTITIONS
    });
    wait_no_lag(group, &[*first]);
    second.process.signal("CONT");
    wait_shared(both);
    both.iter().for_each(|process| process.wait_ready(TOLD));
    group.send(60, 65);
    wait_no_lag(group, both);
    let after = both.map(counted);
    for (before, after) in before.iter().zip(&after) {
        assert!(before.iter().zip(after).all(|(b, a)| b < a), "{before:?}, then {after:?}");
    }
}

fn a_gateway_that_is_away_is_told(group: &mut Group, both: &[&Served; 2]) {
    group.hbase.kill_gateway(0);
    group.send(65, 70);
    for process in both {
        let why = process.wait_not_ready("store", TOLD);
        assert!(why.contains("HBase") || why.contains("in time"), "{why}");
        wait_until("the metric of readiness", TOLD, || {
            process.metric_of("tagloom_ready", "condition=\"store\"") == Some(0.0)
        });
        wait_until("calls are refused", TOLD, || process.metric("tagloom_store_available") == 0.0);
        let why = process.wait_not_ready("store", TOLD);
        assert!(why.contains("HBase: 127.0.0.1:"), "{why}");
        // What needs no store is told all the same.
        let found = process.readiness();
        assert!(found.conditions["topics"].0, "{found:?}");
        let answer = process.get(&format!("/v1/users/{}", users(group)[0]));
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.body.contains("store-unavailable"), "{answer:?}");
    }
    let behind = |process: &&Served| process.metric("tagloom_kafka_lag_records") > 0.0;
    wait_until("both are behind", TOLD, || both.iter().all(behind));
    assert!(group.kafka.lag("served", &group.portrait.topics()).is_some_and(|lag| lag > 0));
    group.hbase.start_gateway(0);
    group.hbase.wait_ready();
    for process in both {
        process.wait_ready(TOLD);
        assert_eq!(process.metric_of("tagloom_ready", "condition=\"store\""), Some(1.0));
        assert_eq!(process.metric("tagloom_store_available"), 1.0);
    }
    wait_no_lag(group, both);
}

fn a_broker_that_is_away_is_told(group: &mut Group, both: &[&Served; 2]) {
    group.kafka.kill_broker();
    for process in both {
        let why = process.wait_not_ready("topics", TOLD);
        let address = group.kafka.servers();
        assert!(why.contains("no broker of Kafka answers") && why.contains(&address), "{why}");
        assert_eq!(process.metric_of("tagloom_ready", "condition=\"topics\""), Some(0.0));
        // Users are answered from the store.
        let answer = process.get(&format!("/v1/users/{}", users(group)[0]));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    group.kafka.start_broker();
    group.send(70, 80);
    both.iter().for_each(|process| process.wait_ready(TOLD));
    wait_shared(both);
    wait_no_lag(group, both);
}

/// A process with a store of its own, over the same topics.
fn alone(group: &Group) -> Served {
    let [port] = free_ports();
    let mut settings = Portrait::settings(&group.kafka, "alone");
    settings.push(format!("store.path={}", group.portrait.path("alone").display()));
    settings.push(format!("serve.listen=127.0.0.1:{port}"));
    group.portrait.load_dimensions(&settings);
    let arguments = ["--serve", "--as-of", "2026-03-31T20:00"];
    Served::new(group.portrait.start_with("alone", &arguments, &settings), port)
}

/// SIGTERM while no broker answers: with something that is stored and cannot be committed, and with
/// nothing to do.
fn ends_without_broker(group: &mut Group) {
    // It keeps its partitions, and its successor has them at once.
    let mut settings = SETTINGS.to_vec();
    settings.extend(["kafka.session.timeout.ms=45000", "kafka.group.instance.id=steady"]);
    let mut third = group.serving("third", &settings);
    third.wait_ready(TOLD);
    // The group has confirmed it: it may write for half of its session without asking again.
    group.send(80, 85);
    wait_no_lag(group, &[&third]);
    group.hbase.signal_gateway(0, "STOP");
    group.send(85, 100);
    wait_until("all is read", TOLD, || {
        third.metric("tagloom_kafka_lag_records") > 0.0
            && third.metric("tagloom_kafka_unread_records") == 0.0
    });
    group.kafka.kill_broker();
    let written = || {
        let labels = "call=\"write_window\",outcome=\"ok\"";
        third.metric_of("tagloom_store_calls_total", labels).unwrap()
    };
    let before = written();
    group.hbase.signal_gateway(0, "CONT");
    wait_until("a window is written", TOLD, || written() > before);
    let code = third.process.terminate(END_MAX);
    assert_eq!(code, Some(1), "{}", third.process.log_end());
    let said = third.process.has_said("its offsets could not be committed within 25 s");
    assert!(said, "{}", third.process.log_end());
    group.kafka.start_broker();
    let mut fourth = group.serving("fourth", &settings);
    fourth.wait_ready(TOLD);
    wait_no_lag(group, &[&fourth]);
    // One that joins no group tells it how far it is for those who watch only: it waits for nobody.
    let mut alone = alone(group);
    wait_until("it reads", TOLD, || alone.metric("tagloom_events_total") > 0.0);
    group.kafka.kill_broker();
    let code = alone.process.terminate(END_MAX);
    assert_eq!(code, Some(0), "{}", alone.process.log_end());
    fourth.wait_not_ready("topics", TOLD);
    let code = fourth.process.terminate(END_MAX);
    assert_eq!(code, Some(0), "{}", fourth.process.log_end());
}
