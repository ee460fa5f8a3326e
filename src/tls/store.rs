//! The TLS side of a listener: its certificates by name, and what it agrees to speak.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use rustls::{
    CipherSuite, Error, RootCertStore, ServerConfig, SignatureAlgorithm, SignatureScheme,
    SupportedCipherSuite,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        ClientHello, NoClientAuth, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
        WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use super::downstream::Acceptor;
use crate::config::{ClientAuth, Identity, TlsVersion};

/// The one protocol that is offered by ALPN.
pub(super) const ALPN: &str = "http/1.1";

/// The keys of a listener's session tickets.
///
/// They are shared by all workers, so a client resumes wherever it lands, and outlive a reload if the caller
/// keeps them. Each listener has its own, so no ticket crosses listeners. They rotate every 6 hours.
#[derive(Debug, Clone)]
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    /// New keys from the system's randomness.
    pub fn new() -> Result<Self, Error> {
        aws_lc_rs::Ticketer::new().map(Self)
    }
}

/// An acceptor for a listener with these identities, of which the first answers an unknown or absent SNI
/// (rule S6).
///
/// It speaks TLS 1.3 and, if `min_version` says so, 1.2; http/1.1 alone by ALPN; no 0-RTT. Of the cipher suites in common,
/// one with AES-128 is taken before others, whatever the client's order. Clients are asked for a certificate if
/// `client_auth` says by whom it must be signed.
pub fn acceptor(
    identities: &[Identity],
    min_version: TlsVersion,
    client_auth: Option<&ClientAuth>,
    tickets: &Tickets,
) -> Result<Acceptor, Error> {
    let certificates = Certificates::new(identities)?;
    let versions: &[_] = match min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let clients = client_auth.map(verifier).transpose()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(clients.clone().unwrap_or_else(|| Arc::new(NoClientAuth)))
        .with_cert_resolver(Arc::new(certificates));
    config.ignore_client_order = true;
    config.alpn_protocols = vec![ALPN.into()];
    config.ticketer = Arc::clone(&tickets.0);
    config.send_tls13_tickets = 1;
    // Tickets resume without memory or a lock here; the few clients without them do full handshakes.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Acceptor::new(config, clients))
}

/// All suites are strong enough, and AES-128 costs both ends the least.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_cheap = |suite: &SupportedCipherSuite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    provider.cipher_suites.sort_by_key(|suite| !is_cheap(suite));
    provider
}

/// Bytes of the certificates of a `client_ca` whose subjects clients are told, so that they can choose what to show. TLS has
/// room for 64 KiB of them, and without any a client chooses freely.
const MOST_NAMED: usize = 32 * 1024;

/// Judges clients' certificates: signed by one of the CA, valid now, and made for clients. Revocation is not looked at.
fn verifier(client_auth: &ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in client_auth.ca.iter() {
        roots.add(certificate.clone())?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if client_auth.required { builder } else { builder.allow_unauthenticated() };
    let bytes: usize = client_auth.ca.iter().map(|certificate| certificate.len()).sum();
    let builder = if bytes > MOST_NAMED { builder.clear_root_hint_subjects() } else { builder };
    builder.build().map_err(|error| Error::General(error.to_string()))
}

thread_local! {
    /// What the client of the latest call to the resolver asked for.
    static ASKED: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Takes the SNI, in lower case, of the `ClientHello` that this thread processed last.
///
/// rustls tells it nobody but the certificate resolver when it is used unbuffered. The resolver runs within
/// the call that processes a `ClientHello`, so a caller that asks right after that call gets its own
/// connection's.
pub(super) fn take_sni() -> Option<Box<str>> {
    ASKED.take()
}

/// Keys that answer for one name, the cheapest to sign with first.
type Keys = Vec<Arc<CertifiedKey>>;

/// A listener's certificates by name.
#[derive(Debug)]
struct Certificates {
    /// By exact name, in lower case.
    exact: HashMap<Box<str>, Keys>,
    /// By what follows the `*.` of a wildcard name, which stands for one label (RFC 6125 §6.4.3).
    wildcard: HashMap<Box<str>, Keys>,
    /// For an unknown or absent SNI: the first identity, and others that have all of its names. Never empty.
    fallback: Keys,
}

impl Certificates {
    fn new(identities: &[Identity]) -> Result<Self, Error> {
        let Some(first) = identities.first() else {
            return Err(Error::General("a TLS listener without a certificate".into()));
        };
        let names = |identity: &Identity| -> HashSet<Box<str>> {
            identity.names.iter().map(|name| name.to_ascii_lowercase().into()).collect()
        };
        let default_names = names(first);
        let mut certificates =
            Self { exact: HashMap::new(), wildcard: HashMap::new(), fallback: vec![first.certified.clone()] };
        for (place, identity) in identities.iter().enumerate() {
            let names = names(identity);
            if place > 0 && !default_names.is_empty() && default_names.is_subset(&names) {
                certificates.fallback.push(identity.certified.clone());
            }
            for name in names {
                let keys = match name.strip_prefix("*.") {
                    Some(parent) => certificates.wildcard.entry(parent.into()),
                    None => certificates.exact.entry(name),
                };
                keys.or_default().push(identity.certified.clone());
            }
        }
        certificates.sort();
        Ok(certificates)
    }

    /// Puts RSA last: signing with it costs many times what ECDSA does. Else the order of the file stays.
    fn sort(&mut self) {
        let lists = self.exact.values_mut().chain(self.wildcard.values_mut());
        for keys in lists.chain([&mut self.fallback]) {
            keys.sort_by_key(|key| key.key.algorithm() == SignatureAlgorithm::RSA);
        }
    }

    /// The keys for a name in lower case.
    fn find(&self, name: &str) -> &Keys {
        let wildcard = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(name).or_else(wildcard).unwrap_or(&self.fallback)
    }

    /// The first key whose signatures the client understands, else the first: rustls then says what is
    /// missing.
    fn choose(keys: &Keys, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        if let [only] = keys.as_slice() {
            return Some(only.clone());
        }
        let understood = keys.iter().find(|key| key.key.choose_scheme(schemes).is_some());
        understood.or(keys.first()).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        ASKED.set(name.map(Into::into));
        let keys = name.map_or(&self.fallback, |name| self.find(name));
        Self::choose(keys, hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests;
