//! A leaf: what it is for, and its pair of files.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use time::{Duration, OffsetDateTime};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::{
    CertError, Pair, files,
    name::{COMMON_NAME, ClientName, ServerName},
};
use crate::config::Identity;

/// Browsers refuse leaves that last longer than 398 days.
const LIFETIME: Duration = Duration::days(397);

/// A certificate begins so long ago, for clients whose clocks are behind.
pub(super) const CLOCK_SKEW: Duration = Duration::hours(1);

/// What a leaf is for.
pub(super) enum Profile {
    Server(Vec<ServerName>),
    Client(ClientName),
}

impl Profile {
    /// What its files' names begin with.
    pub(super) fn stem(&self) -> String {
        match self {
            Self::Server(_) => "server".into(),
            Self::Client(name) => format!("client-{name}"),
        }
    }

    /// The DNS names and IP addresses that the leaf has to cover.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Server(names) => names.iter().map(ToString::to_string).collect(),
            Self::Client(_) => Vec::new(),
        }
    }

    /// The profile with the names of a former leaf added.
    pub(super) fn with_names(self, former: &[String]) -> Self {
        match self {
            Self::Server(names) => {
                let former = former.iter().filter_map(|name| name.parse().ok());
                Self::Server(names.into_iter().chain(former).collect())
            }
            Self::Client(_) => self,
        }
    }

    /// The certificate to be signed. It ends with its CA, if that is sooner.
    pub(super) fn params(
        &self,
        now: OffsetDateTime,
        ca_ends: OffsetDateTime,
    ) -> Result<CertificateParams, CertError> {
        let mut params = CertificateParams::default();
        params.not_before = now - CLOCK_SKEW;
        params.not_after = (params.not_before + LIFETIME).min(ca_ends);
        params.serial_number = Some(random_serial());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "wsgate development");
        match self {
            Self::Server(names) => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params.subject_alt_names = alternative_names(names)?;
                // Clients read the alternative names alone; this one is for people.
                if let Some(first) =
                    names.first().map(ToString::to_string).filter(|name| name.len() <= COMMON_NAME)
                {
                    params.distinguished_name.push(DnType::CommonName, first);
                }
            }
            Self::Client(name) => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params.distinguished_name.push(DnType::CommonName, name.to_string());
            }
        }
        Ok(params)
    }
}

/// Each name once, in the order given.
fn alternative_names(names: &[ServerName]) -> Result<Vec<SanType>, CertError> {
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        let name = match name {
            ServerName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            ServerName::Ip(ip) => SanType::IpAddress(*ip),
        };
        if !all.contains(&name) {
            all.push(name);
        }
    }
    Ok(all)
}

/// 127 random bits: positive, as RFC 5280 §4.1.2.2 asks, and never 0.
pub(super) fn random_serial() -> SerialNumber {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&serial)
}

/// A leaf and its key, which match.
pub(super) struct Leaf {
    pub(super) der: CertificateDer<'static>,
    pub(super) key: KeyPair,
    pub(super) names: Vec<String>,
    pub(super) not_after: OffsetDateTime,
}

impl Leaf {
    /// The leaf of these files; `None` if neither is there.
    pub(super) fn load(pair: &Pair) -> Result<Option<Self>, CertError> {
        let Some((der, key)) = files::read_pair(pair)? else { return Ok(None) };
        Self::of(der, read_key(pair, &key)?, pair).map(Some)
    }

    /// The leaf that `key` belongs to.
    pub(super) fn of(der: CertificateDer<'static>, key: KeyPair, pair: &Pair) -> Result<Self, CertError> {
        let cert = parse(&der, pair)?;
        check_match(&cert, &key, pair)?;
        let (names, not_after) = (names(&cert), cert.validity().not_after.to_datetime());
        Ok(Self { der, key, names, not_after })
    }

    /// The leaf as a listener serves it, with the files where it stands.
    pub(super) fn into_identity(self, Pair { cert, key }: Pair) -> Result<Identity, CertError> {
        let private = PrivateKeyDer::from(self.key);
        let signing = any_supported_type(&private)
            .map_err(|_| CertError::Unreadable { path: key.clone(), expected: "a key that TLS can use" })?;
        let certified = Arc::new(CertifiedKey::new(vec![self.der], signing));
        Ok(Identity { cert, key, certified, names: self.names, not_after: self.not_after })
    }
}

/// The key of `pair`.
pub(super) fn read_key(pair: &Pair, text: &str) -> Result<KeyPair, CertError> {
    KeyPair::from_pem(text).map_err(|_| CertError::Unreadable {
        path: pair.key.clone(),
        expected: "an unencrypted private key in PEM",
    })
}

/// The certificate of `pair`, parsed.
pub(super) fn parse<'a>(der: &'a CertificateDer<'_>, pair: &Pair) -> Result<X509Certificate<'a>, CertError> {
    let (_, cert) = X509Certificate::from_der(der)
        .map_err(|_| CertError::Unreadable { path: pair.cert.clone(), expected: "an X.509 certificate" })?;
    Ok(cert)
}

/// Whether the pair's key is the certificate's.
pub(super) fn check_match(cert: &X509Certificate<'_>, key: &KeyPair, pair: &Pair) -> Result<(), CertError> {
    if cert.public_key().raw == key.subject_public_key_info() {
        return Ok(());
    }
    Err(CertError::Mismatch { cert: pair.cert.clone(), key: pair.key.clone() })
}

fn names(cert: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = cert.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(octets) => address(octets).map(|ip| ip.to_string()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets)
        .map(|octets| Ipv4Addr::from(octets).into())
        .or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).into()))
        .ok()
}
