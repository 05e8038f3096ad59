//! What is known about a command, and how one is found by name.

use std::sync::LazyLock;

use bytes::Bytes;

use super::table::COMMANDS;
use super::{CommandError, Parse};
use crate::server::cluster::slot_of;
use crate::server::resp::Args;

/// Turns a request into the payload of a query or proposal.
pub type ParseFn = fn(Args<'_>, &mut Parse<'_>) -> Result<Bytes, CommandError>;

/// Who answers a command.
#[derive(Clone, Copy, Debug)]
pub enum Handler {
    /// The connection, at once.
    Local(Local),
    /// One of its subcommands.
    Container(&'static [Subcommand]),
    /// The shard of its keys, without a change.
    Read(ParseFn),
    /// The shard of its keys, through the log.
    Write(ParseFn),
    /// The shard of the keys of a write that it wraps, through the log, in a session.
    Once,
    /// All shards that this core leads.
    Fan(Fan),
}

/// Commands about the connection or the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // named like the commands
pub enum Local {
    Ping,
    Echo,
    Hello,
    Select,
    Auth,
    Time,
    Quit,
    Reset,
    ReadOnly,
    ReadWrite,
    BgSave,
    LastSave,
}

/// Commands about all keys of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fan {
    Info,
    DbSize,
    Keys,
    Scan,
    RandomKey,
    Flush,
}

/// Subcommands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Sub {
    ClientId,
    ClientInfo,
    ClientList,
    ClientGetname,
    ClientSetname,
    ClientSetinfo,
    ClientNoEvict,
    ClientNoTouch,
    ClientHelp,
    ClusterSlots,
    ClusterShards,
    ClusterNodes,
    ClusterInfo,
    ClusterMyid,
    ClusterLinks,
    ClusterKeyslot,
    ClusterCountkeysinslot,
    ClusterGetkeysinslot,
    ClusterCountFailureReports,
    ClusterReplicas,
    ClusterSlaves,
    ClusterHelp,
    CommandCount,
    CommandDocs,
    CommandInfo,
    CommandList,
    CommandGetkeys,
    CommandHelp,
    ConfigGet,
    ConfigSet,
    ConfigResetstat,
    ConfigRewrite,
    ConfigHelp,
    SessionOpen,
    SessionKeepalive,
    SessionClose,
    SessionHelp,
}

/// A subcommand of a container command.
#[derive(Clone, Copy, Debug)]
pub struct Subcommand {
    /// Its name in lower case.
    pub name: &'static str,
    /// Arguments, the two names included; negative: at least so many.
    pub arity: i8,
    /// Which one it is.
    pub sub: Sub,
}

pub(super) const fn sub(name: &'static str, arity: i8, sub: Sub) -> Subcommand {
    Subcommand { name, arity, sub }
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its name in lower case.
    pub name: &'static str,
    /// Arguments, the name included; negative: at least so many.
    pub arity: i8,
    /// Positions of the first key, the last key (negative: from the end) and the step.
    pub keys: (i8, i8, i8),
    /// Flags, separated by spaces.
    pub flags: &'static str,
    /// Access categories, separated by spaces.
    pub categories: &'static str,
    /// Group in the documentation.
    pub group: &'static str,
    /// Version of Redis that brought it; of Coracle for its own.
    pub since: &'static str,
    /// How the effort grows.
    pub complexity: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Who answers it.
    pub handler: Handler,
}

pub(super) struct Head {
    name: &'static str,
    arity: i8,
    keys: (i8, i8, i8),
    flags: &'static str,
    categories: &'static str,
}

pub(super) const fn spec(
    name: &'static str,
    arity: i8,
    keys: (i8, i8, i8),
    flags: &'static str,
    categories: &'static str,
) -> Head {
    Head { name, arity, keys, flags, categories }
}

impl Head {
    pub(super) const fn docs(
        self,
        group: &'static str,
        since: &'static str,
        complexity: &'static str,
        summary: &'static str,
        handler: Handler,
    ) -> Spec {
        let Self { name, arity, keys, flags, categories } = self;
        Spec { name, arity, keys, flags, categories, group, since, complexity, summary, handler }
    }
}

fn arity_fits(arity: i8, count: usize) -> bool {
    let wanted = usize::from(arity.unsigned_abs());
    if arity < 0 { count >= wanted } else { count == wanted }
}

impl Spec {
    /// Whether it takes so many arguments, its name included.
    #[must_use]
    pub fn takes(&self, count: usize) -> bool {
        arity_fits(self.arity, count)
    }

    /// Its keys among the arguments.
    pub fn keys_of<'a>(&self, args: Args<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (first, last, step) = self.keys;
        let last = match usize::try_from(last) {
            Ok(last) => last,
            Err(_) => args.len().saturating_sub(usize::from(last.unsigned_abs())),
        };
        let (first, step) = (first.unsigned_abs().into(), usize::from(step.unsigned_abs()).max(1));
        let count = if first == 0 { 0 } else { (last + 1).saturating_sub(first).div_ceil(step) };
        args.from(first).iter().step_by(step).take(count)
    }

    /// The hash slot of all of its keys; `None` without keys.
    ///
    /// # Errors
    /// [`CommandError::CrossSlot`] if the keys have different slots.
    pub fn slot_of(&self, args: Args<'_>) -> Result<Option<u16>, CommandError> {
        let mut keys = self.keys_of(args).map(slot_of);
        let Some(slot) = keys.next() else { return Ok(None) };
        if keys.all(|other| other == slot) { Ok(Some(slot)) } else { Err(CommandError::CrossSlot) }
    }
}

impl Subcommand {
    /// Whether it takes so many arguments, both names included.
    #[must_use]
    pub fn takes(&self, count: usize) -> bool {
        arity_fits(self.arity, count)
    }
}

/// Longest name of a command.
const NAME_BYTES_MAX: usize = 16;
/// More than three times the number of commands, so that most are found at the first look.
const INDEX_SIZE: usize = 256;

static INDEX: LazyLock<[u8; INDEX_SIZE]> = LazyLock::new(|| {
    let mut index = [0; INDEX_SIZE];
    for (place, spec) in COMMANDS.iter().enumerate() {
        let mut at = hash(spec.name.as_bytes());
        while index[at] != 0 {
            at = (at + 1) % INDEX_SIZE;
        }
        index[at] = u8::try_from(place + 1).expect("fewer commands than 255");
    }
    index
});

fn hash(name: &[u8]) -> usize {
    let hash = name
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash >> 8) as usize % INDEX_SIZE
}

/// The command with this name, in any case.
#[must_use]
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0; NAME_BYTES_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let index = &*INDEX;
    let mut at = hash(lower);
    while index[at] != 0 {
        let spec = &COMMANDS[usize::from(index[at]) - 1];
        if spec.name.as_bytes() == lower {
            return Some(spec);
        }
        at = (at + 1) % INDEX_SIZE;
    }
    None
}

/// All commands.
#[must_use]
pub fn all() -> &'static [Spec] {
    COMMANDS
}
