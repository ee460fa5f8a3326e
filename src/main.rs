//! The command line of wsgate.

mod cli;

use std::process::ExitCode;

/// glibc's allocator keeps the memory of a peak for good; `cli::memory` makes this one give it back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::run()
}
