//! The `tagloom` command.

use std::process::ExitCode;

/// Millions of users are millions of small allocations that grow: see `docs/performance.md` for
/// what this allocator gains over the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tagloom::cli::main()
}
