//! The new process: it takes the listening sockets of a running one.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use rustix::process::geteuid;

use super::{
    super::{ServerHandle, bind::Ownership, inherit::Inherited},
    channel::{Channel, Message, PROTOCOL, Refused},
    offer::Post,
};

/// How long the running process may take for a step.
const STEP: Duration = Duration::from_secs(10);
/// How long another new process is waited for that came before this one, and how often is asked whether it is through.
const BUSY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(100);

/// A new process, from the question who was here before to the moment when the listening sockets are its own.
#[derive(Debug)]
pub struct Succession {
    inherited: Inherited,
    path: Option<PathBuf>,
    predecessor: Option<Predecessor>,
}

/// A running process that has passed its sockets, and drains when it hears that this one is ready.
#[derive(Debug)]
struct Predecessor {
    channel: Channel,
    pid: u32,
    sockets: usize,
    /// Of the files that are this process' to remove when it has taken over.
    owned: Vec<Ownership>,
    /// How long it may take to let go.
    patience: Duration,
}

/// Whom the sockets came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TookOver {
    /// The process.
    pub pid: u32,
    /// How many sockets it passed.
    pub sockets: usize,
}

/// Why a new process does not take over. The old one goes on.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The running process can't be asked.
    #[error("cannot ask the process at {} for its listening sockets", path.display())]
    Ask {
        /// `upgrade_socket`.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It keeps them.
    #[error("the process at {} does not hand its listening sockets over: {why}", path.display())]
    Refused {
        /// `upgrade_socket`.
        path: PathBuf,
        /// Why, in its words.
        why: &'static str,
    },
    /// It has passed them and says nothing more, so that it may go on.
    #[error("the process at {} has not let its listening sockets go", path.display())]
    Silent {
        /// `upgrade_socket`.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The own upgrade socket.
    #[error("cannot listen at the upgrade socket {}", path.display())]
    Bind {
        /// `upgrade_socket`.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What the running process said to the question.
enum Answer {
    Passed(Predecessor),
    Refused(Refused),
    /// There is none, or it is ending.
    Nobody,
}

impl Succession {
    /// Asks whoever listens at `path`, the `upgrade_socket`, for its sockets. They join those that were `inherited`.
    ///
    /// # Errors
    /// Somebody is there who keeps them or gives no sensible answer.
    pub fn begin(path: Option<&Path>, mut inherited: Inherited) -> Result<Self, HandoverError> {
        let mut predecessor = None;
        if let Some(path) = path {
            inherited.expect_another();
            predecessor = ask_in_turn(path, &mut inherited)?;
            if predecessor.is_some() {
                inherited.lend();
            }
        }
        Ok(Self { inherited, path: path.map(Path::to_owned), predecessor })
    }

    /// The sockets, for [`Server::start_with`](super::super::Server::start_with).
    pub fn inherited(&self) -> &Inherited {
        &self.inherited
    }

    /// Another process has passed its sockets and waits to hear that this one is ready.
    pub fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// Puts `server`, which accepts from then on, in the place of the running process, and offers its sockets to the next one.
    ///
    /// `announce` is called when the running process has let go and before it begins to end, so that who watches over both
    /// can be told whom to watch from now on.
    ///
    /// # Errors
    /// The running process has changed its mind, or this one can't be reached by the next. It must end.
    pub fn complete(
        self,
        server: &ServerHandle,
        announce: impl FnOnce(Option<TookOver>),
    ) -> Result<(), HandoverError> {
        let Some(path) = self.path else {
            self.inherited.close_rest();
            announce(None);
            return Ok(());
        };
        let failed = |source| HandoverError::Bind { path: path.clone(), source };
        let post = Post::prepare(&path).map_err(failed)?;
        let open = |post: Post| post.open(server).map_err(failed);
        let Some(mut predecessor) = self.predecessor else {
            self.inherited.close_rest();
            open(post)?;
            announce(None);
            return Ok(());
        };
        predecessor.take(&path, self.inherited.addresses())?;
        server.sockets().open();
        self.inherited.close_rest();
        if let Err(error) = open(post) {
            // The other one has let go: it is this process or none.
            tracing::error!(error = crate::ending::chain(&error), "no successor will find this process");
        }
        let TookOver { pid, sockets } = predecessor.took_over();
        announce(Some(predecessor.took_over()));
        predecessor.taken();
        tracing::info!(pid, sockets, "took over the listening sockets");
        Ok(())
    }
}

impl Predecessor {
    fn took_over(&self) -> TookOver {
        TookOver { pid: self.pid, sockets: self.sockets }
    }

    /// Says that this process can serve, but for the `unwanted` addresses, and waits until the other lets go.
    fn take(&mut self, path: &Path, unwanted: Vec<String>) -> Result<(), HandoverError> {
        let said = self.channel.send(&Message::Ready { unwanted }, &[], self.patience);
        // What it said before it left counts, whether or not it could still be told.
        match self.channel.receive(self.patience) {
            Ok(Some(Message::Take)) => {}
            Ok(Some(Message::Refused { why })) => return Err(refused(path, why)),
            Ok(Some(_)) => return Err(refused(path, Refused::Protocol)),
            // It has ended meanwhile: there is no better process than this one.
            Ok(None) => tracing::warn!(pid = self.pid, "the predecessor has gone"),
            // It may be frozen, and would go on some day: one of the two has to end.
            Err(error) => {
                let source = said.err().unwrap_or(error);
                return Err(HandoverError::Silent { path: path.to_owned(), source });
            }
        }
        for owned in &self.owned {
            owned.set(true);
        }
        Ok(())
    }

    /// Says that this process has taken the place.
    fn taken(mut self) {
        if let Err(error) = self.channel.send(&Message::Taken, &[], STEP) {
            tracing::warn!(pid = self.pid, %error, "the predecessor does not hear");
        }
    }
}

/// Asks, and again while another process is being served.
#[expect(clippy::disallowed_methods, reason = "a process that starts has nothing else to do")]
fn ask_in_turn(path: &Path, inherited: &mut Inherited) -> Result<Option<Predecessor>, HandoverError> {
    let until = Instant::now() + BUSY;
    loop {
        let answer =
            ask(path, inherited).map_err(|source| HandoverError::Ask { path: path.to_owned(), source })?;
        match answer {
            Answer::Passed(predecessor) => return Ok(Some(predecessor)),
            Answer::Nobody | Answer::Refused(Refused::Draining) => return Ok(None),
            Answer::Refused(Refused::Busy) if Instant::now() < until => thread::sleep(RETRY),
            Answer::Refused(why) => return Err(refused(path, why)),
        }
    }
}

fn ask(path: &Path, inherited: &mut Inherited) -> io::Result<Answer> {
    let Some(stream) = connect(path)? else { return Ok(Answer::Nobody) };
    let mut channel = Channel::new(stream)?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let hello = Message::Hello { protocol: PROTOCOL, version, pid: process::id() };
    // If it is ending, there is nothing to be read either.
    let said = channel.send(&hello, &[], STEP);
    let mut owned = Vec::new();
    let mut count = 0;
    loop {
        let (pid, sockets, more) = match channel.receive(STEP)? {
            Some(Message::Sockets { pid, sockets, more }) => (pid, sockets, more),
            Some(Message::Refused { why }) => return Ok(Answer::Refused(why)),
            Some(_) => return Err(io::Error::other("not what was asked for")),
            None if count == 0 => return Ok(Answer::Nobody),
            None => return Err(said.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())),
        };
        for passed in sockets {
            let descriptor = channel.descriptor().ok_or_else(|| io::Error::other("a socket is missing"))?;
            let of_this = Ownership::new(false);
            inherited.add(descriptor, &of_this)?;
            owned.extend(passed.removes_file.then_some(of_this));
            count += 1;
        }
        if !more {
            return Ok(Answer::Passed(Predecessor { channel, pid, sockets: count, owned, patience: STEP }));
        }
    }
}

/// Connects to the running process; `None` where there is none.
fn connect(path: &Path) -> io::Result<Option<UnixStream>> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::other("not a socket"));
    }
    // Whoever passes sockets here gets this process' clients.
    if metadata.uid() != 0 && metadata.uid() != geteuid().as_raw() {
        return Err(io::Error::other(format!("it belongs to another user, {}", metadata.uid())));
    }
    match UnixStream::connect(path) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn refused(path: &Path, why: Refused) -> HandoverError {
    let why = match why {
        Refused::Busy => "another new process is taking them over",
        Refused::Draining => "it is ending",
        Refused::Protocol => "it is of a version that cannot be taken over from",
        Refused::TooLate => "this process took too long to be ready",
    };
    HandoverError::Refused { path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a new process that is ready, and of the files, when the other side did this.
    fn take(other: impl FnOnce(UnixStream) -> Option<UnixStream>) -> (Result<(), HandoverError>, bool) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let _kept = other(theirs);
        let owned = Ownership::new(false);
        let mut predecessor = Predecessor {
            channel: Channel::new(ours).unwrap(),
            pid: 7,
            sockets: 1,
            owned: vec![owned.clone()],
            patience: Duration::from_millis(20),
        };
        let taken = predecessor.take(Path::new("upgrade.sock"), Vec::new());
        (taken, owned.get())
    }

    #[test]
    fn b9_a_new_process_goes_on_without_the_old_one_only_if_that_is_dead() {
        let (silent, owns) = take(Some);
        assert!(matches!(silent, Err(HandoverError::Silent { .. })), "{silent:?}");
        assert!(!owns, "the files are those of the old one, which may go on");
        let (dead, owns) = take(|_| None);
        assert!(dead.is_ok() && owns, "{dead:?}");
    }
}
