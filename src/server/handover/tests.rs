//! Tests of the conversation: the running process against whoever may come.

use std::{
    io::Write,
    net::TcpListener,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::Duration,
};

use super::{
    channel::{Channel, Message, PORTION, PROTOCOL, Passed, Refused},
    offer::{Offered, Old, Sockets, may_take},
};
use crate::{
    config::ListenAddress,
    lifecycle::{Drain, DrainHandle},
    server::{
        bind::{Listening, Ownership},
        inherit::Inherited,
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A process with sockets that does not accept.
struct Running {
    listeners: Vec<Arc<TcpListener>>,
    sockets: Arc<Sockets>,
    order: Arc<DrainHandle>,
    old: Arc<Old>,
    /// Of the upgrade socket's file, and of those of the listeners.
    owned: [Ownership; 2],
}

fn old(sockets: &Arc<Sockets>, order: &Arc<DrainHandle>, owned: Ownership) -> Old {
    let drains = Arc::clone(order);
    Old::new(Arc::clone(sockets), order.signal(), move || drains.drain(), owned)
}

impl Running {
    fn with(count: usize) -> Self {
        let sockets = Arc::<Sockets>::default();
        let owned = [true, true].map(Ownership::new);
        let listeners: Vec<_> =
            (0..count).map(|_| Arc::new(TcpListener::bind("127.0.0.1:0").unwrap())).collect();
        for listener in &listeners {
            let address = ListenAddress::Inet(listener.local_addr().unwrap());
            let socket: Weak<TcpListener> = Arc::downgrade(listener);
            sockets.offer(Offered { address, socket, owned: Some(owned[1].clone()), outlasts_drain: false });
        }
        let order = Arc::new(Drain::new(Duration::ZERO).0);
        let old = Arc::new(old(&sockets, &order, owned[0].clone()));
        Self { listeners, sockets, order, old, owned }
    }

    /// Somebody connects.
    fn meet(&self) -> (Channel, JoinHandle<std::io::Result<()>>) {
        let (theirs, ours) = UnixStream::pair().unwrap();
        let old = Arc::clone(&self.old);
        (Channel::new(theirs).unwrap(), std::thread::spawn(move || old.talk(ours)))
    }

    #[track_caller]
    fn goes_on(&self) {
        assert!(!self.order.signal().is_draining() && self.sockets.successor().is_none());
        assert_eq!(self.owned.each_ref().map(Ownership::get), [true, true]);
    }
}

fn say(channel: &mut Channel, message: &Message) {
    channel.send(message, &[], PATIENCE).unwrap();
}

fn hear(channel: &mut Channel) -> Option<Message> {
    channel.receive(PATIENCE).unwrap()
}

fn hello(channel: &mut Channel) {
    say(channel, &Message::Hello { protocol: PROTOCOL, version: "9.9.9".into(), pid: 7 });
}

/// Takes the sockets; returns what was said of them, message by message.
fn take(channel: &mut Channel) -> Vec<Vec<Passed>> {
    hello(channel);
    let mut portions = Vec::new();
    loop {
        let Some(Message::Sockets { sockets, more, .. }) = hear(channel) else { panic!("sockets") };
        portions.push(sockets);
        if !more {
            return portions;
        }
    }
}

#[test]
fn many_sockets_come_in_portions_and_are_the_same_sockets() {
    let running = Running::with(2 * PORTION + 1);
    let (mut channel, talk) = running.meet();
    let portions = take(&mut channel);
    assert_eq!(portions.iter().map(Vec::len).collect::<Vec<_>>(), [PORTION, PORTION, 1]);
    let mut inherited = Inherited::default();
    while let Some(descriptor) = channel.descriptor() {
        inherited.add(descriptor, &Ownership::new(false)).unwrap();
    }
    for listener in &running.listeners {
        assert!(inherited.take(&ListenAddress::Inet(listener.local_addr().unwrap())).is_some());
    }
    drop(channel);
    assert!(talk.join().unwrap().is_err());
    running.goes_on();
}

#[test]
fn the_running_process_drains_when_its_place_is_taken_and_not_before() {
    let running = Running::with(1);
    let (mut channel, talk) = running.meet();
    take(&mut channel);
    assert!(!running.owned[1].get(), "if it is told to end now, the files of the listeners stay");
    say(&mut channel, &Message::Ready { unwanted: Vec::new() });
    assert_eq!(hear(&mut channel), Some(Message::Take));
    assert!(!running.order.signal().is_draining());
    say(&mut channel, &Message::Taken);
    talk.join().unwrap().unwrap();
    assert!(running.order.signal().is_draining());
    assert_eq!(running.sockets.successor(), Some(7));
    assert_eq!(running.owned.each_ref().map(Ownership::get), [false, false], "the files stay");
    // It has none any more.
    let (mut late, _) = running.meet();
    hello(&mut late);
    assert_eq!(hear(&mut late), Some(Message::Refused { why: Refused::Draining }));
}

#[test]
fn a_new_process_that_dies_at_any_step_changes_nothing() {
    let running = Running::with(1);
    for step in 0..4 {
        let (mut channel, talk) = running.meet();
        if step > 0 {
            hello(&mut channel);
        }
        if step > 1 {
            assert!(matches!(hear(&mut channel), Some(Message::Sockets { .. })));
        }
        if step > 2 {
            say(&mut channel, &Message::Ready { unwanted: Vec::new() });
            assert_eq!(hear(&mut channel), Some(Message::Take));
        }
        drop(channel);
        assert_eq!(talk.join().unwrap().is_ok(), step == 0, "{step}");
        running.goes_on();
    }
}

#[test]
fn a_new_process_that_is_not_ready_in_time_is_told_so() {
    let running = Running::with(1);
    let mut old = old(&running.sockets, &running.order, Ownership::new(true));
    old.patience = Duration::from_millis(20);
    let (theirs, ours) = UnixStream::pair().unwrap();
    let mut channel = Channel::new(theirs).unwrap();
    let talk = std::thread::spawn(move || old.talk(ours));
    take(&mut channel);
    assert_eq!(hear(&mut channel), Some(Message::Refused { why: Refused::TooLate }));
    assert!(talk.join().unwrap().is_err());
    running.goes_on();
}

#[test]
fn of_two_at_once_the_second_waits_and_gets_them_if_the_first_fails() {
    let running = Running::with(1);
    let (mut first, _) = running.meet();
    take(&mut first);
    let (mut second, talk) = running.meet();
    hello(&mut second);
    assert_eq!(hear(&mut second), Some(Message::Refused { why: Refused::Busy }));
    talk.join().unwrap().unwrap();
    drop(first);
    loop {
        let (mut second, _) = running.meet();
        hello(&mut second);
        match hear(&mut second) {
            Some(Message::Refused { why: Refused::Busy }) => {}
            Some(Message::Sockets { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn whoever_says_something_else_is_refused() {
    let running = Running::with(1);
    let (mut other, talk) = running.meet();
    say(&mut other, &Message::Hello { protocol: PROTOCOL + 1, version: "9.9.9".into(), pid: 7 });
    assert_eq!(hear(&mut other), Some(Message::Refused { why: Refused::Protocol }));
    talk.join().unwrap().unwrap();
    let (mut other, talk) = running.meet();
    say(&mut other, &Message::Taken);
    assert_eq!(hear(&mut other), Some(Message::Refused { why: Refused::Protocol }));
    talk.join().unwrap().unwrap();
    for bytes in ["GET / HTTP/1.1\r\n\r\n".into(), "x".repeat(1 << 20)] {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let old = Arc::clone(&running.old);
        let talk = std::thread::spawn(move || old.talk(ours));
        // It may be cut before all of it is written.
        let _ = theirs.write_all(bytes.as_bytes());
        assert!(talk.join().unwrap().is_err());
    }
    running.goes_on();
}

#[test]
fn a_socket_whose_owner_has_closed_it_is_not_passed() {
    let mut running = Running::with(3);
    let closed = running.listeners.remove(1).local_addr().unwrap().to_string();
    let (mut channel, _talk) = running.meet();
    let portions = take(&mut channel);
    assert_eq!(portions[0].len(), 2);
    assert!(portions[0].iter().all(|passed| passed.address != closed));
}

#[test]
fn a_socket_that_was_lent_is_passed_for_as_long_as_it_is() {
    let running = Running::with(0);
    let listening = Listening::Tcp(TcpListener::bind("127.0.0.1:0").unwrap());
    let lent = running.sockets.lend(&listening).unwrap();
    let (mut channel, _talk) = running.meet();
    assert_eq!(take(&mut channel)[0][0].address, listening.address().to_string());
    drop((channel, lent));
    let (mut channel, _talk) = loop {
        // The one before may not be over yet.
        let (mut channel, talk) = running.meet();
        hello(&mut channel);
        match hear(&mut channel) {
            Some(Message::Refused { why: Refused::Busy }) => {}
            Some(Message::Sockets { sockets, .. }) => {
                assert_eq!(sockets, []);
                break (channel, talk);
            }
            other => panic!("{other:?}"),
        }
    };
    assert!(channel.descriptor().is_none());
}

#[test]
fn a_message_arrives_whole_with_its_descriptors_though_its_bytes_come_one_by_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (theirs, mut ours) = UnixStream::pair().unwrap();
    let mut channel = Channel::new(theirs).unwrap();
    let mut other = Channel::new(ours.try_clone().unwrap()).unwrap();
    let wrote = std::thread::spawn(move || {
        for byte in b"\"take\"\n{\"ready\":{\"unwan" {
            ours.write_all(&[*byte]).unwrap();
        }
        ours.write_all(b"ted\":[]}}\n").unwrap();
        other.send(&Message::Taken, &[listener.as_fd()], PATIENCE).unwrap();
    });
    let ready = Message::Ready { unwanted: Vec::new() };
    for expected in [Message::Take, ready, Message::Taken] {
        assert_eq!(hear(&mut channel), Some(expected));
    }
    wrote.join().unwrap();
    assert!(channel.descriptor().is_some() && channel.descriptor().is_none());
}

#[test]
fn the_sockets_are_for_the_same_user_and_root() {
    let own = rustix::process::geteuid().as_raw();
    assert!(may_take(own) && may_take(0));
    assert!(!may_take(own + 1) && !may_take(65534));
}

#[test]
fn b9_a_process_that_was_frozen_hears_that_its_place_was_taken_meanwhile() {
    let running = Running::with(1);
    let (theirs, ours) = UnixStream::pair().unwrap();
    let mut channel = Channel::new(theirs).unwrap();
    say(&mut channel, &Message::Ready { unwanted: Vec::new() });
    say(&mut channel, &Message::Taken);
    drop(channel);
    running.old.let_go(&mut Channel::new(ours).unwrap(), 7).unwrap();
    assert_eq!(running.sockets.successor(), Some(7));
}

#[test]
fn b9_what_was_said_in_time_counts_though_it_is_heard_late() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let (mut theirs, mut ours) = (Channel::new(theirs).unwrap(), Channel::new(ours).unwrap());
    say(&mut theirs, &Message::Take);
    assert_eq!(ours.receive(Duration::ZERO).unwrap(), Some(Message::Take));
    assert_eq!(ours.receive(Duration::ZERO).unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn b9_no_reload_changes_the_sockets_while_they_are_handed_over() {
    let running = Running::with(1);
    let (mut channel, talk) = running.meet();
    assert!(!running.sockets.is_steady());
    take(&mut channel);
    assert!(running.sockets.is_steady());
    drop(channel);
    assert!(talk.join().unwrap().is_err());
    assert!(!running.sockets.is_steady(), "the next reload may");
}
