//! The `tagloom` command.

use std::process::ExitCode;

/// Millions of users are millions of small allocations that grow: see `docs/performance.md` for
/// what this allocator gains over the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 3 (`mimalloc.h`, `mi_option_e`), which the binding does not
/// name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Keeps freed memory for the next window instead of giving it back: it would be asked for again at
/// once, and the system clears every page it hands out (a third of a run's time).
#[expect(unsafe_code, reason = "an option of the allocator, set before there is a second thread")]
fn keep_memory() {
    // SAFETY: sets a number; called once, first thing.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}

fn main() -> ExitCode {
    keep_memory();
    tagloom::cli::main()
}
