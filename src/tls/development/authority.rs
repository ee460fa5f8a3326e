//! The local CA.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    CertError, Pair, files,
    leaf::{self, CLOCK_SKEW, Leaf},
    name::COMMON_NAME,
};

const LIFETIME: Duration = Duration::days(3653);

/// The common name of a CA that wsgate made begins with this.
const OWN: &str = "wsgate development CA";

/// A CA with its key.
pub(super) struct Ca {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    common_name: String,
    pub(super) not_after: OffsetDateTime,
}

impl Ca {
    /// The CA of these files, which may be anybody's; `None` if neither is there.
    pub(super) fn load(pair: &Pair) -> Result<Option<Self>, CertError> {
        let Some((der, key)) = files::read_pair(pair)? else { return Ok(None) };
        Self::of(der, leaf::read_key(pair, &key)?, pair).map(Some)
    }

    /// A new CA, in these files.
    pub(super) fn make(pair: &Pair, now: OffsetDateTime) -> Result<Self, CertError> {
        let key = KeyPair::generate()?;
        let cert = params(now).self_signed(&key)?;
        files::write_pair(pair, &key.serialize_pem(), &cert.pem())?;
        Self::of(cert.into(), key, pair)
    }

    fn of(der: CertificateDer<'static>, key: KeyPair, pair: &Pair) -> Result<Self, CertError> {
        let cert = leaf::parse(&der, pair)?;
        leaf::check_match(&cert, &key, pair)?;
        if !cert.is_ca() {
            return Err(CertError::NotCa { path: pair.cert.clone() });
        }
        let common_name = cert.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let common_name = common_name.unwrap_or_default().to_owned();
        let not_after = cert.validity().not_after.to_datetime();
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Self { der, issuer, common_name, not_after })
    }

    /// Signs a leaf for `key`.
    pub(super) fn sign(&self, leaf: &CertificateParams, key: &KeyPair) -> Result<Certificate, CertError> {
        Ok(leaf.signed_by(key, &self.issuer)?)
    }

    /// Whether the signature of `leaf` is this CA's.
    pub(super) fn signed(&self, leaf: &Leaf) -> bool {
        let (Ok((_, own)), Ok((_, leaf))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(&leaf.der))
        else {
            return false;
        };
        leaf.verify_signature(Some(own.public_key())).is_ok()
    }

    /// Whether wsgate made it.
    pub(super) fn is_own(&self) -> bool {
        self.common_name.starts_with(OWN)
    }
}

fn params(now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = params.not_before + LIFETIME;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "wsgate development");
    params.distinguished_name.push(DnType::CommonName, common_name());
    params.serial_number = Some(leaf::random_serial());
    params
}

/// A name by which a person tells this CA from others in a list of trusted ones.
fn common_name() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let made_by = user.map_or_else(|_| host.to_string(), |user| format!("{user}@{host}"));
    let id = format!("{:08x}", rand::random::<u32>());
    let room = COMMON_NAME - OWN.len() - id.len() - "  ()".len();
    let made_by: String = made_by.chars().filter(char::is_ascii_graphic).take(room).collect();
    format!("{OWN} {id} ({made_by})")
}
