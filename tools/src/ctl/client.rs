//! One connection to an admin port.

use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use coracle::NodeId;
use coracle::admin::limits::{REPLY_BYTES_MAX, WAIT_MAX};
use coracle::admin::protocol::{Answer, Envelope, Failure, FailureKind, Reply, Request};
use thiserror::Error;

/// Longest time for a connection to come up: it does at once, or nobody is there.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Time that an answer may take beyond what the request waits for.
const ANSWER_MARGIN: Duration = Duration::from_secs(3);

/// Why a request has no good answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CallError {
    /// The node was not reached: nothing was done.
    #[error("{address}: {reason}")]
    Unreached {
        /// Where it was looked for.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The connection broke, or the answer makes no sense: it may have been done.
    #[error("{address}: {reason}")]
    Broken {
        /// Where the node is.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The node says no.
    #[error("{}", .0.message)]
    Failed(Failure),
}

impl CallError {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Unreached { .. } => FailureKind::NotYet,
            Self::Broken { .. } => FailureKind::Unknown,
            Self::Failed(failure) => failure.kind,
        }
    }
}

/// Whom requests on a connection are for.
#[derive(Clone, Debug, Default)]
pub struct Recipient {
    /// The cluster; any other refuses.
    pub cluster: Option<String>,
    /// The node; any other refuses.
    pub node: Option<NodeId>,
}

/// A connection to the admin port of a node.
#[derive(Debug)]
pub struct AdminClient {
    address: String,
    recipient: Recipient,
    stream: BufReader<TcpStream>,
}

impl AdminClient {
    /// Connects to `address`.
    ///
    /// # Errors
    /// [`CallError::Unreached`] after two seconds at most for each address of the host.
    pub fn connect(address: &str, recipient: Recipient) -> Result<Self, CallError> {
        let unreached = |error: io::Error| CallError::Unreached {
            address: address.to_owned(),
            reason: error.to_string(),
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for found in address.to_socket_addrs().map_err(unreached)? {
            match TcpStream::connect_timeout(&found, CONNECT_MAX) {
                Ok(stream) => {
                    // Requests are single writes; without this the kernel may hold one back.
                    stream.set_nodelay(true).map_err(unreached)?;
                    let stream = BufReader::new(stream);
                    return Ok(Self { address: address.to_owned(), recipient, stream });
                }
                Err(error) => last = error,
            }
        }
        Err(unreached(last))
    }

    /// Has the node do something; it waits for the outcome for `wait`, ten minutes at most.
    ///
    /// # Errors
    /// [`CallError`]. After [`CallError::Broken`] the connection is of no use any more.
    pub fn call(&mut self, request: Request, wait: Duration) -> Result<Answer, CallError> {
        let wait = wait.min(WAIT_MAX);
        let mut envelope = Envelope::new(request);
        envelope.cluster.clone_from(&self.recipient.cluster);
        envelope.node = self.recipient.node.map(|node| node.0);
        envelope.wait_ms = u64::try_from(wait.as_millis()).ok();
        match self.exchange(&envelope, wait + ANSWER_MARGIN) {
            Ok(Reply::Ok(answer)) => Ok(answer),
            Ok(Reply::Error(failure)) => Err(CallError::Failed(failure)),
            Err(error) => {
                let reason = match error.kind() {
                    io::ErrorKind::WouldBlock => "there is no answer".to_owned(),
                    _ => error.to_string(),
                };
                Err(CallError::Broken { address: self.address.clone(), reason })
            }
        }
    }

    fn exchange(&mut self, envelope: &Envelope, patience: Duration) -> io::Result<Reply> {
        let mut line = serde_json::to_vec(envelope)?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        stream.set_write_timeout(Some(patience))?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&line)?;
        line.clear();
        let mut bounded = self.stream.by_ref().take(REPLY_BYTES_MAX as u64);
        bounded.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"));
        }
        serde_json::from_slice(&line).map_err(|error| {
            let what = format!("this is no answer of an admin port: {error}");
            io::Error::new(io::ErrorKind::InvalidData, what)
        })
    }
}

/// An answer to another question: the node is not what it should be.
#[must_use]
pub fn unexpected(address: &str) -> CallError {
    let reason = "the answer is to another question".to_owned();
    CallError::Broken { address: address.to_owned(), reason }
}
