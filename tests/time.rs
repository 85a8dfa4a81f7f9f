//! Time alone: days later, without an event, every tag equals a recompute of everyone, while only
//! due users were recomputed.
#![expect(unreachable_pub, dead_code, clippy::unwrap_used, reason = "a test")]

mod driven;
#[path = "driven/portrait.rs"]
mod portrait;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use driven::Driver;
use flate2::read::GzDecoder;
use tagloom::catalog::model::Format;
use tagloom::engine::ruleset::Ruleset;
use tagloom::source::file::{FileSource, FileSpec, ReadLimits};
use tagloom::store::{Store, UidKey};
use tagloom::user::snapshot::decode_tags;
use tagloom::write::canonical;

const DAY_MS: i64 = 86_400_000;

/// `fresh(as_of_ms)`: a run of all events as of an instant. `some_rest`: some users' tags cannot
/// change with time alone.
fn check(
    ruleset: &Ruleset,
    as_of_ms: i64,
    some_rest: bool,
    fresh: impl Fn(i64) -> (Driver, Arc<dyn Store>),
) {
    let (mut driver, store) = fresh(as_of_ms);
    for days in [1, 30, 100] {
        let later_ms = as_of_ms + days * DAY_MS;
        let before: BTreeMap<UidKey, Vec<u8>> =
            driven::profiles(store.as_ref()).into_iter().collect();
        let stats = driver.engine.drain(later_ms).unwrap();
        let mut written = 0;
        for (key, bytes) in driven::profiles(store.as_ref()) {
            let was = decode_tags(&before[&key]).unwrap().head.due_ms;
            let was_due = was.is_some_and(|due| due <= later_ms);
            assert_eq!(bytes != before[&key], was_due, "{key:?} due {was:?}, {days} days later");
            written += u64::from(was_due);
        }
        assert_eq!(stats.due_users, written, "{days} days later");
        assert!(written > 0, "nobody was due {days} days later");
        assert!(written < before.len() as u64 || !some_rest, "everyone was due {days} days later");
        let (_, recomputed) = fresh(later_ms);
        let want = canonical::dump(recomputed.as_ref(), ruleset, later_ms).unwrap();
        let found = canonical::dump(store.as_ref(), ruleset, later_ms).unwrap();
        let differs = found.iter().zip(&want).find(|(a, b)| a != b);
        assert_eq!(differs, None, "{days} days later (left: time alone, right: recomputed)");
        assert_eq!(found.len(), want.len());
    }
}

#[test]
fn the_portrait_catalogue_is_right_after_days_without_events() {
    let ruleset = portrait::ruleset();
    check(&ruleset, portrait::AS_OF_MS, true, |as_of_ms| {
        let store = portrait::store(&ruleset);
        (portrait::run(&ruleset, &store, as_of_ms), store)
    });
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every 40th customer's lines of the example shop's file.
fn sample(dir: &Path) -> PathBuf {
    let file = std::fs::File::open(root().join("tags/data/online_retail.csv.gz")).unwrap();
    let mut lines = BufReader::new(GzDecoder::new(file)).lines().map(Result::unwrap);
    let mut text = lines.next().unwrap() + "\n";
    for line in lines {
        let customer: Option<u64> = line.rsplit(',').nth(1).and_then(|c| c.parse().ok());
        if customer.is_some_and(|c| c % 40 == 0) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    let path = dir.join("sample.csv");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_example_catalogue_is_right_after_days_without_events() {
    let loaded = tagloom::catalog::load(&root().join("tags")).unwrap_or_else(|e| panic!("{e}"));
    let ruleset = Arc::new(Ruleset::new(loaded.catalog).unwrap());
    let countries = std::fs::read_to_string(root().join("tags/data/country.csv")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = sample(dir.path());
    // The evening of the file's last day, 2011-12-09. Tags that show an age change every day.
    check(&ruleset, 1_323_460_800_000, false, |as_of_ms| {
        let store = driven::memory(&ruleset);
        driven::tables::load_table(store.as_ref(), &ruleset, "country", &countries);
        let mut driver = Driver::open(&ruleset, &store, 2, usize::MAX);
        let spec = FileSpec {
            path: path.clone(),
            format: Format::Csv,
            streams: (0..ruleset.catalog.streams.len()).collect(),
            name: "sample".into(),
        };
        let (catalog, layout) = (&ruleset.catalog, &ruleset.layout);
        let (texts, limits) = (driver.engine.texts(), ReadLimits::default());
        let mut source = FileSource::open(spec, catalog, layout, texts, 2, limits, None).unwrap();
        while let Some((decoded, position)) = source.next(None).unwrap() {
            driver.engine.feed("sample", Some(position), decoded).unwrap();
        }
        driver.engine.close(as_of_ms, true).unwrap();
        (driver, store)
    });
}
