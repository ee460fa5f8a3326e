//! wsgate from outside: through its sockets, its access records and its command line.

#![allow(unreachable_pub, reason = "a binary of tests has nobody outside")]
#![allow(clippy::unwrap_used, reason = "in a test, what fails shall panic")]

mod balancing;
mod cli;
mod dialing;
mod drain;
mod draining;
mod faults;
mod field;
mod flapping;
mod handshake;
mod harness;
mod health;
mod http;
mod keepalive;
mod layers;
mod limits;
mod namespace;
mod refusals;
mod retries;
mod rules;
mod tls;
mod tunnel;
mod tunnel_ends;
mod upstream_tls;
mod upstreams;
