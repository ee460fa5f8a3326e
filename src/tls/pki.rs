//! A certificate authority for tests, made anew each time.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    sign::CertifiedKey,
};

use crate::config::Identity;

/// Who signs the certificates of one test.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
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

    fn identity_with(&self, names: &[&str], key: &KeyPair) -> Identity {
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
