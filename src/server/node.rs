//! The server as a node: the key-value state machine on every shard, clients on every core.

use super::{KvSessions, Server, ServerOptions};
use crate::node::{NodeBuilder, ServiceContext};
use crate::{Config, Node, StartError};

/// Describes a node that serves Redis clients and has the admin port of its configuration; more can be asked of it before it is started.
pub fn builder(config: Config) -> NodeBuilder {
    let (clients_max, admin) = (config.clients_max, config.admin_address());
    let node = Node::builder(config, |_shard| Box::new(KvSessions::default()))
        .service(move |context| serve_core(context, clients_max));
    match admin {
        Some(address) => node.admin(address),
        None => node,
    }
}

/// Starts a node that serves Redis clients.
///
/// # Errors
/// As [`NodeBuilder::start`].
pub fn start(config: Config) -> Result<Node, StartError> {
    builder(config).start()
}

async fn serve_core(context: ServiceContext, clients_max: usize) {
    let ServiceContext { env, core, listener } = context;
    let options = ServerOptions { clients_max, ..ServerOptions::default() };
    Server::on_listener(env, core.clone(), listener, options).run(core.stopping()).await;
}
