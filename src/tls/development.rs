//! Development certificates: a local CA, made once and reused, and the leaves that it signs.
//!
//! A [`Folder`] holds `ca.crt` and `ca.key`, `server.crt` and `server.key`, and for each client
//! `client-NAME.crt` and `client-NAME.key`. Keys are ECDSA P-256 and written 0600 (rule S7). What is in
//! the folder is never overwritten unasked, but for one thing: [`Folder::for_listener`] renews a leaf that
//! this CA signed, and a CA of wsgate's own that is about to expire.

mod authority;
mod files;
mod leaf;
mod name;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
};

use rcgen::KeyPair;
use time::{Duration, OffsetDateTime};

use authority::Ca;
use leaf::{Leaf, Profile};

use crate::config::Identity;

pub use name::{ClientName, ServerName};

/// A certificate that ends within this time is renewed.
const RENEWAL: Duration = Duration::days(30);

/// A folder of development certificates.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    now: OffsetDateTime,
}

/// A leaf on disk, and what was done to have it there.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The leaf with its key; a client's has no names.
    pub identity: Identity,
    /// The PEM file of the CA, which clients have to trust.
    pub ca: PathBuf,
    /// What was done for the leaf.
    pub leaf_event: Event,
    /// What was done for the CA. `Made` and `Renewed` mean that clients don't trust it yet.
    pub ca_event: Event,
    /// Keys in use that others than their owner can read.
    pub exposed_keys: Vec<PathBuf>,
}

/// What a log says about it, in one line.
impl fmt::Display for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match (&self.ca_event, &self.leaf_event) {
            (Event::Made, _) => "made with a CA of its own",
            (Event::Renewed(_), _) => "renewed with its CA, which clients have to trust anew",
            (Event::Kept, Event::Made) => "made",
            (Event::Kept, Event::Renewed(_)) => "renewed",
            (Event::Kept, Event::Kept) => "kept",
        };
        let Identity { cert, names, not_after, .. } = &self.identity;
        write!(f, "{} ({done}) is a certificate for development alone: ", cert.display())?;
        if !names.is_empty() {
            write!(f, "for {}, ", names.join(", "))?;
        }
        write!(f, "until {}; clients have to trust {}", not_after.date(), self.ca.display())
    }
}

/// What was done to have a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// There was none.
    Made,
    /// The one that was there was replaced, for this reason if it had to be.
    Renewed(Option<Flaw>),
    /// The one that was there will do.
    Kept,
}

/// Why a certificate that is there will not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// It has ended or ends soon.
    Ends(OffsetDateTime),
    /// It lacks these names.
    Lacks(Vec<String>),
    /// Another CA signed it than the one in the folder.
    OtherCa,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ends(at) => write!(f, "it is good until {} only", at.date()),
            Self::Lacks(names) => write!(f, "it does not cover {}", names.join(", ")),
            Self::OtherCa => f.write_str("it was not signed by the CA beside it"),
        }
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The file system said no.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One file of a pair is missing.
    #[error("{} is there without {}; put the missing file back, or move this one away", there.display(), missing.display())]
    Half {
        /// The file that is there.
        there: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// A file does not hold what its name says.
    #[error("{} does not hold {expected}; move it away to have a new one made", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A pair's key belongs to another certificate.
    #[error("{} is not the key of {}; move both away to have new ones made", key.display(), cert.display())]
    Mismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// `ca.crt` may not sign.
    #[error("{} is not the certificate of a CA; move it away to have one made", path.display())]
    NotCa {
        /// The certificate.
        path: PathBuf,
    },
    /// The CA has ended or ends soon, and it was not asked for to replace it.
    #[error("the CA {} is good until {} only; {}", path.display(), not_after.date(), if *own {
        "`wsgate cert --force` makes a new one, which clients then have to trust"
    } else {
        "wsgate did not make it, so renew it where it came from"
    })]
    CaEnds {
        /// The CA's certificate.
        path: PathBuf,
        /// Its end.
        not_after: OffsetDateTime,
        /// Whether wsgate made it.
        own: bool,
    },
    /// A leaf is there that will not do, and it is not overwritten unasked.
    #[error("{} is already there, but {flaw}; `wsgate cert --force` overwrites it", path.display())]
    Exists {
        /// The leaf's certificate.
        path: PathBuf,
        /// Why it will not do.
        flaw: Flaw,
    },
    /// A listener's leaf was not signed by the CA beside it, so it is somebody's own.
    #[error(
        "{} was not signed by {}, so `self_signed` leaves it alone; name it with `cert` and `key` to serve \
         it, or move it and its key away to have a new one made",
        path.display(), ca.display()
    )]
    Foreign {
        /// The leaf's certificate.
        path: PathBuf,
        /// The CA's certificate.
        ca: PathBuf,
    },
    /// No certificate can be made for this name.
    #[error("no certificate can be made for `{name}`: {why}")]
    Name {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Key generation or signing failed.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
}

/// A certificate and its key on disk.
#[derive(Debug, Clone)]
struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

