//! Worker threads: a current-thread runtime each.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use tokio::{runtime::Handle, time::timeout};

use super::{CUT, runtime};
use crate::{
    connection::{Connection, Gate},
    lifecycle::{Tracked, Tracker},
    tunnel, upstream,
};

/// A worker thread.
#[derive(Debug)]
pub(super) struct Worker {
    handle: WorkerHandle,
    thread: JoinHandle<()>,
    panicked: Arc<AtomicUsize>,
}

/// What the acceptor knows of a worker.
#[derive(Debug, Clone)]
pub(super) struct WorkerHandle {
    runtime: Handle,
    open: Tracker,
    panicked: Arc<AtomicUsize>,
}

impl Worker {
    /// Starts worker `id`. It ends when the gate has been shut down or when nothing is `open` in it any more after the drain
    /// began.
    pub(super) fn start(id: usize, gate: &Arc<Gate>, open: &Tracker) -> io::Result<Self> {
        let runtime = runtime()?;
        let panicked = Arc::new(AtomicUsize::new(0));
        let handle = WorkerHandle {
            runtime: runtime.handle().clone(),
            open: Tracker::new(),
            panicked: Arc::clone(&panicked),
        };
        let (drain, open) = (gate.drain.clone(), open.clone());
        let run = move || {
            upstream::enter_worker(id);
            runtime.block_on(async {
                drain.draining().await;
                tunnel::wake_all();
                drain.shutdown().await;
                tunnel::wake_all();
                // The last ones write their records; whoever can't is dropped with the runtime.
                let _ = timeout(CUT, open.empty()).await;
            });
            // A look-up of a name can't be called off, and must not keep the process.
            runtime.shutdown_timeout(CUT);
        };
        let thread = std::thread::Builder::new().name(format!("wsgate-{id}")).spawn(run)?;
        Ok(Self { handle, thread, panicked })
    }

    pub(super) fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Waits for the thread; returns how many connections panicked.
    pub(super) fn join(self) -> usize {
        usize::from(self.thread.join().is_err()) + self.panicked.load(Ordering::Relaxed)
    }
}

impl WorkerHandle {
    /// Connections that are open here.
    pub(super) fn load(&self) -> usize {
        self.open.count()
    }

    /// Hands a connection to this worker for good.
    pub(super) fn spawn(&self, connection: Connection, open: Tracked) {
        let task =
            Task { connection, _here: self.open.track(), _open: open, panicked: Arc::clone(&self.panicked) };
        self.runtime.spawn(task);
    }
}

/// A connection with what counts it. A panic ends the task alone, and is counted (rule S4).
struct Task {
    connection: Connection,
    panicked: Arc<AtomicUsize>,
    _here: Tracked,
    _open: Tracked,
}

impl Future for Task {
    type Output = ();

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        std::pin::Pin::new(&mut self.get_mut().connection).poll(cx)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.panicked.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a connection panicked, which is a defect of wsgate");
        }
    }
}
