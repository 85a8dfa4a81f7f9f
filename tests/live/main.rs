//! Behaviours over real servers, which each test starts and stops itself: `tests/live/run.sh`.
//!
//! They need Java and Maven and are ignored by a plain `cargo test`.
#![expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test stops where what it stands on does not hold; it is nobody's interface"
)]

mod arrival;
mod capture;
mod dimension_outage;
mod dimensions;
mod group;
mod hbase_contract;
mod hbase_outage;
mod hbase_rate;
mod hbase_terms;
mod history;
#[path = "../support/http.rs"]
mod http;
#[path = "../support/load.rs"]
mod load;
mod publish;
mod rates;
mod redrive;
mod relay;
mod rig;
mod served;
mod store_command;
mod topics;

/// The store, for the contract that unit tests share.
use tagloom::store;
