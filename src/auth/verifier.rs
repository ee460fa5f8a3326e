//! The threads that compute bcrypt, and the queue before them.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use super::{Credentials, Denied, Users};
use crate::proto::network::ClientKey;

/// How long a password waits for its verdict.
const PATIENCE: Duration = Duration::from_secs(10);
/// Passwords that wait, of all clients together.
const ROOM: usize = 1024;

/// Checks passwords on threads of their own, as each takes some hundredth or tenth of a second.
///
/// Clients take turns by their address, so that one that guesses does not keep the others out. If more wait than there is
/// room for, those go who have most in the queue.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("length", &self.lock().length).finish_non_exhaustive()
    }
}

/// Whose turn it is: an IPv4 address, an IPv6 network of 64 bits; `None` is all of a unix socket.
type Client = Option<ClientKey>;

#[derive(Default)]
struct Waiting {
    /// The clients of `passwords`, next one first.
    turns: VecDeque<Client>,
    /// Never empty for a client that is there.
    passwords: HashMap<Client, VecDeque<Job>>,
    length: usize,
    has_ended: bool,
}

/// A password that waits. Who asked has gone if nobody listens to the answer any more.
struct Job {
    users: Arc<Users>,
    credentials: Credentials,
    answer: oneshot::Sender<Result<Arc<str>, Denied>>,
}

impl Verifier {
    /// Starts so many threads; they run until [`Self::stop`].
    pub fn start(&self, threads: usize) -> io::Result<Vec<JoinHandle<()>>> {
        let start = |_| {
            let queue = Arc::clone(&self.queue);
            std::thread::Builder::new().name("wsgate-auth".into()).spawn(move || queue.work())
        };
        (0..threads).map(start).collect()
    }

    /// Passwords that wait.
    pub fn waiting(&self) -> usize {
        self.queue.lock().length
    }

    /// Ends the threads as soon as each has done what it is at. What waits gets no answer.
    pub fn stop(&self) {
        *self.queue.lock() = Waiting { has_ended: true, ..Waiting::default() };
        self.queue.changed.notify_all();
    }

    /// The user whom these credentials prove. Waits ten seconds at most; dropping the future gives the place up.
    pub async fn prove(
        &self,
        users: &Arc<Users>,
        credentials: Credentials,
        client: Option<ClientKey>,
    ) -> Result<Arc<str>, Denied> {
        let (answer, told) = oneshot::channel();
        let job = Job { users: Arc::clone(users), credentials, answer };
        if !self.queue.lock().take_in(client, job) {
            return Err(Denied::Busy);
        }
        self.queue.changed.notify_one();
        match timeout(PATIENCE, told).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) | Err(_) => Err(Denied::Busy),
        }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks one password after the other.
    fn work(&self) {
        while let Some(Job { users, credentials, answer }) = self.next() {
            if !answer.is_closed() {
                // Who has left meanwhile needs no verdict.
                let _ = answer.send(users.prove(&credentials));
            }
        }
    }

    /// Waits for a password; `None` when there is to be none any more.
    fn next(&self) -> Option<Job> {
        let is_idle = |waiting: &mut Waiting| !waiting.has_ended && waiting.length == 0;
        let waiting = self.changed.wait_while(self.lock(), is_idle);
        waiting.unwrap_or_else(PoisonError::into_inner).let_out()
    }
}

impl Waiting {
    /// Takes a password in, if there is room or can be made.
    fn take_in(&mut self, client: Client, job: Job) -> bool {
        if self.has_ended || self.length >= ROOM && !self.make_room(client) {
            return false;
        }
        let passwords = self.passwords.entry(client).or_default();
        if passwords.is_empty() {
            self.turns.push_back(client);
        }
        passwords.push_back(job);
        self.length += 1;
        true
    }

