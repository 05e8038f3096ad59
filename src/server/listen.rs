//! The listening socket of a core, its housekeeping, and its end.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use coracle_engine::core::CoreHandle;
use coracle_engine::env::{Env, Listener, StreamWriter};
use futures_util::future::{Either, select};
use thiserror::Error;
use tracing::{debug, info, warn};

use super::connection::{self, Registration};
use super::expiry;
use super::limits::{
    ACCEPT_RETRY, CLIENTS_PER_CORE_MAX, DRAIN_MAX, HOUSEKEEPING_PERIOD, LINGER_MAX, SLOW_READER_MAX,
};
use super::refusal;
use super::state::{Client, Shared, add};

/// How a core serves its clients.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Host to listen at; the member's own client host unless given.
    pub bind_host: Option<String>,
    /// Clients at the same time; further ones are refused with an error.
    pub clients_max: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { bind_host: None, clients_max: CLIENTS_PER_CORE_MAX }
    }
}

/// The server could not start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The core does not know its own address.
    #[error("node {0} is not in its own list of members; add it with --member")]
    NotAMember(coracle_engine::NodeId),
    /// The port of this core does not exist.
    #[error("client port {port} + core {core} is above 65535; choose a lower client port")]
    NoSuchPort {
        /// Client port of core 0.
        port: u16,
        /// This core.
        core: coracle_engine::CoreId,
    },
    /// The address can't be listened at.
    #[error("cannot listen for clients at {address}: {source}; is another server using the port?")]
    Listen {
        /// The address.
        address: String,
        /// What the system says.
        source: io::Error,
    },
}

/// A core's server that listens already but takes no connection yet.
pub struct Server<E: Env> {
    shared: Rc<Shared<E>>,
    listener: E::Listener,
}

impl<E: Env> Server<E> {
    /// Listens at the core's client port: that of core 0 plus the number of the core.
    ///
    /// # Errors
    /// [`ServeError`] if it can't.
    pub async fn bind(
        env: E,
        core: CoreHandle,
        options: ServerOptions,
    ) -> Result<Self, ServeError> {
        let address = own_address(&core, &options)?;
        match env.listen(&address).await {
            Ok(listener) => Ok(Self::on_listener(env, core, listener, options)),
            Err(source) => Err(ServeError::Listen { address, source }),
        }
    }

    /// Serves on a listener that is bound already.
    pub fn on_listener(
        env: E,
        core: CoreHandle,
        listener: E::Listener,
        options: ServerOptions,
    ) -> Self {
        let address = own_address(&core, &options).unwrap_or_default();
        Self { shared: Rc::new(Shared::new(env, core, options, address)), listener }
    }

    /// Serves until `stopping` resolves, then answers what it has taken in, for a bounded time, and
    /// ends.
    pub async fn run(self, stopping: impl Future<Output = ()>) {
        let Self { shared, listener } = self;
        let mut stopping = pin!(stopping);
        info!(address = %shared.address, "serving clients");
        shared.env.spawn(keep_house(shared.clone()));
        loop {
            let accepting = pin!(listener.accept());
            let Either::Right((accepted, _)) = select(stopping.as_mut(), accepting).await else {
                break;
            };
            match accepted {
                Ok((reader, writer, address)) => accept(&shared, reader, writer, address),
                Err(error) => {
                    // Such as no file descriptor left: clients that leave will free one.
                    warn!(%error, "cannot accept a client, trying again");
                    shared.env.sleep(ACCEPT_RETRY).await;
                }
            }
        }
        shared.stopping.set(true);
        drop(listener);
        drain(&shared).await;
    }
}

fn own_address(core: &CoreHandle, options: &ServerOptions) -> Result<String, ServeError> {
    let view = core.view();
    let member = view.member(view.node).ok_or(ServeError::NotAMember(view.node))?;
    let port = member
        .client_port
        .checked_add(view.core.0)
        .ok_or(ServeError::NoSuchPort { port: member.client_port, core: view.core })?;
    let host = options.bind_host.as_ref().unwrap_or(&member.client_host);
    Ok(format!("{host}:{port}"))
}

fn accept<E: Env>(
    shared: &Rc<Shared<E>>,
    reader: E::Reader,
    mut writer: E::Writer,
    address: String,
) {
    add(&shared.stats.connections, 1);
    if shared.clients.borrow().len() >= shared.options.clients_max {
        add(&shared.stats.rejected, 1);
        shared.env.spawn(async move {
            let mut reply: Vec<Bytes> = vec![refusal::error("ERR max number of clients reached")];
            // It was to be closed in any case.
            let _ = writer.write_all(&mut reply).await;
            drop(reader);
        });
        return;
    }
    let id = shared.next_client.replace(shared.next_client.get() + 1);
    let client = Rc::new(Client::new(id, address, shared.env.now()));
    shared.clients.borrow_mut().insert(id, client.clone());
    debug!(id, address = %client.address, "client connected");
    let registration = Rc::new(Registration { server: shared.clone(), client });
    shared.env.spawn(connection::run(registration, reader, writer));
}

async fn drain<E: Env>(shared: &Rc<Shared<E>>) {
    let clients: Vec<_> = shared.clients.borrow().values().cloned().collect();
    info!(address = %shared.address, clients = clients.len(), "stopping");
    clients.iter().for_each(|client| client.drain());
    let all_left = shared.client_left.until(|| shared.clients.borrow().is_empty());
    let deadline = shared.env.sleep(DRAIN_MAX);
    if let Either::Right(_) = select(pin!(all_left), pin!(deadline)).await {
        let left = shared.clients.borrow().len();
        warn!(left, "clients did not take their last replies in time, closing them");
    }
    // Also those whose tasks wait for an answer that never comes.
    let left: Vec<_> = shared.clients.borrow().values().cloned().collect();
    left.iter().for_each(|client| client.kill());
}

/// Removes due keys and disconnects clients that take nothing, until the server stops.
async fn keep_house<E: Env>(shared: Rc<Shared<E>>) {
    while !shared.stopping.get() {
        shared.env.sleep(HOUSEKEEPING_PERIOD).await;
        check_clients(&shared);
        expiry::remove_due(&shared).await;
    }
    // Draining goes on for a while; slow and lingering clients are closed by its own deadline.
}

fn check_clients<E: Env>(shared: &Shared<E>) {
    let now = shared.env.now();
    let overdue: Vec<_> = shared
        .clients
        .borrow()
        .values()
        .filter(|client| {
            let since = |start: Option<_>| start.map(|start| now.saturating_sub(start));
            since(client.writing_since.get()).is_some_and(|time| time >= SLOW_READER_MAX)
                || since(client.lingering_since.get()).is_some_and(|time| time >= LINGER_MAX)
        })
        .cloned()
        .collect();
    for client in overdue {
        debug!(id = client.id, address = %client.address, "closing a client that takes nothing");
        client.kill();
    }
}
