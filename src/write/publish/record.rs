//! Changes and rejects as records.
//!
//! In: a user's change, a reject. Out: key, value and headers. Invariant: pure.

use serde::Serialize;

use super::outbox::{Cause, Change, TagChange};
use crate::event::reject::Reject;

/// What goes to a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Says which records are about the same thing.
    pub key: Vec<u8>,
    /// What happened.
    pub value: Vec<u8>,
    /// By name.
    pub headers: Vec<(&'static str, String)>,
}

/// The value of a change's record.
#[derive(Debug, Serialize)]
struct ChangeValue<'a> {
    uid: &'a str,
    version: u64,
    as_of: String,
    cause: Cause,
    changes: &'a [TagChange],
}

/// A change: its key is the uid as text.
pub(super) fn of_change(uid: &str, change: &Change) -> Record {
    let value = ChangeValue {
        uid,
        version: change.version,
        as_of: crate::clock::show_instant(change.as_of_ms),
        cause: change.cause,
        changes: &change.tags,
    };
    let value = serde_json::to_vec(&value).expect("texts and numbers are JSON");
    Record { key: uid.as_bytes().to_vec(), value, headers: Vec::new() }
}

/// A reject: its key says where the row stood, its value is the row.
pub(super) fn of_reject(reject: &Reject) -> Record {
    let Reject { stream, reason, detail, source, line, offset, index, .. } = reject;
    let mut headers = vec![
        ("reason", reason.name().to_owned()),
        ("message", detail.clone()),
        ("stream", stream.clone()),
    ];
    let key = match reject.topic() {
        Some((topic, partition)) => {
            headers.push(("topic", topic.to_owned()));
            headers.push(("partition", partition.to_string()));
            format!("{topic}/{partition}/{offset}/{index}")
        }
        None => {
            headers.push(("file", source.clone()));
            headers.push(("line", line.to_string()));
            format!("{source}/{offset}/{index}")
        }
    };
    headers.push(("offset", offset.to_string()));
    headers.push(("index", index.to_string()));
    if let Some(arrived_ms) = reject.arrived_ms {
        headers.push(("timestamp", arrived_ms.to_string()));
    }
    let value = reject.bytes();
    if (value.len() as u64) < reject.row_bytes {
        headers.push(("row_bytes", reject.row_bytes.to_string()));
    }
    Record { key: key.into_bytes(), value: value.to_vec(), headers }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::reject::Reason;

    #[test]
    fn a_change_says_who_what_when_and_why() {
        let tag = |tag: &str, from: Option<&str>, to: Option<&str>| TagChange {
            tag: tag.to_owned(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let tags = vec![tag("a", None, Some("x \"y\"")), tag("b", Some("1"), None)];
        let change = Change { version: 7, as_of_ms: 1_500, cause: Cause::Time, tags };
        let record = of_change("u1", &change);
        assert_eq!(record.key, b"u1");
        assert_eq!(
            String::from_utf8_lossy(&record.value),
            "{\"uid\":\"u1\",\"version\":7,\"as_of\":\"1970-01-01T00:00:01.5Z\",\"cause\":\"time\",\
             \"changes\":[{\"tag\":\"a\",\"from\":null,\"to\":\"x \\\"y\\\"\"},\
             {\"tag\":\"b\",\"from\":\"1\",\"to\":null}]}"
        );
    }

    #[test]
    fn a_reject_says_where_its_row_stood() {
        let reject = Reject {
            stream: "consume".to_owned(),
            reason: Reason::Type,
            detail: "price: `x` is no number".to_owned(),
            source: "shop.consume/3".to_owned(),
            offset: 17,
            index: 2,
            row: "{\"price\":\"x\"}".to_owned(),
            row_bytes: 13,
            arrived_ms: Some(99),
            ..Reject::default()
        };
        let record = of_reject(&reject);
        assert_eq!(String::from_utf8_lossy(&record.key), "shop.consume/3/17/2");
        assert_eq!(record.value, b"{\"price\":\"x\"}");
        let shown: Vec<String> = record.headers.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(
            shown.join(" "),
            "reason=type message=price: `x` is no number stream=consume topic=shop.consume \
             partition=3 offset=17 index=2 timestamp=99"
        );
        let of_file = Reject { arrived_ms: None, line: 4, row_bytes: 9_000, ..reject };
        let record = of_reject(&of_file);
        let shown: Vec<String> = record.headers.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert!(
            shown.join(" ").contains("file=shop.consume/3 line=4 offset=17 index=2 row_bytes=9000")
        );
    }
}
