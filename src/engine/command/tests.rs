//! Commands over a store in memory: numbers, bounds, owners that come and go.

use super::*;
use crate::catalog::model::UidType;
use crate::source::kafka::{TopicMeta, topic_key};
use crate::store::memory::MemoryStore;
use crate::store::{ClockMode, Identity, WindowWrite};

/// A store with users 1 to 9 whose topics have four partitions. Whoever asks owns everybody.
fn store() -> MemoryStore {
    let (uid, clock) = (UidType::U64, ClockMode::Wall);
    let identity = Identity { uid, timezone: "UTC".to_owned(), clock };
    let store = MemoryStore::new(identity, 9).shared();
    let topic = TopicMeta { topic: "t".to_owned(), id: "i".to_owned(), partitions: 4 };
    store.put_meta(&topic_key("t"), json(&topic)).unwrap();
    let profiles = (1..=9).map(|uid| (UidKey::from_u64(uid), b"p"[..].into())).collect();
    store.write_window(WindowWrite { profiles, ..WindowWrite::default() }).unwrap();
    store
}

fn everybody() -> Work {
    Work::Recompute { users: None, users_per_s: None }
}

fn named(uids: &[u64]) -> Work {
    let users = uids.iter().map(|uid| UidKey::from_u64(*uid).as_bytes().to_vec()).collect();
    Work::Recompute { users: Some(users), users_per_s: None }
}

/// One window of the owner of some partitions, of three users at most; none: no command is left.
fn step(store: &MemoryStore, partitions: &[u32]) -> Option<Vec<u64>> {
    let own = OwnCommands::open(store, partitions).unwrap();
    let commands = Commands::of(store).unwrap();
    let command = commands.next(own.done(), 0)?;
    let chunk = CommandJob::new(command, own).next(store, 3).unwrap().unwrap();
    let users = chunk.also.iter().filter_map(|(key, _)| key.as_u64()).collect();
    store.write_window(WindowWrite { meta: chunk.meta, ..WindowWrite::default() }).unwrap();
    Some(users)
}

fn progress(store: &MemoryStore, number: u64) -> (usize, usize, u64) {
    Progress::of(store).unwrap().of_command(number)
}

#[test]
fn each_owner_carries_a_command_out_and_whoever_comes_after_it_goes_on() {
    let store = store();
    assert_eq!(give(&store, everybody(), 0).unwrap(), 1);
    assert_eq!(step(&store, &[0, 1]), Some(vec![1, 2, 3]));
    // Another process, or the same one started again.
    assert_eq!(step(&store, &[1, 0]), Some(vec![4, 5, 6]));
    assert_eq!(progress(&store, 1), (0, 4, 6));
    assert_eq!(step(&store, &[2]), Some(vec![1, 2, 3]));
    assert_eq!(step(&store, &[0, 1]), Some(vec![7, 8, 9]));
    assert_eq!(step(&store, &[0, 1]), Some(vec![]));
    assert_eq!(step(&store, &[0, 1]), None, "it is done there");
    assert_eq!(progress(&store, 1), (2, 4, 12));
    // Who has a partition that is at another place begins anew: for some it is done again.
    assert_eq!(step(&store, &[1, 2, 3]), Some(vec![1, 2, 3]));
    for _ in 0..3 {
        assert!(step(&store, &[1, 2, 3]).is_some());
    }
    assert_eq!(progress(&store, 1), (4, 4, 18));
    assert_eq!(Progress::of(&store).unwrap().done(), 1);
}

#[test]
fn commands_are_numbered_and_done_in_their_order() {
    let store = store();
    assert_eq!(give(&store, named(&[4, 99, 2]), 0).unwrap(), 1);
    assert_eq!(give(&store, everybody(), 0).unwrap(), 2);
    assert_eq!(give(&store, everybody(), 5).unwrap(), 2, "it waits already");
    assert_eq!(step(&store, &[0, 1, 2, 3]), Some(vec![4, 2]));
    assert_eq!(step(&store, &[0, 1, 2, 3]), Some(vec![1, 2, 3]));
    assert_eq!(progress(&store, 1).0, 4);
    for _ in 0..3 {
        assert!(step(&store, &[0, 1, 2, 3]).is_some());
    }
    assert_eq!(progress(&store, 2), (4, 4, 9));
    assert_eq!(give(&store, everybody(), 5).unwrap(), 3, "done is done");
}

#[test]
fn what_waits_has_bounds() {
    let nowhere = MemoryStore::new(store().identity().clone(), 9).shared();
    assert!(matches!(give(&nowhere, everybody(), 0), Err(CommandError::NoPartitions)));
    let store = store();
    let many = vec![Vec::new(); USERS_MAX + 1];
    let too_many = Work::Recompute { users: Some(many), users_per_s: None };
    assert!(matches!(give(&store, too_many, 0), Err(CommandError::TooManyUsers { .. })));
    for uid in 1..=KEPT_MAX as u64 {
        assert_eq!(give(&store, named(&[uid]), 0).unwrap(), uid);
    }
    assert!(matches!(give(&store, everybody(), 0), Err(CommandError::TooMany)));
    // A week later they are void, and make room.
    let later_ms = AGE_MAX_MS + 1;
    let number = KEPT_MAX as u64 + 1;
    assert_eq!(give(&store, everybody(), later_ms).unwrap(), number);
    let commands = Commands::of(&store).unwrap();
    assert_eq!(commands.kept.len(), KEPT_MAX);
    assert_eq!(commands.next(0, later_ms).map(|c| c.number), Some(number));
    assert!(commands.get(1).is_none());
}