    fn let_out(&mut self) -> Option<Job> {
        let client = self.turns.pop_front()?;
        let passwords = self.passwords.get_mut(&client)?;
        let job = passwords.pop_front();
        if passwords.is_empty() {
            self.passwords.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        self.length -= 1;
        job
    }

    /// Lets go of those who have left, or else of the last one of whoever has the most in the queue, if that is more than
    /// `client` would have.
    fn make_room(&mut self, client: Client) -> bool {
        self.passwords.retain(|_, passwords| {
            passwords.retain(|job| !job.answer.is_closed());
            !passwords.is_empty()
        });
        self.turns.retain(|client| self.passwords.contains_key(client));
        self.length = self.passwords.values().map(VecDeque::len).sum();
        if self.length < ROOM {
            return true;
        }
        let own = self.passwords.get(&client).map_or(0, VecDeque::len);
        let most = self.passwords.values_mut().max_by_key(|passwords| passwords.len());
        let displaced = most.filter(|passwords| passwords.len() > own + 1).and_then(VecDeque::pop_back);
        self.length -= usize::from(displaced.is_some());
        displaced.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::basic::tests::{SESAME, credentials, users},
        *,
    };

    type Told = oneshot::Receiver<Result<Arc<str>, Denied>>;

    #[expect(clippy::unnecessary_wraps, reason = "a client of TCP, as the queue has it")]
    fn client(number: u32) -> Client {
        Some(ClientKey::V4(number.into()))
    }

    /// A job, and what its client waits for.
    fn job(users: &Arc<Users>, text: &str) -> (Job, Told) {
        let (answer, told) = oneshot::channel();
        (Job { users: Arc::clone(users), credentials: credentials(text), answer }, told)
    }

    fn is_let_go(told: &mut Told) -> bool {
        matches!(told.try_recv(), Err(oneshot::error::TryRecvError::Closed))
    }

    #[test]
    fn clients_take_turns() {
        let users = Arc::new(users(&[("ali", SESAME)]));
        let mut waiting = Waiting::default();
        let mut kept = Vec::new();
        for (number, count) in [(1, 5), (2, 1), (3, 2)] {
            for _ in 0..count {
                let (job, told) = job(&users, "a:b");
                assert!(waiting.take_in(client(number), job));
                kept.push(told);
            }
        }
        let turns: Vec<_> = std::iter::from_fn(|| {
            let next = waiting.turns.front().copied();
            waiting.let_out().map(|_| next.flatten().unwrap())
        })
        .collect();
        let expected: Vec<_> = [1, 2, 3, 1, 3, 1, 1, 1].map(|number| client(number).unwrap()).into();
        assert_eq!(turns, expected);
        assert_eq!((waiting.length, waiting.passwords.len()), (0, 0));
    }

    #[test]
    fn whoever_fills_the_queue_makes_room_for_others() {
        let users = Arc::new(users(&[("ali", SESAME)]));
        let mut waiting = Waiting::default();
        let mut flood = Vec::new();
        for _ in 0..ROOM {
            let (job, told) = job(&users, "a:b");
            assert!(waiting.take_in(client(1), job));
            flood.push(told);
        }
        let (one_more, mut refused) = job(&users, "a:b");
        assert!(!waiting.take_in(client(1), one_more));
        assert!(is_let_go(&mut refused));
        let (other, mut kept) = job(&users, "a:b");
        assert!(waiting.take_in(client(2), other));
        assert!(!is_let_go(&mut kept) && is_let_go(flood.last_mut().unwrap()) && !is_let_go(&mut flood[0]));
        assert_eq!(waiting.length, ROOM);
        // The other one is next but one, whatever stands before it.
        waiting.let_out().unwrap();
        assert_eq!(waiting.turns.front(), Some(&client(2)));
        // Who has left makes room for anybody.
        let (fills, _kept) = job(&users, "a:b");
        assert!(waiting.take_in(client(1), fills));
        drop(flood);
        let (one_more, _kept) = job(&users, "a:b");
        assert!(waiting.take_in(client(1), one_more));
        assert_eq!((waiting.length, waiting.turns.len()), (3, 2));
    }

    #[test]
    fn a_queue_of_many_clients_with_one_each_is_full() {
        let users = Arc::new(users(&[("ali", SESAME)]));
        let mut waiting = Waiting::default();
        let mut kept = Vec::new();
        for number in 0..=u32::try_from(ROOM).unwrap() {
            let (job, told) = job(&users, "a:b");
            assert_eq!(waiting.take_in(client(number), job), kept.len() < ROOM);
            kept.push(told);
        }
        assert_eq!(waiting.length, ROOM);
    }

    #[tokio::test]
    async fn passwords_are_checked_elsewhere_and_the_threads_end() {
        let verifier = Verifier::default();
        let threads = verifier.start(2).unwrap();
        let users = Arc::new(users(&[("ali", SESAME)]));
        let right = verifier.prove(&users, credentials("ali:open sesame"), client(1)).await;
        assert_eq!(right.as_deref(), Ok("ali"));
        let wrong = verifier.prove(&users, credentials("ali:open"), client(1)).await;
        assert_eq!(wrong, Err(Denied::Wrong));
        verifier.stop();
        for thread in threads {
            thread.join().unwrap();
        }
        let late = verifier.prove(&users, credentials("ali:open sesame"), client(1)).await;
        assert_eq!(late, Err(Denied::Busy));
    }

    #[tokio::test(start_paused = true)]
    async fn a_password_waits_for_ten_seconds_and_leaves_with_its_client() {
        // No thread was started.
        let verifier = Verifier::default();
        let users = Arc::new(users(&[("ali", SESAME)]));
        let since = tokio::time::Instant::now();
        let verdict = verifier.prove(&users, credentials("ali:open sesame"), client(1)).await;
        assert_eq!((verdict, since.elapsed()), (Err(Denied::Busy), PATIENCE));
        let mut waiting = verifier.queue.lock();
        let job = waiting.let_out().unwrap();
        assert!(job.answer.is_closed());
    }
}
