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
