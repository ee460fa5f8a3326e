//! Certificates and their keys, from PEM files to what rustls signs with.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use time::{OffsetDateTime, macros::format_description};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate, X509Version},
};

use super::{
    Identity,
    file::Value,
    named::{self, Kind},
    report::{Finding, shown},
};

/// A PEM file larger than this is some other file.
const PEM_MAX: u64 = 1024 * 1024;

/// In which role wsgate shows a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// To clients, as their server.
    Server,
    /// To servers, as their client.
    Client,
}

impl Role {
    /// What happens to a certificate that is out of its time.
    fn refusal(self) -> &'static str {
        match self {
            Self::Server => "clients refuse it",
            Self::Client => "servers refuse it",
        }
    }
}

/// Loads the pair that two values name. What is wrong is recorded.
pub(super) fn load(cert: Value<'_>, key: Value<'_>, role: Role) -> Option<Identity> {
    let reader = cert.reader;
    let cert_path = reader.recorded(path(cert));
    let key_path = reader.recorded(path(key));
    let (cert_path, key_path) = (cert_path?, key_path?);
    let pair = (cert_path, key_path);
    if let Some(identity) = reader.identities.borrow().get(&pair) {
        return Some(identity.clone());
    }
    let known = reader.known_problems();
    let identity = match read_pair(cert, key, &pair, role) {
        Some(identity) => {
            judge(cert, key, &identity, role);
            identity
        }
        None => reader.kept(&pair, known)?,
    };
    reader.identities.borrow_mut().insert(pair, identity.clone());
    Some(identity)
}

fn read_pair(cert: Value<'_>, key: Value<'_>, pair: &(PathBuf, PathBuf), role: Role) -> Option<Identity> {
    let reader = cert.reader;
    // Both files are read before either is given up, so that both can be told to be missing.
    let chain = reader.recorded(read_chain(cert, &pair.0));
    let private_key = reader.recorded(read_key(key, &pair.1));
    let (chain, private_key) = (chain?, private_key?);
    let certified = reader.recorded(certify(cert, key, chain, private_key))?;
    reader.recorded(describe(cert, pair.clone(), certified, role))
}

/// The certificates that a value's PEM file says to trust, of which there is at least one; `""` is none.
pub(super) fn load_ca(value: Value<'_>) -> Result<Option<Arc<[CertificateDer<'static>]>>, Finding> {
    if value.is_word("") {
        return Ok(None);
    }
    let certificates = read_chain(value, &path(value)?)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|_| {
            value
                .finding("a certificate of this file cannot be used")
                .label("it is malformed, or one of X.509 version 2")
        })?;
        warn_of_expired_ca(value, certificate);
    }
    Ok(Some(certificates.into()))
}

/// Warns of a `client_ca` by which no client gets in.
pub(super) fn warn_of_no_ca(value: Value<'_>, certificates: &[CertificateDer<'_>]) {
    if certificates.iter().all(|certificate| vouches_for_nobody(certificate)) {
        let finding = value
            .finding("no certificate of this file is a CA's")
            .label("clients show certificates that one of these signed, and such as these sign none")
            .help("it is the certificate of who signed clients' certificates that belongs here");
        value.reader.record(finding.warning());
    }
}

/// Whether a certificate is neither a CA's nor its own issuer: rustls lets in who shows one that is self-signed and in the
/// file. Before version 3 there was no way to say what a certificate is, so an older one may be a CA's.
fn vouches_for_nobody(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    certificate.version() == X509Version::V3
        && !certificate.is_ca()
        && certificate.subject().as_raw() != certificate.issuer().as_raw()
}

/// rustls does not look at the dates of what it is told to trust, while other programs do.
fn warn_of_expired_ca(value: Value<'_>, certificate: &CertificateDer<'_>) {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return };
    let not_after = certificate.validity().not_after.to_datetime();
    if not_after < value.reader.now {
        let finding = value
            .finding(format!("a certificate of this file expired on {}", date(not_after)))
            .label("what it signed is trusted all the same")
            .help("take it out of the file, unless that is meant");
        value.reader.record(finding.warning());
    }
}

fn path(value: Value<'_>) -> Result<PathBuf, Finding> {
    let text = value.text()?;
    if text.is_empty() {
        return Err(value
            .finding(format!("`{}` is empty", value.key))
            .label("expected the path of a PEM file"));
    }
    Ok(value.reader.path(&text))
}

