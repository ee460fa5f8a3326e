//! SIGTERM, SIGINT, SIGHUP and SIGUSR1.

use std::{io, thread};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};

/// Calls `end` each time the process is asked to end, and `reload` each time it is asked to read its configuration again, on a
/// thread each. What comes while the latter is busy comes together as one.
///
/// When this returns, the signals no longer end the process by themselves.
pub(super) fn watch(
    end: impl Fn(&'static str) + Send + 'static,
    reload: impl Fn() + Send + 'static,
) -> io::Result<()> {
    let (runtime, [mut terminate, mut interrupt]) = hear([SignalKind::terminate(), SignalKind::interrupt()])?;
    let (reloads, [mut hang_up]) = hear([SignalKind::hangup()])?;
    let ends = async move {
        loop {
            let asked = either(&mut terminate, &mut interrupt).await;
            end(asked);
        }
    };
    let asks = async move {
        while hang_up.recv().await.is_some() {
            reload();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(ends))?;
    thread::Builder::new().name("reloads".into()).spawn(move || reloads.block_on(asks))?;
    Ok(())
}

/// SIGUSR1 as it is heard: an order to open the log anew.
pub(super) struct Reopening {
    runtime: Runtime,
    orders: Signal,
}

impl Reopening {
    /// From now on SIGUSR1 does not end the process any more, even if this is dropped.
    pub(super) fn hear() -> io::Result<Self> {
        let (runtime, [orders]) = hear([SignalKind::user_defined1()])?;
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

fn hear<const COUNT: usize>(kinds: [SignalKind; COUNT]) -> io::Result<(Runtime, [Signal; COUNT])> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let heard: Vec<_> = kinds.into_iter().map(signal).collect::<io::Result<_>>()?;
    drop(entered);
    let heard = heard.try_into().map_err(|_| io::Error::other("a signal is missing"))?;
    Ok((runtime, heard))
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
