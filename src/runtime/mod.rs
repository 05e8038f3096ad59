//! The outside world of a core: a pinned executor, sockets, clock and randomness, over glommio.
//!
//! [`preflight::prepare`] runs once at start and says in words why a host cannot run cores.
//! [`resolve`] turns host names into addresses before any core runs. [`spawn_core`] starts one
//! executor on a thread of its own and hands its task a [`GlommioEnv`].

mod core;
mod env;
mod net;
pub mod preflight;
mod resolve;
pub(crate) mod tasks;
mod turn;

pub use self::core::{CoreHandle, CoreSpec, IO_MEMORY_BYTES, RuntimeError, spawn_core};
pub use env::GlommioEnv;
pub use net::{TcpListener, TcpReader, TcpWriter};
pub use preflight::allowed_cpus;
pub use resolve::{ResolveError, resolve};
pub(crate) use turn::Turns;

#[cfg(test)]
mod tests;
