//! What to do when an address cannot be bound.

use std::io;

use wsgate::config::ListenAddress;

/// Why `address` cannot be bound, and what to do about it.
pub(super) fn on_bind(address: &ListenAddress, error: &io::Error) -> String {
    match address {
        ListenAddress::Unix(path) => format!("cannot listen on unix:{}: {error}", path.display()),
        ListenAddress::Inet(address) => {
            let port = address.port();
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied if port < 1024 => low_port(port),
                io::ErrorKind::AddrInUse => format!(
                    "\n  help: another program listens there; `ss -ltnp 'sport = :{port}'` shows which one"
                ),
                io::ErrorKind::AddrNotAvailable => format!(
                    "\n  help: {} is no address of this machine; `ip address` lists them, and {} stands for all",
                    address.ip(),
                    if address.is_ipv4() { "0.0.0.0" } else { "[::]" },
                ),
                _ => String::new(),
            };
            format!("cannot listen on {address}: {error}{advice}")
        }
    }
}

fn low_port(port: u16) -> String {
    let above = match port {
        443 => 8443,
        80 => 8080,
        port => 8000 + port,
    };
    format!(
        "
  help: ports below 1024 need a right that this user lacks; any of these gives it:
  help: - for this program: sudo setcap cap_net_bind_service=+ep \"$(command -v wsgate)\"
  help: - in a systemd unit: AmbientCapabilities=CAP_NET_BIND_SERVICE
  help: - for all programs: sudo sysctl net.ipv4.ip_unprivileged_port_start={port}
  help: or listen on a port above, such as {above}, and redirect {port} to it in the firewall"
    )
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn advice(address: &str, kind: io::ErrorKind) -> String {
        on_bind(&ListenAddress::Inet(address.parse().unwrap()), &kind.into())
    }

    #[test]
    fn a_low_port_without_the_right_names_every_way_to_get_it() {
        let text = advice("0.0.0.0:443", io::ErrorKind::PermissionDenied);
        let parts =
            ["0.0.0.0:443", "setcap", "AmbientCapabilities", "ip_unprivileged_port_start=443", "8443"];
        for part in parts {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!advice("0.0.0.0:8443", io::ErrorKind::PermissionDenied).contains("setcap"));
    }

    #[test]
    fn a_port_in_use_says_how_to_find_its_user() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = TcpListener::bind(address).unwrap_err();
        let text = on_bind(&ListenAddress::Inet(address), &error);
        assert!(text.contains(&format!("ss -ltnp 'sport = :{}'", address.port())), "{text}");
    }

    #[test]
    fn an_address_of_another_machine_says_so() {
        let text = advice("192.0.2.1:8443", io::ErrorKind::AddrNotAvailable);
        assert!(text.contains("192.0.2.1 is no address of this machine"), "{text}");
    }

    #[test]
    fn a_unix_socket_is_named() {
        let address = ListenAddress::Unix("/run/a.sock".into());
        let text = on_bind(&address, &io::ErrorKind::AddrInUse.into());
        assert!(text.starts_with("cannot listen on unix:/run/a.sock: "), "{text}");
    }
}
