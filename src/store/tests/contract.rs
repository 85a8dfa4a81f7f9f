//! What every store does: behaviours that hold over each of them, shared with the live tests.
//!
//! Whoever includes this gives `store`, the module, and for each behaviour a way to run it over fresh
//! stores: a write, then a look, at once and after the store was opened again.

use super::store::*;

/// Runs a write and a look over each store.
pub(super) type Each<'a> = &'a dyn Fn(&dyn Fn(&dyn Store), &dyn Fn(&dyn Store));

/// Gives the names of all behaviours to a macro.
macro_rules! behaviours {
    ($make:ident) => {
        $make! {
            profiles_are_read_in_the_order_asked
            within_a_window_the_last_write_wins_and_removal_comes_after
            profiles_scan_each_user_once_page_by_page
            due_packs_come_by_instant_and_go_with_the_window_that_drained_them
            each_term_is_greater_than_all_before
            a_reject_is_read_once_and_goes_when_it_was_driven_again
            small_values_are_kept_apart_from_the_stores_own
            a_small_value_is_replaced_by_one_who_knows_it
            a_dimension_epoch_counts_once_it_is_committed
            two_epochs_are_kept_and_numbers_are_never_used_twice
            names_that_are_refused_are_refused_by_every_store
            a_window_over_many_profiles_changes_its_own_only
            changed_keys_are_kept_with_their_epoch
            rows_of_an_epoch_are_put_and_taken_away
            a_huge_window_is_one_write
        }
    };
}
pub(super) use behaviours;

pub(super) fn key(uid: u64) -> UidKey {
    UidKey::from_u64(uid)
}

pub(super) fn profiles(rows: &[(u64, &str)]) -> WindowWrite {
    let profiles = rows.iter().map(|(uid, text)| (key(*uid), text.as_bytes().into())).collect();
    WindowWrite { profiles, ..WindowWrite::default() }
}

pub(super) fn texts(values: Vec<Option<Bytes>>) -> Vec<String> {
    let text = |v: Option<Bytes>| v.map_or("-".into(), |v| String::from_utf8_lossy(&v).into());
    values.into_iter().map(text).collect()
}

pub(super) fn pack(due_ms: i64, window: u64, shard: u16, uids: &[u64]) -> DuePack {
    let keys = uids.iter().map(|uid| key(*uid)).collect();
    DuePack { cursor: DueCursor { due_ms, window, shard, partition: 0 }, keys }
}

fn dim_meta(epoch: Epoch) -> DimMeta {
    DimMeta {
        epoch,
        loaded_at_ms: 7,
        source: "city.csv".to_owned(),
        key: "string".to_owned(),
        columns: vec![DimColumnMeta { name: "tier".to_owned(), kind: "int".to_owned() }],
        rows: 2,
        rejected: 0,
        changed: 2,
        removed: 0,
        topic: None,
        all_changed: true,
    }
}

fn row(key: &str, row: &str) -> DimRow {
    (key.as_bytes().into(), row.as_bytes().into())
}

pub(super) fn profiles_are_read_in_the_order_asked(each: Each<'_>) {
    each(
        &|s| {
            s.write_window(profiles(&[(3, "c"), (1, "a"), (2, "b")])).unwrap();
            s.write_window(profiles(&[(2, "b2")])).unwrap();
        },
        &|s| {
            let got = s.profiles(&[key(2), key(9), key(1), key(2)]).unwrap();
            assert_eq!(texts(got), ["b2", "-", "a", "b2"]);
        },
    );
}

pub(super) fn within_a_window_the_last_write_wins_and_removal_comes_after(each: Each<'_>) {
    each(
        &|s| {
            let mut window = profiles(&[(1, "a"), (2, "b"), (1, "a2"), (3, "c")]);
            window.removed = vec![key(2), key(8)];
            s.write_window(window).unwrap();
        },
        &|s| {
            let got = s.profiles(&[key(1), key(2), key(3), key(8)]).unwrap();
            assert_eq!(texts(got), ["a2", "-", "c", "-"]);
        },
    );
}

