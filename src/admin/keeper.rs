//! The admin listener over reloads.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::serve::{Bound, Serving, bind};
use crate::{
    config::{Admin, Config, ListenAddress},
    server::{BindError, Follower, Inherited, ServerHandle},
};

/// Opens, moves and closes the admin listener as the `[admin]` in force says.
#[derive(Debug)]
pub struct Keeper {
    server: ServerHandle,
    serving: Mutex<Option<Serving>>,
}

/// What a configuration makes of the listener.
enum Move {
    /// It stays where it is, with these tokens and hosts.
    Stays(Admin),
    /// It goes here.
    Goes(Bound),
    /// There is none.
    Ends,
}

impl Keeper {
    /// Answers on the socket that was bound for `[admin]`, if there is one, and follows the configurations of `server` from now
    /// on.
    pub fn open(bound: Option<Bound>, server: &ServerHandle) -> io::Result<Arc<Self>> {
        let serving =
            bound.map(|bound| bound.serve(Arc::new(server.clone()), server.sockets())).transpose()?;
        let this = Arc::new(Self { server: server.clone(), serving: Mutex::new(serving) });
        server.follow(&this);
        Ok(this)
    }

    /// Where it listens, if it does; a port of 0 is the one that it got.
    pub fn address(&self) -> Option<ListenAddress> {
        self.serving().as_ref().map(|serving| serving.address().clone())
    }

    /// Closes it for good, and waits until what was being answered has been. `false` if its thread panicked, which is a defect.
    pub fn close(&self) -> bool {
        let serving = self.serving().take();
        serving.is_none_or(Serving::close)
    }

    fn serving(&self) -> MutexGuard<'_, Option<Serving>> {
        // Nothing panics while it is held.
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, next: Move) {
        let mut serving = self.serving();
        match next {
            Move::Stays(admin) => {
                if let Some(serving) = &*serving {
                    serving.configure(admin);
                }
            }
            // The one before is closed behind it, which it does by itself: it may be what answers for this reload.
            Move::Goes(bound) => match bound.serve(Arc::new(self.server.clone()), self.server.sockets()) {
                Ok(next) => *serving = Some(next),
                Err(error) => tracing::error!(%error, "the admin listener stays where it was"),
            },
            Move::Ends => *serving = None,
        }
    }
}

impl Follower for Keeper {
    fn prepare(self: Arc<Self>, config: &Config) -> Result<Box<dyn FnOnce() + Send>, BindError> {
        let here = self.serving().as_ref().map(|serving| serving.configuration().address.clone());
        let next = match &config.admin {
            None => Move::Ends,
            Some(admin) if here.as_ref() == Some(&admin.address) => Move::Stays(admin.clone()),
            Some(admin) => Move::Goes(bind(admin, &Inherited::default())?),
        };
        Ok(Box::new(move || self.make(next)))
    }
}