fn read_chain(value: Value<'_>, path: &Path) -> Result<Vec<CertificateDer<'static>>, Finding> {
    let pem = read(value, path, "certificate")?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ if holds(&pem, "PRIVATE KEY-----") => Err(value
            .finding("this file holds a private key and no certificate")
            .label("expected a certificate in PEM")
            .maybe_help((value.key == "cert").then(|| "are `cert` and `key` exchanged?".to_owned()))),
        _ => Err(not_pem(value, &pem, "a certificate", "BEGIN CERTIFICATE")),
    }
}

fn read_key(value: Value<'_>, path: &Path) -> Result<PrivateKeyDer<'static>, Finding> {
    let pem = read(value, path, "key")?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(key) => Ok(key),
        Err(_) if holds(&pem, "ENCRYPTED") => Err(value
            .finding("this private key is encrypted")
            .label("wsgate starts without anybody to ask for a passphrase")
            .help("`openssl pkey -in encrypted.key -out server.key` takes the passphrase off")),
        Err(_) if holds(&pem, "BEGIN CERTIFICATE-----") => Err(value
            .finding("this file holds a certificate and no private key")
            .label("expected a private key in PEM")
            .help("are `cert` and `key` exchanged?")),
        Err(_) => Err(not_pem(value, &pem, "a private key", "BEGIN PRIVATE KEY")),
    }
}

fn holds(pem: &[u8], marker: &str) -> bool {
    String::from_utf8_lossy(pem).contains(marker)
}

fn not_pem(value: Value<'_>, content: &[u8], what: &str, marker: &str) -> Finding {
    // An ASN.1 SEQUENCE with a length of two bytes: what certificates and keys begin with in DER.
    let help = if content.starts_with(&[0x30, 0x82]) {
        "it looks like DER: `openssl x509 -inform der` or `openssl pkey -inform der` turns it into PEM"
            .to_owned()
    } else {
        format!("such a file has a line `-----{marker}-----`")
    };
    value
        .finding(format!("this file holds no {}", &what[2..]))
        .label(format!("expected {what} in PEM"))
        .help(help)
}

fn read(value: Value<'_>, path: &Path, name: &'static str) -> Result<Vec<u8>, Finding> {
    let made_by = "`wsgate cert` makes certificates for development in certs/";
    named::read(value, path, &Kind { name, most: PEM_MAX, made_by })
}

fn certify(
    cert: Value<'_>,
    key: Value<'_>,
    chain: Vec<CertificateDer<'static>>,
    private_key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Finding> {
    let signing_key =
        aws_lc_rs::default_provider().key_provider.load_private_key(private_key).map_err(|_| {
            key.finding("this private key cannot be used")
                .label("expected an RSA key of 2048 bits or more, ECDSA or Ed25519")
        })?;
    let certified = CertifiedKey::new(chain, signing_key);
    let error = match certified.keys_match() {
        Ok(()) => return Ok(certified),
        Err(error) => error,
    };
    if !matches!(error, rustls::Error::InconsistentKeys(_)) {
        return Err(cert.finding("this certificate cannot be used").label(error.to_string()));
    }
    let of_another =
        certified.cert.iter().skip(1).any(|cert| {
            CertifiedKey::new(vec![cert.clone()], Arc::clone(&certified.key)).keys_match().is_ok()
        });
    let finding = key
        .finding("the private key does not belong to the certificate")
        .label("this key")
        .context(cert.span(), "this certificate");
    Err(if of_another {
        finding.help(
            "it belongs to a later certificate of the file: the server's own comes first, then its issuers",
        )
    } else {
        finding
    })
}

/// Reads names and expiry off the leaf.
fn describe(
    value: Value<'_>,
    (cert, key): (PathBuf, PathBuf),
    certified: CertifiedKey,
    role: Role,
) -> Result<Identity, Finding> {
    let leaf = certified.cert.first().map(CertificateDer::as_ref).unwrap_or_default();
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else {
        return Err(value.finding("this certificate cannot be read").label("its DER is malformed"));
    };
    let names = match leaf.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().filter_map(name).collect(),
        _ => Vec::new(),
    };
    let not_after = leaf.validity().not_after.to_datetime();
    if leaf.validity().not_before.to_datetime() > value.reader.now {
        let from = date(leaf.validity().not_before.to_datetime());
        value.reader.record(
            value
                .finding(format!("this certificate is not valid before {from}"))
                .label(role.refusal())
                .warning(),
        );
    }
    Ok(Identity { cert, key, certified: Arc::new(certified), names, not_after })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(shown(name)),
        GeneralName::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|octets| IpAddr::from(octets).to_string()),
            _ => <[u8; 16]>::try_from(*octets).ok().map(|octets| IpAddr::from(octets).to_string()),
        },
        _ => None,
    }
}

