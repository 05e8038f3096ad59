//! The admin port of a node: how it is, who belongs to its shards, and how to change that.
//!
//! A listener of its own with plain threads, beside the cores and their clients: it answers as long as the process
//! lives, whatever the cores do, and a core is only asked through its mailbox. What is said is in [`protocol`];
//! `coraclectl` (in `tools/`) says it.
//!
//! **Whoever reaches the port administers the cluster:** there is no authentication. It listens on the loopback
//! interface unless told otherwise, and a connection whose first line is no request is closed, so that a web page
//! cannot make a browser on the same machine talk to it.

mod answer;
pub mod limits;
mod members;
pub mod protocol;
mod server;
mod settings;
mod wait;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;

pub(crate) use server::AdminServer;
pub use settings::SETTINGS;

/// Where the admin port of the server is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum AdminAddress {
    /// On 127.0.0.1, 2000 above the client port of core 0.
    #[default]
    Default,
    /// Nowhere.
    Off,
    /// At this `host:port`; port 0 is any that is free, which the log tells.
    At(String),
}

impl FromStr for AdminAddress {
    type Err = String;

    /// Reads `HOST:PORT` or `off`.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "off" {
            return Ok(Self::Off);
        }
        let parts = text.rsplit_once(':');
        match parts.map(|(host, port)| (host, port.parse::<u16>())) {
            Some((host, Ok(_))) if !host.is_empty() => Ok(Self::At(text.to_owned())),
            _ => Err(format!("the admin address '{text}' is neither HOST:PORT nor off")),
        }
    }
}

impl TryFrom<String> for AdminAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The log filter of the process, as an admin port changes it.
pub trait LogFilter: Send + Sync {
    /// The filter that holds now.
    fn get(&self) -> String;

    /// Takes another filter.
    ///
    /// # Errors
    /// Why it makes no sense; the one before stays.
    fn set(&self, filter: &str) -> Result<(), String>;
}

/// What an admin port may do beside its node.
#[derive(Clone, Default)]
pub struct AdminOptions {
    /// The log filter, if it can be changed.
    pub log: Option<Arc<dyn LogFilter>>,
}

impl fmt::Debug for AdminOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminOptions").field("log", &self.log.is_some()).finish()
    }
}

#[cfg(test)]
mod tests;
