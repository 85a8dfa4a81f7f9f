//! The store's contract, over HBase.

use tagloom::store::hbase::{HbaseStore, init};
use tagloom::store::{ClockMode, Identity, Store};

use crate::rig::hbase::Hbase;
use crate::store;

#[path = "../../src/store/tests/contract.rs"]
mod contract;

pub fn identity() -> Identity {
    let uid = tagloom::catalog::model::UidType::U64;
    Identity { uid, timezone: "Europe/London".to_owned(), clock: ClockMode::Event }
}

/// A behaviour's name, and what runs it.
type Behaviour = (&'static str, fn(contract::Each<'_>));

/// Runs behaviours in tables of their own: a write, then a look, at once and after opening again.
fn over_hbase(behaviours: &[Behaviour]) {
    let hbase = Hbase::start();
    for (at, (name, behaviour)) in behaviours.iter().enumerate() {
        eprintln!("{name}");
        behaviour(&|write, look| {
            let options = hbase.options(&format!("contract{at}_"));
            init(&options).unwrap();
            write(&HbaseStore::open(&options, &identity()).unwrap());
            let again = HbaseStore::open(&options, &identity()).unwrap();
            assert_eq!(again.identity(), &identity());
            look(&again);
        });
    }
}

/// Behaviours as a list, with their names.
macro_rules! list {
    ($($behaviour:ident)*) => { &[$((stringify!($behaviour), contract::$behaviour)),*] };
}

#[test]
#[ignore = "needs Java: tests/live/run.sh"]
fn hbase_keeps_the_contract_of_a_store() {
    over_hbase(contract::behaviours!(list));
}
