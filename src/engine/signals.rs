//! Signals that ask the process to end.
//!
//! In: SIGINT and SIGTERM. Out: one flag. Invariant: a second signal ends the process at once.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

/// Set by SIGINT and SIGTERM; a second one ends the process at once. One flag for the process: a
/// signal between two engines is not lost.
pub fn stop_signals() -> Arc<AtomicBool> {
    static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    Arc::clone(STOP.get_or_init(listen))
}

fn listen() -> Arc<AtomicBool> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let second = signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop));
        let first = signal_hook::flag::register(signal, Arc::clone(&stop));
        if let Err(error) = second.and(first) {
            tracing::warn!(signal, %error, "cannot listen for this signal; it ends the process");
        }
    }
    stop
}
