//! The listener of operators and their programs: health, metrics, the API and the dashboard.

mod control;

pub use self::control::{
    CertificateStatus, Changes, Close, Configuration, Control, DrainProgress, LastReload, Later,
    ListenerStatus, Readiness, ReloadRefused, ReloadReport, Status, TunnelFilter, TunnelPage, Usage,
};
