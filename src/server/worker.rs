//! Worker threads: a current-thread runtime each.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    thread::JoinHandle,
};

use tokio::{
    runtime::{Handle, Runtime},
    time::timeout,
};

use super::CUT;
use crate::{
    buffered::enter_worker,
    connection::Gate,
    lifecycle::Tracker,
    telemetry::{Metrics, RateLimited},
    tunnel,
};

/// A worker thread.
#[derive(Debug)]
pub(super) struct Worker {
    handle: WorkerHandle,
    thread: JoinHandle<()>,
}

/// What the acceptor knows of a worker.
#[derive(Debug, Clone)]
pub(super) struct WorkerHandle {
    runtime: Handle,
    counts: Arc<Counts>,
}

/// Counts of a worker's connections.
#[derive(Debug)]
struct Counts {
    /// Those of the whole process that are open.
    all: Tracker,
    /// Those that are open here.
    open: AtomicUsize,
    /// Those that ended in a panic.
    panicked: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Worker {
    /// Starts worker `id` with its runtime. It ends when the gate has been shut down or when nothing is `open` in it any more after the drain
    /// began.
    pub(super) fn start(id: usize, runtime: Runtime, gate: &Arc<Gate>, open: &Tracker) -> io::Result<Self> {
        let counts = Counts {
            all: open.clone(),
            open: AtomicUsize::new(0),
            panicked: AtomicUsize::new(0),
            metrics: Arc::clone(&gate.metrics),
        };
        let handle = WorkerHandle { runtime: runtime.handle().clone(), counts: Arc::new(counts) };
        let (drain, open) = (gate.drain.clone(), open.clone());
        let run = move || {
            enter_worker(id);
            runtime.block_on(async {
                drain.orders(tunnel::wake_all).await;
                // The last ones write their records; whoever can't is dropped with the runtime.
                let _ = timeout(CUT, open.empty()).await;
            });
            // The C library's look-up of a name, where it is used, can't be called off, and must not keep the process.
            runtime.shutdown_timeout(CUT);
        };
        let thread = std::thread::Builder::new().name(format!("wsgate-{id}")).spawn(run)?;
        Ok(Self { handle, thread })
    }

    pub(super) fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Where its connections are polled.
    pub(super) fn runtime(&self) -> &Handle {
        &self.handle.runtime
    }

    /// Waits for the thread; returns how many connections panicked.
    pub(super) fn join(self) -> usize {
        usize::from(self.thread.join().is_err()) + self.handle.counts.panicked.load(Ordering::Relaxed)
    }
}

impl WorkerHandle {
    /// Connections that are open here.
    pub(super) fn load(&self) -> usize {
        self.counts.open.load(Ordering::Acquire)
    }

    /// Hands a connection to this worker for good.
    pub(super) fn spawn(&self, connection: impl Future<Output = ()> + Unpin + Send + 'static) {
        self.runtime.spawn(Task { connection, _counted: Counted::new(&self.counts) });
    }
}

/// A connection with what counts it, which is dropped after it. A panic ends the task alone, and is counted (rule S4).
struct Task<C> {
    connection: C,
    _counted: Counted,
}

impl<C: Future<Output = ()> + Unpin> Future for Task<C> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.get_mut().connection).poll(cx)
    }
}

/// A connection in the counts of its worker and of the process.
struct Counted {
    counts: Arc<Counts>,
}

impl Counted {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.all.enter();
        counts.open.fetch_add(1, Ordering::Relaxed);
        Self { counts: Arc::clone(counts) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        static PANICS: RateLimited = RateLimited::new(tracing::Level::ERROR, "a connection panicked");
        if std::thread::panicking() {
            self.counts.panicked.fetch_add(1, Ordering::Relaxed);
            self.counts.metrics.panicked();
            PANICS.warn(|skipped| {
                tracing::error!(skipped, "a connection panicked, which is a defect of wsgate");
            });
        }
        self.counts.metrics.closed();
        self.counts.open.fetch_sub(1, Ordering::Release);
        self.counts.all.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, num::NonZeroUsize, sync::mpsc};

    use super::*;
    use crate::{
        connection::Connection,
        lifecycle::{Clients, DrainHandle, Places},
    };

    fn worker() -> (Worker, DrainHandle, Tracker) {
        let (gate, order) = crate::server::tests::gate();
        let open = Tracker::new();
        (Worker::start(0, crate::server::runtime().unwrap(), &gate, &open).unwrap(), order, open)
    }

    #[test]
    fn t10_an_idle_tunnel_has_a_small_task() {
        // tokio adds 88 bytes, and what it allocates is a multiple of 128.
        let size = size_of::<Task<Connection>>() + 88;
        assert!(size <= 640, "{size}");
    }

    #[test]
    fn s4_a_panic_ends_one_connection_is_counted_and_gives_its_places_back() {
        let (worker, order, open) = worker();
        let handle = worker.handle();
        let (clients, tunnels) = (Clients::new(NonZeroUsize::MIN), Places::new(1));
        let taken = (clients.enter(Ipv4Addr::LOCALHOST.into()), tunnels.try_take());
        assert_eq!((clients.in_use(), tunnels.in_use()), (1, 1));
        let (done, outcome) = mpsc::channel();
        let (go_on, wait) = tokio::sync::oneshot::channel::<()>();
        handle.spawn(Box::pin(async move {
            wait.await.unwrap();
            done.send("served").unwrap();
        }));
        handle.spawn(Box::pin(async move {
            let _taken = taken;
            panic!("a defect");
        }));
        while handle.load() > 1 {
            std::thread::yield_now();
        }
        assert_eq!((clients.in_use(), tunnels.in_use()), (0, 0));
        go_on.send(()).unwrap();
        assert_eq!(outcome.recv(), Ok("served"));
        order.shutdown();
        assert_eq!((worker.join(), open.count()), (1, 0));
    }
}
