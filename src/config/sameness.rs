//! What a reload leaves alone: the parts of two configurations that are the same.
//!
//! The same means an equal table under the same name, and equal contents of the certificates that it names. Tables are
//! compared as they were written, so `"60s"` and `"1m"` differ; the environment does not change while a process runs.

use std::{collections::HashMap, path::PathBuf};

use super::{
    CertificateSource, Config, Htpasswd, Identity, Listener, Route, Tls, Trust, Upstream, UpstreamTls,
};

impl Config {
    /// Every file that the configuration names and that was read for it: certificates, keys, CAs, and the users of
    /// routes, in order. The development CA's are not among them.
    pub fn watched_files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }
}

impl Listener {
    /// Whether this is the listener of another configuration, unchanged. What `self_signed` made is not looked at.
    pub fn is_same(&self, other: &Self) -> bool {
        let has_same_tls = both(self.tls.as_ref(), other.tls.as_ref(), Tls::is_same);
        self.address == other.address && self.table == other.table && has_same_tls
    }
}

impl Upstream {
    /// Whether this is the upstream of another configuration, unchanged.
    pub fn is_same(&self, other: &Self) -> bool {
        let has_same_tls = both(self.tls.as_ref(), other.tls.as_ref(), UpstreamTls::is_same);
        self.name == other.name && self.table == other.table && has_same_tls
    }
}

impl Route {
    /// Whether this is the route of another configuration, unchanged. Its users are a question of their own, and so is
    /// the upstream that it names.
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.table == other.table
    }

    /// Whether its htpasswd file had the same users with the same passwords.
    pub fn has_same_users(&self, other: &Self) -> bool {
        self.users() == other.users()
    }

    fn users(&self) -> Option<&HashMap<String, String>> {
        let Htpasswd { users, .. } = self.auth.as_ref()?.basic.as_ref()?;
        Some(users)
    }
}

impl Tls {
    fn is_same(&self, other: &Self) -> bool {
        let has_same_source = match (&self.source, &other.source) {
            (CertificateSource::Files(one), CertificateSource::Files(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.is_same(other))
            }
            (
                CertificateSource::SelfSigned { names, folder },
                CertificateSource::SelfSigned { names: other_names, folder: other_folder },
            ) => names == other_names && folder == other_folder,
            (CertificateSource::Files(_), CertificateSource::SelfSigned { .. })
            | (CertificateSource::SelfSigned { .. }, CertificateSource::Files(_)) => false,
        };
        let has_same_ca =
            both(self.client_auth.as_ref(), other.client_auth.as_ref(), |one, other| one.ca == other.ca);
        has_same_source && has_same_ca
    }
}

impl UpstreamTls {
    fn is_same(&self, other: &Self) -> bool {
        let has_same_trust = match (&self.trust, &other.trust) {
            (Trust::Ca(one), Trust::Ca(other)) => one == other,
            (Trust::System, Trust::System) | (Trust::Anybody, Trust::Anybody) => true,
            (Trust::Ca(_) | Trust::System | Trust::Anybody, _) => false,
        };
        let has_same_identity = both(self.identity.as_ref(), other.identity.as_ref(), Identity::is_same);
        has_same_trust && has_same_identity
    }
}

impl Identity {
    /// Whether the files held the same. The key needs no look of its own: it is that of the chain's first certificate.
    fn is_same(&self, other: &Self) -> bool {
        self.cert == other.cert && self.key == other.key && self.certified.cert == other.certified.cert
    }
}

/// Whether there is neither, or both and these are the same.
fn both<T>(one: Option<&T>, other: Option<&T>, are_same: impl Fn(&T, &T) -> bool) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => are_same(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}
