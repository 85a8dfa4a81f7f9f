//! How often the store is asked, and what serves while it is down.

use super::*;

#[test]
fn cached_rows_are_read_once_until_they_are_old() {
    let (world, dimensions) = World::loaded(Strategy::Cached);
    let look = || dimensions.pin().enrich(0, KeyColumn::Numbers(&[7, 7, 1, 8])).unwrap();
    look();
    assert_eq!(world.gets(), 1, "one multi-get for the misses of a batch");
    look();
    world.wait_ms(999);
    look();
    assert_eq!(world.gets(), 1, "absent keys are remembered too");
    world.wait_ms(1);
    look();
    assert_eq!(world.gets(), 2);
}

#[test]
fn while_the_store_is_down_old_rows_serve_and_then_are_missing() {
    let (world, dimensions) = World::loaded(Strategy::Cached);
    let uids = [7, 1];
    let pinned = dimensions.pin();
    pinned.enrich(0, KeyColumn::Numbers(&uids)).unwrap();
    world.down(true);
    let fresh = pinned.enrich(0, KeyColumn::Numbers(&uids)).unwrap();
    assert_eq!((fresh.stale, fresh.failure), (false, None));
    world.wait_ms(6000);
    let stale = pinned.enrich(0, KeyColumn::Numbers(&[7, 1, 8])).unwrap();
    assert_eq!((stale.stale, &stale.missing[..], stale.absent_rows), (true, &[2][..], 1));
    assert_eq!(shown(&stale.columns[0]), ["10", "-", "-"]);
    assert_eq!(stale.stale_rows, [0, 1]);
    assert_eq!(stale.failure.as_deref(), Some("the store cannot be reached: pulled plug"));
    world.wait_ms(1);
    let gone = pinned.enrich(0, KeyColumn::Numbers(&uids)).unwrap();
    assert_eq!((gone.stale, &gone.missing[..]), (false, &[0, 1][..]));
    assert_eq!(shown(&gone.columns[0]), ["-", "-"]);
    world.down(false);
    let back = pinned.enrich(0, KeyColumn::Numbers(&uids)).unwrap();
    assert_eq!((back.stale, back.missing.len()), (false, 0));
    assert_eq!(shown(&back.columns[0]), ["10", "-"]);
}

#[test]
fn a_preloaded_table_serves_while_the_store_is_down_up_to_max_stale() {
    let (world, dimensions) = World::loaded(Strategy::Preload);
    world.down(true);
    world.wait_ms(5000);
    dimensions.refresh();
    let stale = dimensions.pin().enrich(0, KeyColumn::Numbers(&[7])).unwrap();
    assert_eq!((stale.stale, shown(&stale.columns[0])), (true, vec!["10".to_owned()]));
    world.wait_ms(1);
    let gone = dimensions.pin().enrich(0, KeyColumn::Numbers(&[7])).unwrap();
    assert_eq!((&gone.missing[..], shown(&gone.columns[0])), (&[0][..], vec!["-".to_owned()]));
    world.down(false);
    dimensions.refresh();
    let back = dimensions.pin().enrich(0, KeyColumn::Numbers(&[7])).unwrap();
    assert_eq!((back.stale, shown(&back.columns[0])), (false, vec!["10".to_owned()]));
}

#[test]
fn threads_that_miss_the_same_keys_read_them_once() {
    let (world, dimensions) = World::loaded(Strategy::Cached);
    let (pinned, barrier) = (dimensions.pin(), std::sync::Barrier::new(4));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                barrier.wait();
                let got = pinned.enrich(0, KeyColumn::Numbers(&[7, 8, 9, 1])).unwrap();
                assert_eq!(shown(&got.columns[0]), ["10", "-3", "-", "-"]);
            });
        }
    });
    assert_eq!(world.gets(), 1);
}

/// Other rows of the current epoch, as whoever keeps the table in the store puts them.
fn upsert(world: &World, text: &str) {
    let other = World::new(Strategy::Direct);
    let epoch = other.load("user", text).epoch;
    let rows = other.store.dim_scan("user", epoch, None, 10).unwrap();
    let current = world.store.dim_current("user").unwrap().unwrap();
    world.store.dim_put("user", current.epoch, rows).unwrap();
}

#[test]
fn direct_rows_are_read_once_a_window() {
    let (world, dimensions) = World::loaded(Strategy::Direct);
    let first = dimensions.pin();
    check_nps(&first, &["10", "10", "-", "-3"]);
    check_nps(&first, &["10", "10", "-", "-3"]);
    assert_eq!(world.gets(), 1, "one multi-get a window");
    upsert(&world, &USERS.replace("7,10,", "7,11,"));
    check_nps(&first, &["10", "10", "-", "-3"]);
    check_nps(&dimensions.pin(), &["11", "11", "-", "-3"]);
    assert_eq!(world.gets(), 2);
}

#[track_caller]
fn check_nps(pinned: &Pinned, expect: &[&str]) -> Enriched {
    let got = pinned.enrich(0, KeyColumn::Numbers(&[7, 7, 1, 8][..expect.len()])).unwrap();
    assert_eq!(shown(&got.columns[0]), expect);
    got
}

#[test]
fn while_the_store_is_down_the_last_direct_rows_serve_up_to_max_stale() {
    let (world, dimensions) = World::loaded(Strategy::Direct);
    check_nps(&dimensions.pin(), &["10", "10"]);
    world.down(true);
    world.wait_ms(5000);
    assert!(check_nps(&dimensions.pin(), &["10", "10"]).stale);
    world.wait_ms(1);
    assert_eq!(check_nps(&dimensions.pin(), &["-", "-"]).missing, [0, 1]);
    world.down(false);
    let back = check_nps(&dimensions.pin(), &["10", "10"]);
    assert_eq!((back.stale, back.missing.len()), (false, 0));
}

#[test]
fn direct_rows_are_read_at_a_bounded_rate() {
    let (world, _) = World::loaded(Strategy::Direct);
    let direct_rows_per_s_max = std::num::NonZeroU32::new(4).unwrap();
    let dimensions = world.open_with(&Lookups { direct_rows_per_s_max, ..Lookups::default() });
    let watch = crate::clock::Stopwatch::start();
    let uids = [1, 2, 3, 4, 5, 7];
    let got = dimensions.pin().enrich(0, KeyColumn::Numbers(&uids)).unwrap();
    assert_eq!(shown(&got.columns[0]), ["-", "-", "-", "-", "-", "10"]);
    let took = watch.elapsed();
    assert!(took.as_millis() >= 400, "4 at once, and 2 half a second later: {took:?}");
    assert_eq!(world.gets(), 2);
}
