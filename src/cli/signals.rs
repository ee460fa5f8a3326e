//! SIGTERM and SIGINT.

use std::{io, thread};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
};

/// Calls `first` when the process is asked to end, and `second` when it is asked again, on a thread of its own.
///
/// When this returns, the signals no longer end the process by themselves.
pub(super) fn watch(
    first: impl FnOnce(&'static str) + Send + 'static,
    second: impl FnOnce(&'static str) + Send + 'static,
) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let watch = async move {
        first(either(&mut terminate, &mut interrupt).await);
        second(either(&mut terminate, &mut interrupt).await);
    };
    thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(watch))?;
    Ok(())
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