pub(super) fn profiles_scan_each_user_once_page_by_page(each: Each<'_>) {
    each(
        &|s| {
            let uids = [(300, "c"), (2, "a"), (255, "b"), (30, "e"), (u64::MAX, "d")];
            s.write_window(profiles(&uids)).unwrap();
        },
        &|s| {
            let (mut seen, mut keys) = (Vec::new(), Vec::new());
            loop {
                let after = keys.last();
                let page = s.scan_profiles(after, 2).unwrap();
                assert!(page.len() <= 2);
                let uids: Vec<UidKey> = page.iter().map(|(key, _)| key.clone()).collect();
                assert_eq!(s.scan_uids(after, 2).unwrap(), uids);
                if page.is_empty() {
                    break;
                }
                seen.extend(page.into_iter().map(|(key, value)| (key.as_u64(), value)));
                keys.extend(uids);
            }
            assert!(!s.scans_in_uid_order() || keys.is_sorted());

            let mut pages = SortedProfiles::new(s, 2).unwrap();
            let mut sorted = Vec::new();
            loop {
                let page = pages.next_page().unwrap();
                if page.is_empty() {
                    break;
                }
                sorted.extend(page.into_iter().map(|(key, value)| (key.as_u64(), value)));
            }
            seen.sort();
            assert_eq!(sorted, seen);
            let uids: Vec<_> = sorted.iter().filter_map(|(uid, _)| *uid).collect();
            assert_eq!(uids, [2, 30, 255, 300, u64::MAX]);
        },
    );
}

pub(super) fn due_packs_come_by_instant_and_go_with_the_window_that_drained_them(each: Each<'_>) {
    each(
        &|s| {
            let term = s.take_term().unwrap();
            s.own(Ownership { term, partitions: vec![0, 7] }).unwrap();
            let due = vec![
                pack(2000, 1, 0, &[7, 5, 7]),
                pack(-10, 9, 1, &[1]),
                pack(1000, 2, 1, &[3]),
                pack(1000, 2, 0, &[2]),
            ];
            s.write_window(WindowWrite { due, ..WindowWrite::default() }).unwrap();
            let all = s.due_until(i64::MAX, None, 9).unwrap();
            let expect = [
                pack(-10, 9, 1, &[1]),
                pack(1000, 2, 0, &[2]),
                pack(1000, 2, 1, &[3]),
                pack(2000, 1, 0, &[5, 7]),
            ];
            assert_eq!(all, expect);
            assert_eq!(s.due_until(1000, None, 9).unwrap(), expect[..3]);
            assert_eq!(s.due_until(999, None, 9).unwrap(), expect[..1]);
            assert_eq!(s.due_until(i64::MAX, None, 2).unwrap(), expect[..2]);
            assert_eq!(s.due_until(1000, Some(expect[1].cursor), 9).unwrap(), expect[2..3]);
            assert_eq!(s.due_until(1000, Some(expect[3].cursor), 9).unwrap(), []);

            // One instant, window and shard, two partitions.
            let mut other = pack(1000, 2, 0, &[9]);
            other.cursor.partition = 7;
            let due = vec![other.clone()];
            s.write_window(WindowWrite { due, ..WindowWrite::default() }).unwrap();
            assert_eq!(s.due_until(1000, Some(expect[1].cursor), 1).unwrap(), [other.clone()]);
            assert_eq!(s.due_until(1000, Some(other.cursor), 9).unwrap(), expect[2..3]);
            let due_done = vec![other.cursor];
            s.write_window(WindowWrite { due_done, ..WindowWrite::default() }).unwrap();

            // Drained and due again in the same window: the new pack stays.
            let due_done = vec![expect[0].cursor, expect[1].cursor];
            let due = vec![pack(1000, 2, 0, &[8])];
            s.write_window(WindowWrite { due, due_done, ..WindowWrite::default() }).unwrap();
            let left = s.due_until(1500, None, 9).unwrap();
            assert_eq!(left, [pack(1000, 2, 0, &[8]), pack(1000, 2, 1, &[3])]);
        },
        &|_| (),
    );
}

