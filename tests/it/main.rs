//! wsgate from outside: through its sockets, its access records and its command line.

#![allow(unreachable_pub, reason = "a binary of tests has nobody outside")]
#![allow(clippy::unwrap_used, reason = "in a test, what fails shall panic")]

mod admin;
mod admission;
mod auth;
mod balancing;
mod cli;
mod corpus;
mod dialing;
mod documents;
mod drain;
mod draining;
mod faults;
mod field;
mod flapping;
mod forward_auth;
mod handover;
mod handshake;
mod harness;
mod health;
mod http;
mod identity;
mod keepalive;
mod layers;
mod limits;
mod logs;
mod metrics;
mod metrics_docs;
mod mtls;
mod namespace;
mod origins;
mod overload;
mod proxy_protocol;
mod recertify;
mod refusals;
mod relisten;
mod reload;
mod retries;
mod rules;
mod slow;
mod storm;
mod tls;
mod tunnel;
mod tunnel_ends;
mod tunnels;
mod upstream_tls;
mod upstreams;
