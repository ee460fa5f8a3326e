//! The listener of operators and their programs: health, metrics, the API and the dashboard.
//!
//! | file | |
//! |---|---|
//! | `control` | what can be asked and ordered: the trait that the process implements |
//! | `guard` | who may (rule S8) |
//! | `api` | the endpoints |
//! | `request` | queries and bodies |
//! | `dashboard` | the page for people |
//! | `handle` | the server as such a process |
//! | `keeper` | the listener over reloads |
//! | `serve` | the socket, the thread, the connections |

mod api;
mod control;
mod dashboard;
mod failure;
mod guard;
mod handle;
mod keeper;
mod request;
mod serve;
#[cfg(test)]
mod tests;

pub use self::{
    control::{
        CertificateStatus, Configuration, Control, DrainProgress, LastReload, Later, ListenerStatus, Status,
    },
    keeper::Keeper,
    serve::{Bound, Serving, bind},
};
