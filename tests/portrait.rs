//! The portrait workload: every user and every one of its 550 tags is what the workload's oracle
//! says, now and 1, 30 and 100 days later without events.
#![expect(unreachable_pub, dead_code, clippy::unwrap_used, reason = "a test")]

mod driven;
#[path = "driven/portrait.rs"]
mod portrait;

use portrait::AS_OF_MS;
use tagloom::engine::ruleset::Ruleset;
use tagloom::store::Store;

fn check(store: &dyn Store, ruleset: &Ruleset, days: u32) {
    let want = portrait::expected(days);
    let found = driven::stored(store, ruleset);
    assert_eq!(found.len(), 400);
    assert_eq!(want.len(), 400);
    for (uid, want) in &want {
        assert_eq!(want.len(), 550);
        for (tag, label) in want {
            let have = found[uid].labels.get(tag);
            assert_eq!(have, Some(label), "user {uid}, {tag}, {days} days later");
        }
    }
}

#[test]
fn every_tag_of_every_user_is_what_the_oracle_says_now_and_later() {
    let ruleset = portrait::ruleset();
    let store = portrait::store(&ruleset);
    let mut driver = portrait::run(&ruleset, &store, AS_OF_MS);
    check(store.as_ref(), &ruleset, 0);
    for days in [1, 30, 100] {
        driver.engine.drain(AS_OF_MS + i64::from(days) * 86_400_000).unwrap();
        check(store.as_ref(), &ruleset, days);
    }
}
