//! A CA and leaves, made anew for each test that needs them.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tempfile::TempDir;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::{Peer, soon};

/// A leaf's files.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub der: CertificateDer<'static>,
}

/// A CA, its leaves in a folder of their own, and clients that trust it.
pub struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
    made: Mutex<usize>,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Pki {
    pub fn new() -> Arc<Self> {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("a CA");
        Arc::new(Self { ca, folder: tempfile::tempdir().expect("a folder"), made: Mutex::new(0) })
    }

    /// The certificate of the CA, as a file.
    pub fn ca_file(&self) -> PathBuf {
        let path = self.folder.path().join("ca.crt");
        fs::write(&path, self.ca.pem()).expect("a file");
        path
    }

    /// A leaf for this name.
    pub fn leaf(&self, name: &str) -> Leaf {
        self.leaf_until(name, 4000)
    }

    /// A leaf for this name that expires with the beginning of this year.
    pub fn leaf_until(&self, name: &str, year: i32) -> Leaf {
        self.leaf_with(name, |params| params.not_after = rcgen::date_time_ymd(year, 1, 1))
    }

    /// A leaf for this name, changed by `change`.
    pub fn leaf_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let number = {
            let mut made = self.made.lock().expect("no panic");
            *made += 1;
            *made
        };
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        change(&mut params);
        let cert = params.signed_by(&key, &self.ca).expect("a leaf");
        let path = |end: &str| self.folder.path().join(format!("leaf{number}.{end}"));
        let leaf = Leaf { cert: path("crt"), key: path("key"), der: cert.der().clone() };
        fs::write(&leaf.cert, cert.pem()).expect("a file");
        fs::write(&leaf.key, key.serialize_pem()).expect("a file");
        leaf
    }

    /// A server of these versions with this leaf, that asks for a client certificate of the CA if it is told so.
    pub fn server_config(
        &self,
        leaf: &Leaf,
        versions: &[&'static rustls::SupportedProtocolVersion],
        asks: bool,
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("versions");
        let builder = if asks {
            let mut roots = RootCertStore::empty();
            roots.add(self.ca.der().clone()).expect("a CA");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_file(&leaf.key).expect("a key");
        let mut config = builder.with_single_cert(vec![leaf.der.clone()], key).expect("a leaf");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// The file of the CA's certificate.
    pub fn ca(&self) -> PathBuf {
        let path = self.folder.path().join("ca.crt");
        fs::write(&path, self.ca.pem()).expect("a file");
        path
    }

    /// Takes a client through the TLS handshake, as the server of this leaf.
    pub async fn serve(leaf: &Leaf, peer: Peer) -> std::io::Result<Peer> {
        let key = PrivateKeyDer::from_pem_file(&leaf.key).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der.clone()], key)
            .expect("a leaf");
        let accept = TlsAcceptor::from(Arc::new(config)).accept(peer.into_tcp());
        Ok(Peer::from(TlsStream::from(soon("a TLS handshake", accept).await?)))
    }

    /// A client of these versions that trusts the CA.
    pub fn client_config_of(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).expect("a CA");
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// A client of TLS 1.3 that trusts the CA and exchanges keys in this way alone.
    pub fn client_config_of_group(
        &self,
        group: &'static dyn rustls::crypto::SupportedKxGroup,
    ) -> ClientConfig {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![group];
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a version")
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).expect("a CA");
        roots
    }

    /// An authority that this one vouches for, and that may vouch for no further one.
    pub fn intermediate(&self) -> Arc<Self> {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(rcgen::DnType::CommonName, "intermediate");
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::signed_by(params, key, &self.ca).expect("a CA");
        Arc::new(Self { ca, folder: tempfile::tempdir().expect("a folder"), made: Mutex::new(0) })
    }

    /// The certificate of the CA.
    pub fn ca_der(&self) -> CertificateDer<'static> {
        self.ca.der().clone()
    }

    /// A client of these versions that trusts the CA and shows `leaf`, and these others with it, to whoever asks.
    pub fn client_config_with(
        &self,
        leaf: &Leaf,
        issuers: &[CertificateDer<'static>],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        let key = PrivateKeyDer::from_pem_file(&leaf.key).expect("a key");
        let signer = aws_lc_rs::default_provider().key_provider.load_private_key(key).expect("a key");
        let certified = CertifiedKey::new([&[leaf.der.clone()], issuers].concat(), signer);
        let mut config = self.client_config_of(versions);
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        config
    }

    /// A client that trusts the CA and speaks TLS 1.2 and 1.3.
    pub fn client_config(&self) -> ClientConfig {
        self.client_config_of(rustls::ALL_VERSIONS)
    }

    /// A client that has come through the TLS handshake.
    pub async fn client(&self, address: SocketAddr, name: &str, config: &ClientConfig) -> Peer {
        self.try_client(address, name, config).await.expect("a TLS handshake")
    }

    /// The same, which may fail.
    pub async fn try_client(
        &self,
        address: SocketAddr,
        name: &str,
        config: &ClientConfig,
    ) -> std::io::Result<Peer> {
        let stream = Peer::dial(address).await.into_tcp();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connect = TlsConnector::from(Arc::new(config.clone())).connect(name, stream);
        let stream = soon("a TLS handshake", connect).await?;
        Ok(Peer::from(TlsStream::from(stream)))
    }

    /// Takes a client of `localhost` through the TLS handshake.
    pub async fn secure(&self, peer: Peer) -> Peer {
        let connector = TlsConnector::from(Arc::new(self.client_config()));
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = soon("a TLS handshake", connector.connect(name, peer.into_tcp())).await;
        Peer::from(TlsStream::from(stream.expect("a TLS handshake")))
    }
}
