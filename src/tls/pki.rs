//! A certificate authority for tests, made anew each time.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::config::{ClientAuth, Identity};

/// A client's chain and its key.
pub(super) type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Who signs the certificates of one test.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub(super) fn new() -> Self {
        // Or one authority would pass for another with a key that does not fit.
        Self::named(&format!("authority {:x}", rand::random::<u64>()))
    }

    /// With this common name.
    pub(super) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// An identity for these names with an ECDSA P-256 key.
    pub(super) fn identity(&self, names: &[&str]) -> Identity {
        self.identity_with(names, &KeyPair::generate().unwrap())
    }

    /// An identity for these names with an RSA key.
    pub(super) fn rsa_identity(&self, names: &[&str]) -> Identity {
        self.identity_with(names, &KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap())
    }

    /// An identity for these names with this key.
    pub(super) fn identity_with(&self, names: &[&str], key: &KeyPair) -> Identity {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let leaf = CertificateParams::new(names.clone()).unwrap().signed_by(key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let certified =
            CertifiedKey::from_der(vec![leaf.der().clone()], key, &aws_lc_rs::default_provider()).unwrap();
        Identity {
            cert: "leaf.crt".into(),
            key: "leaf.key".into(),
            certified: Arc::new(certified),
            names,
            not_after: time::OffsetDateTime::UNIX_EPOCH,
        }
    }

    /// What listeners ask of clients: a certificate of this authority's.
    pub(super) fn client_auth(&self, required: bool) -> ClientAuth {
        ClientAuth { ca: [self.certificate.clone()].into(), required }
    }

    /// A certificate for a client of this name, good from a year before 2000 to this year.
    pub(super) fn shown(&self, name: &str, until: i32) -> Shown {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(1999, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    /// A client that trusts this authority and shows a certificate.
    pub(super) fn client_showing(
        &self,
        (chain, key): Shown,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut config = self.client(versions);
        let signer = aws_lc_rs::default_provider().key_provider.load_private_key(key).unwrap();
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, signer)));
        config
    }

    /// A client that trusts this authority.
    pub(super) fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        self.client_with(aws_lc_rs::default_provider(), versions)
    }

    /// The same with a cryptography of its own.
    pub(super) fn client_with(
        &self,
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

/// A DNS name as a client's target.
pub(super) fn name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}