pub(super) fn each_term_is_greater_than_all_before(each: Each<'_>) {
    let last = std::cell::Cell::new(Term::default());
    each(
        &|s| {
            let terms = [(); 3].map(|()| s.take_term().unwrap());
            assert!(terms.is_sorted_by(|a, b| a < b) && terms[0] > Term::default(), "{terms:?}");
            s.own(Ownership { term: terms[2], partitions: vec![0] }).unwrap();
            assert!(terms[1].first_window() + 1_000_000 < terms[2].first_window());
            last.set(terms[2]);
        },
        &|s| assert!(s.take_term().unwrap() > last.get()),
    );
}

pub(super) fn a_reject_is_read_once_and_goes_when_it_was_driven_again(each: Each<'_>) {
    each(
        &|s| {
            let window = |texts: &[&str], ids: &[u64]| WindowWrite {
                rejects: texts.iter().map(|text| text.as_bytes().to_vec()).collect(),
                reject_ids: ids.to_vec(),
                ..WindowWrite::default()
            };
            s.write_window(window(&["a", "b", "c"], &[5, 1 << 60, 3])).unwrap();
            if !s.is_atomic() {
                // A replay of the same rows.
                s.write_window(window(&["b", "a"], &[1 << 60, 5])).unwrap();
            }
        },
        &|s| {
            let rows = s.scan_rejects(None, 9).unwrap();
            let (numbers, mut texts): (Vec<u64>, Vec<Bytes>) = rows.into_iter().unzip();
            texts.sort();
            assert_eq!(texts, [b"a", b"b", b"c"].map(|text| Bytes::from(&text[..])));
            assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
            let page = s.scan_rejects(Some(numbers[0]), 1).unwrap();
            assert_eq!(page.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [numbers[1]]);
            let rejects_done = numbers[..2].to_vec();
            s.write_window(WindowWrite { rejects_done, ..WindowWrite::default() }).unwrap();
            assert_eq!(s.scan_rejects(None, 9).unwrap().len(), 1);
            let rejects_done = numbers;
            s.write_window(WindowWrite { rejects_done, ..WindowWrite::default() }).unwrap();
        },
    );
}

pub(super) fn small_values_are_kept_apart_from_the_stores_own(each: Each<'_>) {
    each(
        &|s| {
            s.put_meta("position/consume", b"1".to_vec()).unwrap();
            s.put_meta("position/cancel", b"2".to_vec()).unwrap();
            let meta = vec![("position/consume".to_owned(), b"3".to_vec())];
            let rejects = vec![b"bad".to_vec()];
            s.write_window(WindowWrite { meta, rejects, ..WindowWrite::default() }).unwrap();
        },
        &|s| {
            assert_eq!(s.meta("position/consume").unwrap().as_deref(), Some(&b"3"[..]));
            assert_eq!(s.meta("position/none").unwrap(), None);
            let keys: Vec<_> = s.scan_meta("pos").unwrap().into_iter().map(|(k, _)| k).collect();
            assert_eq!(keys, ["position/cancel", "position/consume"]);
            assert_eq!(s.scan_meta("").unwrap().len(), 2);
        },
    );
}

pub(super) fn a_small_value_is_replaced_by_one_who_knows_it(each: Each<'_>) {
    let replace = |s: &dyn Store, expected: Option<&str>, value: &str| {
        s.replace_meta("number", expected.map(str::as_bytes), value.as_bytes().to_vec()).unwrap()
    };
    each(
        &|s| {
            assert!(!replace(s, Some("0"), "1"), "there is none");
            assert!(replace(s, None, "1"));
            assert!(!replace(s, None, "2") && !replace(s, Some("3"), "2"));
            assert!(replace(s, Some("1"), "2"));
        },
        &|s| {
            assert_eq!(s.meta("number").unwrap().as_deref(), Some(&b"2"[..]));
            assert!(replace(s, Some("2"), "3") && !replace(s, Some("2"), "4"));
            assert_eq!(s.meta("number").unwrap().as_deref(), Some(&b"3"[..]));
        },
    );
}

