//! Topics into the embedded store: nothing is lost, nothing counts twice.

use std::time::Duration;

use crate::rig::kafka::{Kafka, Record};
use crate::rig::portrait::{AS_OF_MS, Portrait};

const USERS: u32 = 20_000;
const EVENTS: u32 = 200_000;
const CAUGHT_UP: Duration = Duration::from_secs(120);

fn embedded(portrait: &Portrait, kafka: &Kafka, name: &str) -> Vec<String> {
    let mut settings = Portrait::settings(kafka, name);
    settings.push(format!("store.path={}", portrait.path(name).display()));
    settings
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn topics_give_what_the_same_events_give_as_files_however_often_the_process_is_killed() {
    let kafka = Kafka::start();
    let portrait = Portrait::new("emb", USERS, EVENTS);
    let settings = embedded(&portrait, &kafka, "embedded");
    portrait.load_dimensions(&settings);
    portrait.send(&kafka, 8);
    for kill in 0..6_u64 {
        let process = portrait.start("killed", &settings);
        // Random enough: a window closes every half second.
        std::thread::park_timeout(Duration::from_millis(900 + 370 * kill));
        process.kill();
    }
    let process = portrait.start("last", &settings);
    kafka.wait_committed("embedded", &portrait.topics(), CAUGHT_UP);
    Portrait::stop(process);
    portrait.assert_equal(&settings);
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn a_topic_that_is_not_what_it_was_is_refused_with_the_remedy() {
    let kafka = Kafka::start();
    let portrait = Portrait::new("odd", 200, 2_000);
    let settings = embedded(&portrait, &kafka, "odd");
    portrait.load_dimensions(&settings);
    let refused = |remedy: &str| {
        let as_of = AS_OF_MS.to_string();
        let output = portrait.command(&["run", "--as-of", &as_of], &settings).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(remedy), "{text}");
    };
    refused("create it, or correct `from:`");
    kafka.create("odd-register", 4);
    kafka.create("odd-consume", 4);
    kafka.create("odd-cancel", 3);
    refused("odd-cancel: 3");
    kafka.grow("odd-cancel", 4);
    for stream in ["register", "consume", "cancel"] {
        portrait.send_part(&kafka, stream, 0, usize::MAX);
    }
    let process = portrait.start("first", &settings);
    kafka.wait_committed("odd", &portrait.topics(), CAUGHT_UP);
    Portrait::stop(process);
    portrait.assert_equal(&settings);

    kafka.delete("odd-consume");
    kafka.create("odd-consume", 4);
    refused("tagloom source reset odd-consume");
    portrait.ok_with(&["source", "reset", "odd-consume"], &settings);
    // The same events once more: they are recognised by their ids.
    portrait.send_part(&kafka, "consume", 0, usize::MAX);
    let process = portrait.start("second", &settings);
    kafka.wait_committed("odd", &portrait.topics(), CAUGHT_UP);
    Portrait::stop(process);
    portrait.assert_equal(&settings);

    for topic in portrait.topics() {
        kafka.grow(&topic, 5);
    }
    refused("tagloom relay");
}

#[test]
#[ignore = "starts Kafka: tests/live/run.sh"]
fn a_users_events_in_partitions_of_two_numbers_stop_the_run() {
    let kafka = Kafka::start();
    let portrait = Portrait::new("mix", 200, 2_000);
    let settings = embedded(&portrait, &kafka, "mix");
    for topic in portrait.topics() {
        kafka.create(&topic, 4);
    }
    let line = |id: u32| {
        format!(
            "{{\"event_id\":\"x{id}\",\"uid\":7,\"ts\":{},\"order_id\":\"o{id}\",\"amount_cents\":5,\
             \"reason\":\"late\"}}",
            AS_OF_MS - 1000
        )
    };
    let lines: Vec<String> = (0..64).map(line).collect();
    let keys: Vec<String> = (0..64).map(|key: u32| key.to_string()).collect();
    let records = lines.iter().zip(&keys).map(|(line, key)| Record {
        key: key.as_bytes(),
        value: line.as_bytes(),
        at_ms: AS_OF_MS,
    });
    kafka.send("mix-cancel", records);
    let as_of = AS_OF_MS.to_string();
    let output = portrait.command(&["run", "--as-of", &as_of], &settings).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("user `7`") && text.contains("tagloom relay"), "{text}");
}