impl Folder {
    /// The folder at `path`, which is made when something is written into it.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), now: OffsetDateTime::now_utc() }
    }

    /// The CA's certificate, whether or not it is there yet.
    pub fn ca_cert(&self) -> PathBuf {
        self.pair("ca").cert
    }

    /// `server.crt` and `server.key` for `names`. A leaf that is there is kept if it covers them, this CA
    /// signed it and it lasts; else it is an error, or with `force` always replaced.
    pub fn server(&self, names: &[ServerName], force: bool) -> Result<Issued, CertError> {
        self.leaf(&Profile::Server(names.to_vec()), force)
    }

    /// `client-NAME.crt` and `client-NAME.key`, by the rules of [`Self::server`].
    pub fn client(&self, name: &ClientName, force: bool) -> Result<Issued, CertError> {
        self.leaf(&Profile::Client(name.clone()), force)
    }

    /// What `self_signed = [names]` does at start: makes the CA and the leaf where there are none, and
    /// renews a leaf that this CA signed if it ends within 30 days or lacks a name.
    ///
    /// A renewed leaf keeps its key and its names, so listeners with different names share one leaf. A CA
    /// that ends within 30 days is renewed if wsgate made it.
    pub fn for_listener(&self, names: &[String]) -> Result<Issued, CertError> {
        let names = names.iter().map(|name| name.parse()).collect::<Result<Vec<ServerName>, _>>()?;
        let profile = Profile::Server(names);
        let _lock = files::lock(&self.path)?;
        let pair = self.pair(&profile.stem());
        let former = Ca::load(&self.pair("ca"))?;
        let leaf = Leaf::load(&pair)?;
        if let Some(leaf) = &leaf
            && self.flaw(leaf, former.as_ref(), &profile) == Some(Flaw::OtherCa)
        {
            return Err(CertError::Foreign { path: pair.cert, ca: self.ca_cert() });
        }
        let (ca, ca_event) = self.lasting_ca(former, true)?;
        let Some(leaf) = leaf else {
            return self.sign(&ca, ca_event, &profile, KeyPair::generate()?, Event::Made);
        };
        match self.flaw(&leaf, Some(&ca), &profile) {
            None => self.issued(&profile, leaf, Event::Kept, ca_event),
            Some(flaw) => {
                let profile = profile.with_names(&leaf.names);
                self.sign(&ca, ca_event, &profile, leaf.key, Event::Renewed(Some(flaw)))
            }
        }
    }

    fn leaf(&self, profile: &Profile, force: bool) -> Result<Issued, CertError> {
        let _lock = files::lock(&self.path)?;
        let pair = self.pair(&profile.stem());
        let former = Ca::load(&self.pair("ca"))?;
        if !force && let Some(leaf) = Leaf::load(&pair)? {
            return match self.flaw(&leaf, former.as_ref(), profile) {
                None => self.issued(profile, leaf, Event::Kept, Event::Kept),
                Some(flaw) => Err(CertError::Exists { path: pair.cert, flaw }),
            };
        }
        let (ca, ca_event) = self.lasting_ca(former, force)?;
        let event = if pair.cert.exists() { Event::Renewed(None) } else { Event::Made };
        self.sign(&ca, ca_event, profile, KeyPair::generate()?, event)
    }

    /// A CA that lasts: the one that is there, or a new one where there is none or (with `renew`) where
    /// wsgate's own is about to end.
    fn lasting_ca(&self, former: Option<Ca>, renew: bool) -> Result<(Ca, Event), CertError> {
        let pair = self.pair("ca");
        let event = match former {
            None => Event::Made,
            Some(ca) if !self.ends_soon(ca.not_after) => return Ok((ca, Event::Kept)),
            Some(ca) if renew && ca.is_own() => Event::Renewed(Some(Flaw::Ends(ca.not_after))),
            Some(ca) => {
                return Err(CertError::CaEnds { path: pair.cert, not_after: ca.not_after, own: ca.is_own() });
            }
        };
        Ok((Ca::make(&pair, self.now)?, event))
    }

    fn sign(
        &self,
        ca: &Ca,
        ca_event: Event,
        profile: &Profile,
        key: KeyPair,
        leaf_event: Event,
    ) -> Result<Issued, CertError> {
        let pair = self.pair(&profile.stem());
        let cert = ca.sign(&profile.params(self.now, ca.not_after)?, &key)?;
        files::write_pair(&pair, &key.serialize_pem(), &cert.pem())?;
        let leaf = Leaf::of(cert.into(), key, &pair)?;
        self.issued(profile, leaf, leaf_event, ca_event)
    }

    fn issued(
        &self,
        profile: &Profile,
        leaf: Leaf,
        leaf_event: Event,
        ca_event: Event,
    ) -> Result<Issued, CertError> {
        let identity = leaf.into_identity(self.pair(&profile.stem()))?;
        let mut exposed_keys = vec![self.pair("ca").key, identity.key.clone()];
        exposed_keys.retain(|key| files::is_exposed(key));
        Ok(Issued { identity, ca: self.ca_cert(), leaf_event, ca_event, exposed_keys })
    }

    fn flaw(&self, leaf: &Leaf, ca: Option<&Ca>, profile: &Profile) -> Option<Flaw> {
        let there: BTreeSet<&String> = leaf.names.iter().collect();
        let lacking: Vec<_> = profile.names().into_iter().filter(|name| !there.contains(name)).collect();
        if !ca.is_some_and(|ca| ca.signed(leaf)) {
            Some(Flaw::OtherCa)
        } else if self.ends_soon(leaf.not_after) {
            Some(Flaw::Ends(leaf.not_after))
        } else if lacking.is_empty() {
            None
        } else {
            Some(Flaw::Lacks(lacking))
        }
    }

    fn ends_soon(&self, not_after: OffsetDateTime) -> bool {
        not_after < self.now + RENEWAL
    }

    fn pair(&self, stem: &str) -> Pair {
        let file = |extension: &str| self.path.join(format!("{stem}.{extension}"));
        Pair { cert: file("crt"), key: file("key") }
    }
}

/// [`Folder::for_listener`] for the folder at `path`.
pub fn for_listener(names: &[String], path: &Path) -> Result<Issued, CertError> {
    Folder::new(path).for_listener(names)
}
