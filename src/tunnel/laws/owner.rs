//! Whoever owns a tunnel, as `connection` does in the program.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::time::Instant;

use crate::{
    buffered::Stream,
    ending::AdminClose,
    tunnel::{Report, Tunnel, View, Visit},
};

/// A tunnel whose visits are received.
pub(in crate::tunnel) struct Owner<D, U>(pub(in crate::tunnel) Tunnel<D, U>);

/// Looks at tunnels, and closes them if it came for that.
#[derive(Default)]
pub(in crate::tunnel) struct Guest {
    pub(in crate::tunnel) close: Option<AdminClose>,
    pub(in crate::tunnel) closed: AtomicUsize,
    pub(in crate::tunnel) views: Mutex<Vec<View>>,
}

impl Guest {
    /// A guest who wants this.
    pub(in crate::tunnel) fn new(close: Option<AdminClose>) -> Arc<Self> {
        Arc::new(Self { close, ..Self::default() })
    }
}

impl<D: Stream, U: Stream> Future for Owner<D, U> {
    type Output = Report;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Report> {
        while let Some(visit) = self.0.take_visit() {
            receive(&visit, &mut self.0);
        }
        Pin::new(&mut self.0).poll(cx)
    }
}

fn receive<D: Stream, U: Stream>(visit: &Visit, tunnel: &mut Tunnel<D, U>) {
    let guest = visit.downcast_ref::<Guest>().expect("a guest of the tests");
    guest.views.lock().expect("no panic").push(tunnel.view(Instant::now()));
    if let Some(close) = &guest.close {
        guest.closed.fetch_add(tunnel.close_for_admin(close.clone()).into(), Ordering::Relaxed);
    }
}