pub(super) fn a_dimension_epoch_counts_once_it_is_committed(each: Each<'_>) {
    each(
        &|s| {
            let epoch = s.dim_begin("city").unwrap();
            s.dim_put("city", epoch, vec![row("b", "2"), row("a", "1"), row("b", "3")]).unwrap();
            s.dim_put("city", epoch, vec![row("a", "4"), row("c", "5")]).unwrap();
            assert_eq!(s.dim_current("city").unwrap(), None);
            assert_eq!(s.dim_tables().unwrap(), [""; 0]);
            s.dim_commit("city", dim_meta(epoch)).unwrap();
            s.dim_begin("unfinished").unwrap();
        },
        &|s| {
            assert_eq!(s.dim_tables().unwrap(), ["city"]);
            let meta = s.dim_current("city").unwrap();
            assert_eq!(meta, Some(dim_meta(1)));
            let got = s.dim_get("city", 1, &[b"b", b"nope", b"a"]).unwrap();
            assert_eq!(texts(got), ["3", "-", "4"]);
            let page = s.dim_scan("city", 1, Some(b"a"), 2).unwrap();
            assert_eq!(page.iter().map(|(k, _)| k[0]).collect::<Vec<_>>(), [b'b', b'c']);
        },
    );
}

pub(super) fn two_epochs_are_kept_and_numbers_are_never_used_twice(each: Each<'_>) {
    each(
        &|s| {
            for text in ["1", "2", "3"] {
                let epoch = s.dim_begin("city").unwrap();
                s.dim_put("city", epoch, vec![row("a", text)]).unwrap();
                s.dim_commit("city", dim_meta(epoch)).unwrap();
            }
            let epochs: Vec<_> = s.dim_epochs("city").unwrap().iter().map(|m| m.epoch).collect();
            assert_eq!(epochs, [2, 3]);
            assert!(matches!(s.dim_get("city", 1, &[b"a"]), Err(StoreError::NoEpoch { .. })));
            assert_eq!(texts(s.dim_get("city", 2, &[b"a"]).unwrap()), ["2"]);

            // A load that was given up, and one that was never finished.
            let failed = s.dim_begin("city").unwrap();
            s.dim_drop("city", failed).unwrap();
            let unfinished = s.dim_begin("city").unwrap();
            s.dim_put("city", unfinished, vec![row("z", "9")]).unwrap();
            assert_eq!(s.dim_begin("city").unwrap(), 6);
            let stale = s.dim_commit("city", dim_meta(unfinished));
            assert!(matches!(stale, Err(StoreError::NoEpoch { epoch: 5, .. })));
            assert!(s.dim_scan("city", unfinished, None, 9).is_err());
            assert_eq!(s.dim_scan("city", 6, None, 9).unwrap(), []);
        },
        &|_| (),
    );
}

pub(super) fn names_that_are_refused_are_refused_by_every_store(each: Each<'_>) {
    each(
        &|s| {
            for key in ["", "\0header", &"k".repeat(1025)] {
                assert!(matches!(s.meta(key), Err(StoreError::TooLarge { .. })), "{key:?}");
                assert!(matches!(s.put_meta(key, vec![1]), Err(StoreError::TooLarge { .. })));
                let mut window = profiles(&[(1, "a")]);
                window.meta = vec![(key.to_owned(), vec![1])];
                assert!(matches!(s.write_window(window), Err(StoreError::TooLarge { .. })));
            }
            assert_eq!(texts(s.profiles(&[key(1)]).unwrap()), ["-"], "all of a window or nothing");
            for table in ["", &"t".repeat(201)] {
                assert!(
                    matches!(s.dim_begin(table), Err(StoreError::TooLarge { .. })),
                    "{table:?}"
                );
            }
        },
        &|_| (),
    );
}

pub(super) fn a_window_over_many_profiles_changes_its_own_only(each: Each<'_>) {
    each(
        &|s| {
            let rows = |range: std::ops::Range<u64>, text: &str| {
                let rows: Vec<(u64, &str)> = range.rev().map(|uid| (uid, text)).collect();
                profiles(&rows)
            };
            s.write_window(rows(0..1000, "old")).unwrap();
            s.write_window(rows(500..510, "few")).unwrap();
            s.write_window(rows(900..2000, "many")).unwrap();
        },
        &|s| {
            let mut rows = s.scan_profiles(None, 9999).unwrap();
            rows.sort();
            let text = |uid: usize| match uid {
                500..510 => &b"few"[..],
                900.. => b"many",
                _ => b"old",
            };
            assert_eq!(rows.len(), 2000);
            for (at, (uid, value)) in rows.iter().enumerate() {
                assert_eq!((uid, &value[..]), (&key(at as u64), text(at)));
            }
        },
    );
}

