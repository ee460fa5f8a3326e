//! Who is let in by name and password: the users of a route, and the threads that check what a client says.
//!
//! Asking a server instead ([`crate::config::ForwardAuth`]) is an exchange like others, so it stands with them in
//! [`crate::connection`].

mod basic;
mod verifier;

pub use self::{
    basic::{Credentials, Denied, Users},
    verifier::Verifier,
};
