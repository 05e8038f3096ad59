//! Host names become addresses here, at start-up: a core's thread never waits for a name server.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use thiserror::Error;

/// Why an address is of no use.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// The text is not `host:port`, or the name server did not answer for the host.
    #[error("cannot resolve {address:?}: {source}; give HOST:PORT or IP:PORT")]
    Failed {
        /// What was asked for.
        address: String,
        /// What the system's resolver said.
        source: io::Error,
    },
    /// The name exists and has no address.
    #[error("{address:?} has no address")]
    Nothing {
        /// What was asked for.
        address: String,
    },
}

/// All addresses of `host:port`, in the resolver's order; never empty. Blocking: may wait for a name
/// server, so it is for start-up only.
///
/// # Errors
/// See [`ResolveError`].
pub fn resolve(address: &str) -> Result<Vec<SocketAddr>, ResolveError> {
    let found: Vec<_> = address
        .to_socket_addrs()
        .map_err(|source| ResolveError::Failed { address: address.to_owned(), source })?
        .collect();
    if found.is_empty() {
        return Err(ResolveError::Nothing { address: address.to_owned() });
    }
    Ok(found)
}

/// The address in `ip:port` or `localhost:port`, without asking anybody.
pub(super) fn parse(address: &str) -> io::Result<SocketAddr> {
    let local = address.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    local.as_deref().unwrap_or(address).parse().map_err(|_| {
        let message = format!("{address:?} is not IP:PORT; resolve host names before");
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn literal_addresses_and_localhost_need_no_resolver() {
        assert_eq!(parse("127.0.0.1:80").unwrap().port(), 80);
        assert_eq!(parse("[::1]:80").unwrap().port(), 80);
        assert!(parse("localhost:7001").unwrap().ip().is_loopback());
        for bad in ["", "localhost", "localhost:", "127.0.0.1", "1.2.3.4:99999", "example.org:80"] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad}");
            assert!(error.to_string().contains("IP:PORT"), "{error}");
        }
    }

    #[test]
    fn a_bad_address_names_itself() {
        let error = resolve("no port here").unwrap_err().to_string();
        assert!(error.contains("no port here") && error.contains("HOST:PORT"), "{error}");
        assert!(!resolve("localhost:1").unwrap().is_empty());
    }
}
