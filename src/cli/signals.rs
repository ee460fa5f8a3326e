//! SIGTERM, SIGINT and SIGUSR1.

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

/// SIGUSR1 as it is heard: an order to open the log anew.
pub(super) struct Reopening {
    runtime: runtime::Runtime,
    orders: Signal,
}

impl Reopening {
    /// From now on SIGUSR1 does not end the process any more, even if this is dropped.
    pub(super) fn hear() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        let orders = {
            let _entered = runtime.enter();
            signal(SignalKind::user_defined1())?
        };
        Ok(Self { runtime, orders })
    }

    /// Calls `reopen` for each order since [`Self::hear`], on a thread of its own.
    pub(super) fn each(mut self, reopen: impl Fn() + Send + 'static) -> io::Result<()> {
        let listen = async move {
            while self.orders.recv().await.is_some() {
                reopen();
            }
        };
        thread::Builder::new().name("reopen".into()).spawn(move || self.runtime.block_on(listen))?;
        Ok(())
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
