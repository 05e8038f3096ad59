//! Why a command is refused before it reaches a shard; the texts are those of Redis.

use thiserror::Error;

/// A refusal. Its text is the error reply, code included.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CommandError {
    /// There is no such command.
    #[error("ERR unknown command '{name}', with args beginning with: {args}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The first arguments in quotes.
        args: String,
    },
    /// There is no such subcommand.
    #[error("ERR unknown subcommand '{name}'. Try {container} HELP.")]
    UnknownSubcommand {
        /// What was asked for.
        name: String,
        /// The command in upper case.
        container: String,
    },
    /// Too few or too many arguments.
    #[error("ERR wrong number of arguments for '{0}' command")]
    WrongArity(String),
    /// The keys belong to different slots.
    #[error("CROSSSLOT Keys in request don't hash to the same slot")]
    CrossSlot,
    /// Options that don't exist or don't go together.
    #[error("ERR syntax error")]
    Syntax,
    /// An argument should be an integer.
    #[error("ERR value is not an integer or out of range")]
    NotAnInteger,
    /// An argument should be a number.
    #[error("ERR value is not a valid float")]
    NotAFloat,
    /// A sum that can't be finite.
    #[error("ERR increment would produce NaN or Infinity")]
    NotFinite,
    /// `DECRBY` by the smallest integer.
    #[error("ERR decrement would overflow")]
    DecrementOverflow,
    /// A time that is not positive or too far off.
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpire(&'static str),
    /// `SETRANGE` at a negative offset.
    #[error("ERR offset is out of range")]
    OffsetOutOfRange,
    /// Conditions of `EXPIRE` that exclude each other.
    #[error("ERR NX and XX, GT or LT options at the same time are not compatible")]
    ExpireNx,
    /// Conditions of `EXPIRE` that exclude each other.
    #[error("ERR GT and LT options at the same time are not compatible")]
    ExpireGtLt,
    /// An option that `EXPIRE` does not have.
    #[error("ERR Unsupported option {0}")]
    UnsupportedOption(String),
    /// `COPY` of a key to itself.
    #[error("ERR source and destination objects are the same")]
    SameObject,
    /// `COPY` with another database.
    #[error("ERR Copying to another database is not allowed in cluster mode")]
    CopyToDatabase,
    /// A cursor that `SCAN` did not give.
    #[error("ERR invalid cursor")]
    InvalidCursor,
    /// Another database than 0.
    #[error("ERR SELECT is not allowed in cluster mode")]
    Select,
    /// A login, which nothing here asks for.
    #[error(
        "ERR AUTH <password> called without any password configured for the default user. Are you \
         sure your configuration is correct?"
    )]
    NoPassword,
    /// A login that can't succeed.
    #[error("WRONGPASS invalid username-password pair or user is disabled.")]
    WrongPassword,
    /// A version of RESP that does not exist.
    #[error("NOPROTO unsupported protocol version")]
    NoProtocol,
    /// A version of RESP that is no number.
    #[error("ERR Protocol version is not an integer or out of range")]
    ProtocolNotAnInteger,
    /// An option that `HELLO` does not have.
    #[error("ERR Syntax error in HELLO option '{0}'")]
    HelloOption(String),
    /// A name with unprintable characters.
    #[error("ERR Client names cannot contain spaces, newlines or special characters.")]
    ClientName,
    /// A library name or version with unprintable characters.
    #[error("ERR {0} cannot contain spaces, newlines or special characters.")]
    ClientInfo(&'static str),
    /// An attribute that `CLIENT SETINFO` does not have.
    #[error("ERR Unrecognized option '{0}'")]
    ClientOption(String),
    /// A client id that is no positive number.
    #[error("ERR Invalid client ID")]
    ClientId,
    /// A type of clients that does not exist.
    #[error("ERR Unknown client type '{0}'")]
    ClientType(String),
    /// A slot outside of 0..16384.
    #[error("ERR Invalid slot")]
    InvalidSlot,
    /// A slot, or a number of keys, that is none.
    #[error("ERR Invalid slot or number of keys")]
    InvalidSlotOrCount,
    /// A cluster node that does not exist.
    #[error("ERR Unknown node {0}")]
    UnknownNode(String),
    /// A cluster node that leads nothing.
    #[error("ERR The specified node is not a master")]
    NotAMaster,
    /// A setting that can't be changed.
    #[error(
        "ERR CONFIG SET failed - '{0}' can't be changed here; use the options of `coracle serve`"
    )]
    ConfigSet(String),
    /// A snapshot that could not even be asked for.
    #[error("ERR Background save failed: {0}")]
    BackgroundSave(String),
    /// A setting that does not exist.
    #[error("ERR Unknown option or number of arguments for CONFIG SET - '{0}'")]
    ConfigUnknown(String),
    /// An id that `SESSION OPEN` did not answer.
    #[error("ERR invalid session id: it is what SESSION OPEN answers")]
    InvalidSession,
    /// A session and a key of different shards.
    #[error("ERR the session belongs to another shard than the key; SESSION OPEN one for the key")]
    OtherShard,
    /// Request ids of a session that can't be.
    #[error("ERR request ids count from 1, and the first one that waits is not above the request")]
    InvalidRequest,
    /// `ONCE` of something else than a write.
    #[error("ERR ONCE takes a command that writes keys of one slot, not '{0}'")]
    NotOnce(String),
    /// There is no file that settings could be written to.
    #[error("ERR The server is running without a config file")]
    NoConfigFile,
    /// `COMMAND GETKEYS` of nonsense.
    #[error("ERR Invalid command specified")]
    InvalidCommand,
    /// `COMMAND GETKEYS` of a command with too few or too many arguments.
    #[error("ERR Invalid number of arguments specified for command")]
    InvalidArity,
    /// `COMMAND GETKEYS` of a command without keys.
    #[error("ERR The command has no key arguments")]
    NoKeys,
}
