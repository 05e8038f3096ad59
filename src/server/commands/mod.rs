//! Commands: the table, and how the arguments of each become a query or a proposal.
//!
//! Everything that can be decided from the arguments alone is decided here, before anything enters a
//! log: arity, options, numbers, slots. What reaches the state machine is well formed.

mod error;
mod keys;
mod spec;
mod strings;
mod table;

pub mod config;
pub mod info;
pub mod introspect;

#[cfg(test)]
mod tests;

pub use error::CommandError;
pub use keys::{ScanRequest, scan};
pub use spec::{Fan, Handler, Local, ParseFn, Spec, Sub, Subcommand, all, find};

use super::kv::op::Encoder;
use super::resp::{Args, parse_i64};

/// What parsing needs besides the arguments.
#[derive(Debug)]
pub struct Parse<'a> {
    /// Builds the payload.
    pub encoder: &'a mut Encoder,
    /// The clock, milliseconds since 1970; only for checking that deadlines can be expressed.
    pub now_ms: u64,
    /// Set when the payload may give a key a new deadline.
    pub sets_expiry: bool,
}

/// Bytes of a refused name or argument that are quoted in the error.
const QUOTED_BYTES_MAX: usize = 128;

/// Text for an error reply: printable, not too long.
#[must_use]
pub fn quoted(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTED_BYTES_MAX)])
        .replace(|c: char| c.is_control(), " ")
}

/// The refusal of an unknown command.
#[must_use]
pub fn unknown(args: Args<'_>) -> CommandError {
    let mut beginning = String::new();
    for arg in args.from(1).iter() {
        if beginning.len() >= QUOTED_BYTES_MAX {
            break;
        }
        beginning.push_str(&format!("'{}' ", quoted(arg)));
    }
    CommandError::Unknown { name: quoted(&args[0]), args: beginning }
}

/// The subcommand that `args` name.
///
/// # Errors
/// If there is no such subcommand or the number of arguments does not fit.
pub fn find_sub(
    spec: &Spec,
    subcommands: &[Subcommand],
    args: Args<'_>,
) -> Result<Sub, CommandError> {
    let Some(name) = args.get(1) else {
        // Only COMMAND may stand alone: its arity says so.
        return Ok(Sub::CommandInfo);
    };
    let found = subcommands
        .iter()
        .find(|subcommand| subcommand.name.as_bytes().eq_ignore_ascii_case(name))
        .ok_or_else(|| CommandError::UnknownSubcommand {
            name: quoted(name),
            container: spec.name.to_ascii_uppercase(),
        })?;
    if !found.takes(args.len()) {
        return Err(CommandError::WrongArity(format!("{}|{}", spec.name, found.name)));
    }
    Ok(found.sub)
}

fn integer(text: &[u8]) -> Result<i64, CommandError> {
    parse_i64(text).ok_or(CommandError::NotAnInteger)
}

/// Whether an option is `name`, in any case.
fn is(option: &[u8], name: &str) -> bool {
    option.eq_ignore_ascii_case(name.as_bytes())
}
