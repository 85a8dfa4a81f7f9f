//! What `relay` writes beside a record: where it comes from, and into which partitions it went.
//!
//! In: headers of a record of `relay.topic`. Out: its origin, and whose rows of it count where it stands.
//! The value, and the timestamp, are those of the record as it was written.
//!
//! | header | |
//! |---|---|
//! | `tagloom.origin` | `TOPIC/PARTITION/OFFSET` |
//! | `tagloom.partitions` | only where there are several copies: the partitions they stand in, as `2,5`; in each the rows of the users count whom the [partitioner](crate::event::partitioner) puts there, and the first tells what is said of the record as a whole |
//!
//! Invariant: a record that `relay` did not write is never taken for one of its own.

use std::fmt::Write as _;

use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders, Timestamp};

use super::gather::Record;
use super::group::Shared;
use super::start::StartError;
use crate::event::Whose;
use crate::telemetry::names;

/// The header with the record's place of origin.
pub const ORIGIN: &str = "tagloom.origin";

/// The header with the partitions of all copies.
pub const PARTITIONS: &str = "tagloom.partitions";

/// Where a record was written first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: u32,
    /// The offset there.
    pub offset: u64,
}

/// The headers of a record. `partitions`: those into which it is written.
pub fn headers(origin: Origin<'_>, partitions: &[u32]) -> OwnedHeaders {
    let Origin { topic, partition, offset } = origin;
    let value = format!("{topic}/{partition}/{offset}");
    let headers = OwnedHeaders::new_with_capacity(2)
        .insert(Header { key: ORIGIN, value: Some(value.as_bytes()) });
    if partitions.len() < 2 {
        return headers;
    }
    let mut list = String::new();
    for (at, partition) in partitions.iter().enumerate() {
        // Writing to a String never fails.
        let _infallible = write!(list, "{}{partition}", if at > 0 { "," } else { "" });
    }
    headers.insert(Header { key: PARTITIONS, value: Some(list.as_bytes()) })
}

/// Reads the headers of a record; none: `relay` did not write it.
fn read<'a>(message: &'a BorrowedMessage<'_>) -> Option<(Origin<'a>, Whose)> {
    let headers = message.headers()?;
    let (mut origin, mut whose) = (None, Whose::Everybody);
    for header in headers.iter() {
        let value = header.value.and_then(|value| std::str::from_utf8(value).ok());
        match header.key {
            ORIGIN => origin = parse_origin(value?),
            PARTITIONS => whose = whose_of(value?, message.partition())?,
            _ => {}
        }
    }
    Some((origin?, whose))
}

/// Fills in where a record of `relay.topic` comes from. What `relay` did not write, or wrote of a topic
/// that is not relayed any more, counts as a record without value.
pub(super) fn trace_back(shared: &Shared, message: &BorrowedMessage<'_>, record: &mut Record<'_>) {
    let found = read(message);
    let origins = shared.options.relayed.as_ref().map_or(&[][..], |r| &r.origins);
    record.relayed =
        found.and_then(|(origin, _)| origins.iter().position(|name| name == origin.topic));
    let (Some((origin, whose)), Some(_)) = (found, record.relayed) else {
        record.value = None;
        names::RELAY_FOREIGN.counter(&[]).increment(1);
        let (partition, offset) = (message.partition(), message.offset());
        tracing::warn!(
            partition,
            offset,
            origin = found.map(|(origin, _)| origin.topic),
            "left out: a record of relay.topic that relay did not write, or of a topic that is not in \
             relay.topics"
        );
        return;
    };
    record.place.origin = (origin.partition, origin.offset);
    record.place.whose = whose;
    if matches!(message.timestamp(), Timestamp::LogAppendTime(_)) {
        let topic = message.topic().to_owned();
        shared.fail(StartError::AppendTime { topic }.into());
    }
}

fn parse_origin(text: &str) -> Option<Origin<'_>> {
    let (rest, offset) = text.rsplit_once('/')?;
    let (topic, partition) = rest.rsplit_once('/')?;
    Some(Origin { topic, partition: partition.parse().ok()?, offset: offset.parse().ok()? })
}

/// Of a copy that stands in this partition.
fn whose_of(list: &str, partition: i32) -> Option<Whose> {
    let at = list.split(',').position(|one| one.parse() == Ok(partition))?;
    Some(if at == 0 { Whose::First } else { Whose::Others })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_where_a_record_comes_from_and_who_tells_of_it() {
        let origin = Origin { topic: "shop.orders", partition: 3, offset: 1_042 };
        let value = |headers: &OwnedHeaders, at: usize| {
            String::from_utf8_lossy(headers.get(at).value.unwrap_or_default()).into_owned()
        };
        let one = headers(origin, &[5]);
        assert_eq!((one.count(), value(&one, 0).as_str()), (1, "shop.orders/3/1042"));
        assert_eq!(parse_origin(&value(&one, 0)), Some(origin));
        let two = headers(origin, &[2, 5]);
        assert_eq!((two.count(), value(&two, 1).as_str()), (2, "2,5"));
        assert_eq!(whose_of("2,5", 2), Some(Whose::First));
        assert_eq!(whose_of("2,5", 5), Some(Whose::Others));
        assert_eq!(whose_of("2,5", 25), None, "it stands where relay did not put it");
        for text in ["", "shop.orders", "shop.orders/3", "shop.orders/3/x", "a/-1/4"] {
            assert_eq!(parse_origin(text), None, "{text}");
        }
    }
}
