//! How to make clients trust the development CA.

use std::path::Path;

use wsgate::tls::development::Issued;

/// For the server's certificate: tools first, then the stores of systems and browsers.
pub(super) fn server(issued: &Issued) -> String {
    let ca = shell(&issued.ca);
    let name =
        issued.identity.names.iter().find(|name| !name.starts_with('*')).map_or("localhost", String::as_str);
    let host = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
    format!(
        "\
Use it in proxy.toml:
  tls = {{ cert = \"{cert}\", key = \"{key}\" }}

Clients have to trust the CA, and only it, once:
  curl               curl --cacert {ca} https://{host}:8443/
  wscat              wscat --ca {ca} -c wss://{host}:8443/
  Node.js            NODE_EXTRA_CA_CERTS={ca} node app.js
  Debian, Ubuntu     sudo cp {ca} /usr/local/share/ca-certificates/wsgate.crt && sudo update-ca-certificates
  Fedora, RHEL       sudo cp {ca} /etc/pki/ca-trust/source/anchors/wsgate.crt && sudo update-ca-trust
  macOS              sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain {ca}
  Windows            certutil -addstore -f Root {ca}    (as administrator)
  Chrome on Linux    certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n wsgate -i {ca}
                     (package libnss3-tools or nss-tools; then restart the browser)
  Firefox            Settings > Privacy & Security > View Certificates > Authorities > Import
Chrome on macOS and Windows asks the system. To undo it, remove `wsgate development CA` where you put it.
",
        cert = issued.identity.cert.display(),
        key = issued.identity.key.display(),
    )
}

/// For a client's certificate.
pub(super) fn client(issued: &Issued) -> String {
    let [ca, cert, key] = [&issued.ca, &issued.identity.cert, &issued.identity.key].map(|path| shell(path));
    format!(
        "\
The server has to trust the CA {ca}, and the client shows its certificate:
  curl               curl --cacert {ca} --cert {cert} --key {key} https://localhost:8443/
  wscat              wscat --ca {ca} --cert {cert} --key {key} -c wss://localhost:8443/
  browsers           import the file that this makes (it asks for a password):
                     openssl pkcs12 -export -in {cert} -inkey {key} -out client.p12
"
    )
}

/// A path as one word of a shell's command.
pub(super) fn shell(path: &Path) -> String {
    let text = path.display().to_string();
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._@+-=:".contains(&byte)) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_for_a_shell() {
        assert_eq!(shell(Path::new("certs/ca.crt")), "certs/ca.crt");
        assert_eq!(shell(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
