//! What wsgate tells of a client's certificate, in logs and to backends.

use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::{
    asn1_rs::{Any, Oid, Tag, ToDer as _},
    prelude::{FromDer as _, X509Certificate},
    x509::{AttributeTypeAndValue, X509Name},
};

/// A client's certificate that was verified. All of it is printable ASCII, so it can stand in a header or a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject's distinguished name by RFC 4514, such as `CN=alice,O=Example`: the last part comes first, and what
    /// would read as the beginning of another part is escaped, so a part can't pass itself off as two. Empty where the
    /// certificate has no subject, or one that can't be read.
    pub subject: Box<str>,
    /// The serial number in upper-case hex, as `openssl x509 -serial` prints it.
    pub serial: Box<str>,
    /// The SHA-256 of the DER, in lower-case hex.
    pub fingerprint: Box<str>,
}

impl ClientCertificate {
    /// Reads it off a leaf that rustls has verified.
    pub(super) fn describe(leaf: &CertificateDer<'_>) -> Self {
        let fingerprint = hex(digest(&SHA256, leaf).as_ref()).to_ascii_lowercase().into();
        match X509Certificate::from_der(leaf) {
            Ok((_, leaf)) => Self {
                subject: subject(leaf.subject()).into(),
                serial: serial(leaf.raw_serial()),
                fingerprint,
            },
            // Where webpki and x509-parser don't agree there is still what identifies it.
            Err(_) => Self { subject: Box::default(), serial: Box::default(), fingerprint },
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// A serial number without the zero that keeps it positive (RFC 5280 §4.1.2.2).
fn serial(bytes: &[u8]) -> Box<str> {
    match bytes {
        [0, rest @ ..] if !rest.is_empty() => hex(rest).into(),
        bytes => hex(bytes).into(),
    }
}

/// A distinguished name as text (RFC 4514 §2).
fn subject(name: &X509Name<'_>) -> String {
    let parts = name.iter_rdn().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+"));
    let mut parts: Vec<_> = parts.collect();
    parts.reverse();
    parts.join(",")
}

/// RFC 4514 §2.3 and §2.4: a value that is no text, or of a type without a name, is its DER in hex.
fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let (value, kind) = (attribute.attr_value(), attribute.attr_type());
    match (short_name(kind), text(value)) {
        (Some(name), Some(text)) => format!("{name}={}", escaped(&text)),
        (name, _) => {
            let der = value.to_der_vec().unwrap_or_default();
            format!("{}=#{}", name.map_or_else(|| kind.to_id_string(), ToOwned::to_owned), hex(&der))
        }
    }
}

/// The names of RFC 4514 §3, and of what else is often found in certificates.
fn short_name(kind: &Oid<'_>) -> Option<&'static str> {
    Some(match kind.to_id_string().as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        _ => return None,
    })
}

fn text(value: &Any<'_>) -> Option<String> {
    match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            std::str::from_utf8(value.data).ok().map(ToOwned::to_owned)
        }
        Tag::BmpString => {
            let (units, []) = value.data.as_chunks() else { return None };
            char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit)))
                .collect::<Result<_, _>>()
                .ok()
        }
        _ => None,
    }
}

/// RFC 4514 §2.4. Beyond what it asks for, whatever is not printable ASCII is escaped, byte by byte of its UTF-8.
fn escaped(text: &str) -> String {
    let last = text.len().saturating_sub(1);
    let mut escaped = String::with_capacity(text.len());
    for (place, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => escaped.extend(['\\', byte.into()]),
            b'#' | b' ' if place == 0 => escaped.extend(['\\', byte.into()]),
            b' ' if place == last => escaped.push_str("\\ "),
            b' '..=b'~' => escaped.push(byte.into()),
            byte => {
                let _ = write!(escaped, "\\{byte:02X}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair, SerialNumber};

    use super::*;

    fn certificate(subject: &[(DnType, DnValue)], serial: &[u8]) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        params.serial_number = Some(SerialNumber::from_slice(serial));
        let leaf = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate::describe(leaf.der())
    }

    fn subject_of(subject: &[(DnType, DnValue)]) -> String {
        certificate(subject, &[1]).subject.into()
    }

    #[test]
    fn b11_a_subject_is_written_by_rfc_4514_last_part_first() {
        let name = |text: &str| DnValue::Utf8String(text.into());
        let subject = [
            (DnType::CountryName, DnValue::PrintableString("DE".try_into().unwrap())),
            (DnType::OrganizationName, name("Example")),
            (DnType::OrganizationalUnitName, DnValue::BmpString("gr\u{fc}n".try_into().unwrap())),
            (DnType::CommonName, name("alice")),
            (
                DnType::from_oid(&[1, 2, 840, 113_549, 1, 9, 1]),
                DnValue::Ia5String("a@b.example".try_into().unwrap()),
            ),
        ];
        assert_eq!(subject_of(&subject), r"emailAddress=a@b.example,CN=alice,OU=gr\C3\BCn,O=Example,C=DE");
        assert_eq!(subject_of(&[]), "");
    }

    #[test]
    fn b11_a_subject_cannot_pass_itself_off_as_another_or_leave_its_line() {
        for (name, expected) in [
            ("alice,O=Admins", r"CN=alice\,O=Admins"),
            ("a+CN=b", r"CN=a\+CN=b"),
            (r#"a\,"<b>;"#, r#"CN=a\\\,\"\<b\>\;"#),
            ("#0401", r"CN=\#0401"),
            (" a b ", r"CN=\ a b\ "),
            (" ", r"CN=\ "),
            ("a\r\nX-Admin: 1\0\x7f", r"CN=a\0D\0AX-Admin: 1\00\7F"),
            ("\u{202e}\u{1f980}", r"CN=\E2\80\AE\F0\9F\A6\80"),
        ] {
            assert_eq!(
                subject_of(&[(DnType::CommonName, DnValue::Utf8String(name.into()))]),
                expected,
                "{name:?}"
            );
        }
    }

    #[test]
    fn b11_an_attribute_of_an_unknown_type_or_no_text_is_hex() {
        let unknown = DnType::from_oid(&[1, 3, 6, 1, 4, 1, 99_999, 1]);
        let subject = [
            (unknown, DnValue::Utf8String("x".into())),
            (DnType::CommonName, DnValue::TeletexString("y".try_into().unwrap())),
        ];
        assert_eq!(subject_of(&subject), "CN=#140179,1.3.6.1.4.1.99999.1=#0C0178");
    }

    #[test]
    fn b11_serial_and_fingerprint_are_hex() {
        assert_eq!(&*certificate(&[], &[0x0a, 0xbc]).serial, "0ABC");
        // Its first bit is set, so DER puts a zero in front.
        assert_eq!(&*certificate(&[], &[0xff, 1]).serial, "FF01");
        let fingerprint = certificate(&[], &[1]).fingerprint;
        assert!(
            fingerprint.len() == 64 && fingerprint.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
        );
        let known = ClientCertificate::describe(&CertificateDer::from_slice(b"abc"));
        assert_eq!(
            &*known.fingerprint, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "the vector of FIPS 180"
        );
        assert_eq!((&*known.subject, &*known.serial), ("", ""));
    }
}