/// Warns about a pair that loads and yet serves nobody, or everybody.
fn judge(cert: Value<'_>, key: Value<'_>, identity: &Identity, role: Role) {
    let reader = cert.reader;
    if identity.not_after < reader.now {
        let since = date(identity.not_after);
        reader.record(
            cert.finding(format!("this certificate expired on {since}"))
                .label(role.refusal())
                .help("renew it; `wsgate cert` renews one of its own with --force")
                .warning(),
        );
    }
    if identity.names.is_empty() && role == Role::Server {
        reader.record(
            cert.finding("this certificate names no host")
                .label("it has no subjectAltName")
                .help("clients compare the host with the subjectAltName alone and refuse this one")
                .warning(),
        );
    }
    let mode = fs::metadata(&identity.key).map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    if mode & 0o077 != 0 {
        reader.record(
            key.finding("other users can read this private key")
                .label(format!("its mode is {mode:04o}"))
                .help("`chmod 600` leaves it to its owner")
                .warning(),
        );
    }
}

/// Year, month and day.
pub(super) fn date(at: OffsetDateTime) -> String {
    at.format(format_description!("[year]-[month]-[day]")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use rustls::{pki_types::UnixTime, server::WebPkiClientVerifier};

    fn named(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    fn self_signed(is_ca: IsCa) -> CertificateDer<'static> {
        let mut params = named("somebody");
        params.is_ca = is_ca;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    /// Whether rustls lets in who shows `client` where `trusted` is the whole file.
    fn is_let_in(client: &CertificateDer<'_>, trusted: CertificateDer<'static>) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(trusted).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        verifier.verify_client_cert(client, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn a_certificate_that_somebody_else_signed_and_that_is_no_cas_lets_nobody_in() {
        let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let issuer = Issuer::new(named("the CA"), ca_key);
        let signed: CertificateDer<'static> = named("a client").signed_by(&key, &issuer).unwrap().into();
        assert!(vouches_for_nobody(&signed) && !is_let_in(&signed, signed.clone()));
    }

    /// The same certificate in version 1, which is the one that is not written, and with a signature that is wrong now.
    fn in_version_1(certificate: &[u8]) -> CertificateDer<'static> {
        const VERSION_3: [u8; 5] = [0xa0, 3, 2, 1, 2];
        let sequence = |content: &[u8]| match u16::try_from(content.len()).unwrap().to_be_bytes() {
            [0, length] => [&[0x30, 0x81, length], content].concat(),
            [high, low] => [&[0x30, 0x82, high, low], content].concat(),
        };
        let (_, parsed) = X509Certificate::from_der(certificate).unwrap();
        let signed = parsed.tbs_certificate.as_ref();
        let begin = certificate.windows(signed.len()).position(|part| part == signed).unwrap();
        let version = signed.windows(5).position(|part| part == VERSION_3).unwrap();
        let signed_1 = sequence(&signed[version + 5..]);
        sequence(&[&signed_1, &certificate[begin + signed.len()..]].concat()).into()
    }

    #[test]
    fn a_certificate_of_version_1_may_be_a_cas() {
        let issuer = Issuer::new(named("the CA"), KeyPair::generate().unwrap());
        let signed = named("another CA").signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        let old = in_version_1(signed.der());
        RootCertStore::empty().add(old.clone()).unwrap();
        assert!(vouches_for_nobody(signed.der()) && !vouches_for_nobody(&old));
    }

    #[test]
    fn a_self_signed_certificate_lets_in_who_has_it() {
        let own = self_signed(IsCa::NoCa);
        assert!(!vouches_for_nobody(&own) && is_let_in(&own, own.clone()));
        assert!(!vouches_for_nobody(&self_signed(IsCa::Ca(BasicConstraints::Unconstrained))));
    }
}