pub(super) fn changed_keys_are_kept_with_their_epoch(each: Each<'_>) {
    each(
        &|s| {
            let epoch = s.dim_begin("city").unwrap();
            let changes = [(b"b", ChangeKind::Removed), (b"a", ChangeKind::Added)];
            let changes = changes.map(|(key, kind)| (key.to_vec(), kind)).to_vec();
            s.dim_put_changes("city", epoch, changes).unwrap();
            s.dim_commit("city", dim_meta(epoch)).unwrap();
            let first = s.dim_changes("city", epoch, None, 1).unwrap();
            assert_eq!(first, [(b"a"[..].into(), ChangeKind::Added)]);
            let rest = s.dim_changes("city", epoch, Some(b"a"), 9).unwrap();
            assert_eq!(rest, [(b"b"[..].into(), ChangeKind::Removed)]);
        },
        &|_| (),
    );
}

pub(super) fn rows_of_an_epoch_are_put_and_taken_away(each: Each<'_>) {
    let put = |s: &dyn Store, version: u64, key: &str, text: Option<&str>| {
        let row = (key.as_bytes().into(), text.map(|text| text.as_bytes().into()));
        s.dim_upsert("city", 1, version, vec![row]).unwrap();
    };
    each(
        &|s| {
            let epoch = s.dim_begin("city").unwrap();
            let rows = ["a", "b", "c", "d", "e"].map(|key| row(key, "1")).to_vec();
            s.dim_put("city", epoch, rows).unwrap();
            s.dim_commit("city", dim_meta(epoch)).unwrap();
            put(s, 0, "a", Some("2"));
            put(s, 7, "b", None);
            put(s, 7, "c", None);
            put(s, 8, "c", Some("3"));
            put(s, 8, "f", Some("4"));
            put(s, 9, "d", None);
            put(s, 9, "nope", None);
            if !s.is_atomic() {
                // Of another process, which is late.
                put(s, 8, "d", Some("late"));
                put(s, 5, "c", Some("late"));
                put(s, 6, "b", Some("late"));
                put(s, 8, "f", Some("4"));
            }
            let other = s.dim_upsert("city", 9, 9, vec![(b"a"[..].into(), None)]);
            assert!(matches!(other, Err(StoreError::NoEpoch { epoch: 9, .. })));
        },
        &|s| {
            let got = s.dim_get("city", 1, &[b"a", b"b", b"c", b"d", b"e", b"f"]).unwrap();
            assert_eq!(texts(got), ["2", "-", "3", "-", "1", "4"]);
            let keys = |after: Option<&[u8]>, rows_max| {
                let page = s.dim_scan("city", 1, after, rows_max).unwrap();
                page.iter().map(|(key, _)| char::from(key[0])).collect::<String>()
            };
            // Pages are full though rows are gone.
            assert_eq!((keys(None, 2), keys(Some(b"c"), 2)), ("ac".to_owned(), "ef".to_owned()));
            assert_eq!(
                (keys(Some(b"c"), 3), keys(Some(b"f"), 1)),
                ("ef".to_owned(), String::new())
            );
        },
    );
}

pub(super) fn a_huge_window_is_one_write(each: Each<'_>) {
    each(
        &|s| {
            let rows = (0..20_000u64).map(|uid| (key(uid), vec![b'x'; 600].into()));
            s.write_window(WindowWrite { profiles: rows.collect(), ..WindowWrite::default() })
                .unwrap();
        },
        &|s| {
            let got = s.scan_profiles(None, 30_000).unwrap();
            assert_eq!(got.len(), 20_000);
            assert!(got.iter().all(|(_, value)| value.len() == 600));
        },
    );
}
