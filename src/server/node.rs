//! The server as a node: the key-value state machine on every shard, clients on every core.

use super::{Kv, Server, ServerOptions, Stop};
use crate::node::{NodeBuilder, ServiceContext};
use crate::{Config, Node, StartError};

/// Describes a node that serves Redis clients; more can be asked of it before it is started.
pub fn builder(config: Config) -> NodeBuilder {
    let clients_max = config.clients_max;
    Node::builder(config, |_shard| Box::new(Kv::default()))
        .service(move |context| serve_core(context, clients_max))
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
    let stop = Stop::new();
    let options = ServerOptions { clients_max, stop: stop.clone(), ..ServerOptions::default() };
    let address = listener.address().to_string();
    let server = Server::on(listener, address, env, core.clone(), options);
    let serving = server.run();
    let stopping = async {
        core.stopping().await;
        stop.order();
    };
    futures_util::future::join(serving, stopping).await;
}
