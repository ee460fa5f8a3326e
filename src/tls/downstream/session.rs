//! rustls' side of a stream, by its unbuffered API.

use std::sync::Arc;

use rustls::{
    Error, HandshakeKind, ProtocolVersion, ServerConfig,
    pki_types::UnixTime,
    server::{UnbufferedServerConnection, danger::ClientCertVerifier},
    unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus},
};

use super::{
    super::{
        client_certificate::ClientCertificate,
        info::{TlsInfo, suite_name, version_name},
        store,
    },
    pending::Pending,
};

/// Why records were not written into the room that they were given.
pub(super) enum Misfit {
    /// They need so many bytes.
    Short(usize),
    /// It would fail in any room.
    Failed(Error),
}

impl From<EncodeError> for Misfit {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Short(required_size)
            }
            EncodeError::AlreadyEncoded => Self::Failed(unexpected("a record was encoded twice")),
        }
    }
}

impl From<EncryptError> for Misfit {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Short(required_size)
            }
            // TLS 1.2 cannot change keys, which are good for 2^24 records with AES-GCM.
            EncryptError::EncryptExhausted => Self::Failed(Error::EncryptError),
        }
    }
}

/// What [`Session::receive`] did.
pub(super) struct Received {
    /// Bytes at the front that are done with.
    pub(super) used: usize,
    /// Whether the client said `close_notify`; whatever follows it means nothing.
    pub(super) closed: bool,
}

/// rustls' side of a stream.
pub(super) struct Session(UnbufferedServerConnection);

impl Session {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        UnbufferedServerConnection::new(config).map(Self)
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Whether all that this side has to say behind its answer to the client's last flight are tickets: in TLS 1.3.
    pub(super) fn has_only_tickets_to_say(&self) -> bool {
        !self.0.is_handshaking() && self.0.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Processes the records at the front of `ciphertext` until more is needed: plaintext goes to `deliver`,
    /// and what is to be sent is appended to `sealed`.
    pub(super) fn receive(
        &mut self,
        ciphertext: &mut [u8],
        sealed: &mut Pending,
        mut deliver: impl FnMut(&[u8]),
    ) -> Result<Received, Error> {
        let mut received = Received { used: 0, closed: false };
        loop {
            let UnbufferedStatus { mut discard, state } =
                self.0.process_tls_records(&mut ciphertext[received.used..]);
            let waits = match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        deliver(record.payload);
                    }
                    false
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    sealed.append(|room| data.encode(room))?;
                    false
                }
                // `sealed` holds it, and goes out before anything that is written later.
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                ConnectionState::PeerClosed => {
                    received.closed = true;
                    false
                }
                ConnectionState::BlockedHandshake
                | ConnectionState::WriteTraffic(_)
                | ConnectionState::Closed => true,
                ConnectionState::ReadEarlyData(_) => return Err(unexpected("0-RTT data, never offered")),
                _ => return Err(unexpected("a state unknown to wsgate")),
            };
            received.used += discard;
            if waits {
                return Ok(received);
            }
        }
    }

    /// Seals `plaintext` into the front of `records`, which grows as needed, and returns the length.
    ///
    /// `held` is the ciphertext that waits for its rest: rustls finds its place in it again.
    pub(super) fn seal(
        &mut self,
        held: &mut [u8],
        plaintext: &[u8],
        records: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        let ConnectionState::WriteTraffic(mut traffic) = self.0.process_tls_records(held).state? else {
            return Err(unexpected("a write in the wrong state"));
        };
        loop {
            match traffic.encrypt(plaintext, records).map_err(Misfit::from) {
                Ok(count) => return Ok(count),
                Err(Misfit::Short(size)) => records.resize(size, 0),
                Err(Misfit::Failed(error)) => return Err(error),
            }
        }
    }

    /// Appends the alert that goes with the error that ended the session, if there is one.
    pub(super) fn encode_alert(&mut self, sealed: &mut Pending) {
        // Asked without input, rustls only hands out what it has queued. Past that it would look for the rest
        // of a message in the empty input.
        while self.0.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut data)) = self.0.process_tls_records(&mut []).state
            else {
                return;
            };
            if sealed.append(|room| data.encode(room)).is_err() {
                return;
            }
        }
    }

    /// Appends `close_notify`, behind what rustls may still have queued.
    pub(super) fn encode_close_notify(&mut self, held: &mut [u8], sealed: &mut Pending) -> Result<(), Error> {
        self.receive(held, sealed, |_| ())?;
        match self.0.process_tls_records(held).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                sealed.append(|room| traffic.queue_close_notify(room))
            }
            // rustls has closed by itself: its keys were used up.
            _ => Ok(()),
        }
    }

    pub(super) fn info(&self, sni: Option<Box<str>>) -> TlsInfo {
        let suite = self.0.negotiated_cipher_suite().map(|suite| suite.suite());
        TlsInfo {
            version: self.0.protocol_version().map_or("", version_name),
            cipher_suite: suite.map_or("", suite_name),
            key_exchange_group: self
                .0
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str()),
            sni,
            alpn: self.0.alpn_protocol().map(|_| store::ALPN),
            resumed: self.0.handshake_kind() == Some(HandshakeKind::Resumed),
            client: None,
        }
    }

    /// Whether an earlier session is about to be resumed: the client has asked for it and not yet been answered.
    pub(super) fn resumes(&self) -> bool {
        self.0.is_handshaking() && self.0.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether the client of this session may come in now.
    pub(super) fn judge(&self, clients: &dyn ClientCertVerifier) -> Result<(), Error> {
        match self.0.peer_certificates().and_then(<[_]>::split_first) {
            Some((leaf, issuers)) => {
                clients.verify_client_cert(leaf, issuers, UnixTime::now()).map(|_verified| ())
            }
            None if clients.client_auth_mandatory() => Err(Error::NoCertificatesPresented),
            None => Ok(()),
        }
    }

    pub(super) fn client_certificate(&self) -> Option<Box<ClientCertificate>> {
        let leaf = self.0.peer_certificates()?.first()?;
        Some(Box::new(ClientCertificate::describe(leaf)))
    }
}

/// A state of rustls that this file's way of driving it excludes.
fn unexpected(what: &str) -> Error {
    Error::General(what.into())
}
