//! Tables that topics keep.

use super::*;

/// Gives a feed that the test fills.
struct ByHand(Arc<Feed>);

impl OpenFeed for ByHand {
    fn open(&self, topic: &str) -> std::result::Result<Arc<Feed>, String> {
        assert_eq!(topic, self.0.topic());
        Ok(Arc::clone(&self.0))
    }

    fn reader(&self, topic: &str) -> std::result::Result<Box<dyn TopicReader>, String> {
        Err(format!("{topic} keeps no stored table"))
    }
}

struct Topic {
    world: World,
    feed: Arc<Feed>,
    next: u64,
}

impl Topic {
    fn new() -> Self {
        let mut world = World::new(Strategy::Broadcast);
        world.catalog.dimensions.truncate(1);
        world.catalog.dimensions[0].topic = Some("users".to_owned());
        let feed = Arc::new(Feed::new("users", 1 << 20));
        feed.begin("one");
        Self { world, feed, next: 0 }
    }

    fn put(&mut self, key: &str, value: Option<&str>) {
        let (key, value) = (key.as_bytes(), value.map(str::as_bytes));
        self.feed.put(FeedRecord { partition: 3, offset: self.next, key, value });
        self.next += 1;
    }

    fn open(&self) -> Dimensions {
        let feeds = Feeds::by(Arc::new(ByHand(Arc::clone(&self.feed))));
        self.world.open_with(&Lookups { feeds, ..Lookups::default() })
    }
}

const SEVEN: &str = r#"{"nps":10,"home_city":"leeds","credit":12.5,"since":"2026-03-01T12:00:00Z",
    "vip":true,"score":0.5,"born":"1990-02-03","card":18446744073709551615,"unused":[1]}"#;

#[track_caller]
fn check_nps(dimensions: &Dimensions, expect: &[&str]) -> Enriched {
    let pinned = dimensions.pin();
    let got = pinned.enrich(0, KeyColumn::Numbers(&[7, 8, 9][..expect.len()])).unwrap();
    assert_eq!(shown(&got.columns[0]), expect);
    got
}

#[test]
fn rows_are_those_that_a_file_would_give() {
    let mut topic = Topic::new();
    topic.put("7", Some(SEVEN));
    topic.put("\"8\"", Some(r#"{"nps":"-3","vip":null}"#));
    topic.feed.completed();
    let dimensions = topic.open();
    let seven = "10 leeds 12.50 2026-03-01T12:00:00Z true 0.5 1990-02-03 18446744073709551615";
    let uids = [8, 7, 1];
    let expect = ["-3 - - - - - - -", seven, "- - - - - - - -"];
    let got = check(&dimensions, 0, KeyColumn::Numbers(&uids), &expect);
    assert_eq!((got.absent_rows, got.missing.len(), got.stale), (1, 0, false));
    assert_eq!(topic.world.gets(), 0, "the store is not asked");
}

#[test]
fn a_window_sees_the_table_as_it_was_when_it_began() {
    let mut topic = Topic::new();
    topic.put("7", Some(r#"{"nps":10}"#));
    topic.put("8", Some(r#"{"nps":20}"#));
    topic.feed.completed();
    let dimensions = topic.open();
    let before = dimensions.of_topics();
    let pinned = dimensions.pin();
    topic.put("7", Some(r#"{"nps":11}"#));
    topic.put("8", None);
    topic.put("9", Some(r#"{"nps":"many"}"#));
    check_nps(&dimensions, &["10", "20", "-"]);
    // Users of the last change have to be reached first.
    assert!(dimensions.refresh_but(|table| table == "user").is_empty());
    check_nps(&dimensions, &["10", "20", "-"]);
    assert_eq!(dimensions.refresh().len(), 1);
    check_nps(&dimensions, &["11", "-", "-"]);
    let old = pinned.enrich(0, KeyColumn::Numbers(&[7, 8])).unwrap();
    assert_eq!(shown(&old.columns[0]), ["10", "20"]);
    let changed = dimensions.of_topics()[0].changed_behind(&before[0].at).unwrap();
    assert_eq!(changed.len(), 3, "users 7, 8 and 9");
    // A row that cannot be read leaves its key as it was.
    topic.put("7", Some("[]"));
    dimensions.refresh();
    check_nps(&dimensions, &["11"]);
}

#[test]
fn what_was_read_serves_while_the_topic_cannot_be() {
    let mut topic = Topic::new();
    let dimensions = topic.open();
    let unread = check_nps(&dimensions, &["-"]);
    assert_eq!(unread.missing, [0], "it was not read to its end");
    topic.put("7", Some(r#"{"nps":10}"#));
    topic.feed.completed();
    dimensions.refresh();
    assert!(!check_nps(&dimensions, &["10"]).stale);
    topic.feed.note(Some("brokers are down".to_owned()));
    topic.world.wait_ms(5000);
    dimensions.refresh();
    let stale = check_nps(&dimensions, &["10"]);
    assert_eq!((stale.stale, stale.failure.as_deref()), (true, Some("brokers are down")));
    topic.world.wait_ms(1);
    assert_eq!(check_nps(&dimensions, &["-"]).missing, [0]);
    topic.feed.note(None);
    dimensions.refresh();
    assert!(!check_nps(&dimensions, &["10"]).stale);
}
