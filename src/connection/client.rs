//! Who is at the other end of a connection.

use std::net::{IpAddr, SocketAddr};

use crate::{
    proto::{
        forward::{CertificateValues, TlsValues},
        network::Peers,
        proxy_protocol::{Addresses, Header},
    },
    tls::TlsInfo,
};

/// Who a connection comes from. The record of a tunnel keeps it for hours, and many have neither TLS nor a PROXY header: so
/// these are boxed.
#[derive(Debug)]
pub(crate) struct Client {
    /// Who connected; `None` on a unix socket.
    peer: Option<SocketAddr>,
    proxied: Option<Box<Proxied>>,
    pub(super) tls: Option<Box<TlsInfo>>,
}

/// What a PROXY header says of a connection that is not the proxy's own.
#[derive(Debug)]
struct Proxied {
    /// `None`: nothing.
    addresses: Option<Addresses>,
}

impl Client {
    /// The one who connected.
    pub(super) fn new(peer: Option<SocketAddr>) -> Self {
        Self { peer, proxied: None, tls: None }
    }

    /// What its PROXY header says.
    pub(super) fn introduced(&mut self, header: &Header) {
        let addresses = match header {
            Header::Local => return,
            Header::Unknown => None,
            Header::For(addresses) => Some(*addresses),
        };
        self.proxied = Some(Box::new(Proxied { addresses }));
    }

    /// Who connected; `None` on a unix socket.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    fn addresses(&self) -> Option<&Addresses> {
        self.proxied.as_ref()?.addresses.as_ref()
    }

    /// Whom the connection is for: the one that the PROXY header names, else who connected. `None` on a unix socket.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.addresses().map_or(self.peer, |addresses| Some(addresses.source))
    }

    /// The IP address of that.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.address().map(|address| address.ip().to_canonical())
    }

    /// What it connected to, where a PROXY header says so.
    pub(super) fn destination(&self) -> Option<SocketAddr> {
        self.addresses().map(|addresses| addresses.destination)
    }

    /// Whether a PROXY header came that names nobody.
    pub(super) fn is_unnamed(&self) -> bool {
        self.proxied.as_ref().is_some_and(|proxied| proxied.addresses.is_none())
    }

    /// Whether it is one of these. Whoever a PROXY header leaves unnamed is nobody: the address of the proxy does not vouch for
    /// what such a client says.
    pub(super) fn is_among(&self, peers: &Peers) -> bool {
        !self.is_unnamed() && peers.contains(self.ip())
    }

    /// What headers may tell of its TLS.
    pub(super) fn tls_values(&self) -> Option<TlsValues<'_>> {
        self.tls.as_ref().map(|tls| TlsValues {
            version: tls.version,
            cipher: tls.cipher_suite,
            sni: tls.sni.as_deref(),
            client: certificate_values(tls),
        })
    }
}

/// What headers may tell of the client's certificate.
fn certificate_values(tls: &TlsInfo) -> Option<CertificateValues<'_>> {
    tls.client.as_ref().map(|certificate| CertificateValues {
        subject: &certificate.subject,
        serial: &certificate.serial,
        fingerprint: &certificate.fingerprint,
    })
}

/// An address in logs.
pub(super) fn name_of(address: Option<SocketAddr>) -> Box<str> {
    address.map_or_else(|| "unix".into(), |address| address.to_string().into())
}
