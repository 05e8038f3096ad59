//! The command line of `coraclectl`.

use std::collections::BTreeSet;
use std::str::FromStr;

use clap::{Parser, Subcommand};
use coracle::{Member, ShardId};

/// Looks after a Coracle cluster: who belongs to it, who leads, how it is.
///
/// It talks to the admin port of one node, which knows the others. Commands that take several steps go on where they
/// ended when they are run again.
#[derive(Debug, Parser)]
#[command(name = "coraclectl", version)]
pub struct Args {
    /// Admin address of a node; several may be given, with commas between them, in case one does not run.
    #[arg(long, global = true, env = "CORACLE_ADMIN", default_value = "127.0.0.1:9001")]
    #[arg(value_name = "HOST:PORT", value_delimiter = ',')]
    pub admin: Vec<String>,
    /// Print one JSON document instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to try.
    #[arg(long, global = true, default_value_t = 60, value_name = "S")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout_s: u64,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `coraclectl` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// How the nodes are: cores, shards led and held, settings, what is broken.
    Status,
    /// The members and how they are reached.
    Members,
    /// The shards: who leads, who belongs to them, how far the others are.
    Shards {
        /// Only these, such as 0-3,7.
        #[arg(value_name = "SHARDS")]
        shards: Option<Shards>,
    },
    /// Adds members to the cluster, and as learners to its shards.
    Add {
        /// The new members; an id alone names one that is a member of the cluster already.
        #[arg(required = true, value_name = "ID=CLIENT_HOST:PORT,PEER_HOST:PORT")]
        members: Vec<Newcomer>,
        /// Only to these shards, such as 0-3,7.
        #[arg(long, value_name = "SHARDS")]
        shards: Option<Shards>,
        /// Go on until they vote: as soon as they have caught up.
        #[arg(long)]
        promote: bool,
    },
    /// Makes learners vote, as soon as they have caught up.
    Promote(OnNodes),
    /// Makes voters learners: they go on to receive, and do not vote any more.
    Demote(OnNodes),
    /// Removes members from all shards and then from the cluster; with --shards only from these shards.
    Remove(OnNodes),
    /// Puts one node in the place of another in all shards, and removes that from the cluster.
    Replace {
        /// The node that goes.
        #[arg(value_name = "OLD")]
        old: u64,
        /// The node that comes; an id alone if it is a member already.
        #[arg(value_name = "NEW_ID[=CLIENT_HOST:PORT,PEER_HOST:PORT]")]
        new: Newcomer,
    },
    /// Hands over leadership of a shard, or spreads it evenly over the nodes.
    Transfer {
        /// The shard.
        #[arg(value_name = "SHARD", required_unless_present = "spread", conflicts_with = "spread")]
        shard: Option<u32>,
        /// To this node; to whoever can take over soonest if left out.
        #[arg(long, value_name = "ID", conflicts_with = "spread")]
        to: Option<u64>,
        /// Lets every node lead about as many shards as the others.
        #[arg(long)]
        spread: bool,
    },
    /// Moves replicas from one node to another.
    Move {
        /// The shards, such as 3 or 0-3,7.
        #[arg(value_name = "SHARDS")]
        shards: Shards,
        /// The node that has them.
        #[arg(long, value_name = "ID")]
        from: u64,
        /// The node that is to have them.
        #[arg(long, value_name = "ID")]
        to: u64,
    },
    /// Lets a node hand over all it leads; it leads nothing more until it is started again.
    Drain {
        /// The node.
        #[arg(value_name = "ID")]
        node: u64,
    },
    /// Takes snapshots of a node's replicas.
    Snapshot {
        /// The shard; all if left out.
        #[arg(value_name = "SHARD")]
        shard: Option<u32>,
        /// On this node; on the one that is talked to if left out.
        #[arg(long, value_name = "ID")]
        node: Option<u64>,
    },
    /// Changes a setting of a running node until it is started again; without a name, lists them.
    Set {
        /// Its name.
        #[arg(value_name = "NAME", requires = "value")]
        name: Option<String>,
        /// Its value.
        #[arg(value_name = "VALUE", allow_negative_numbers = true)]
        value: Option<String>,
        /// On this node; on the one that is talked to if left out.
        #[arg(long, value_name = "ID", conflicts_with = "all")]
        node: Option<u64>,
        /// On all nodes.
        #[arg(long)]
        all: bool,
    },
}

/// Nodes, and perhaps the shards that are meant.
#[derive(Debug, clap::Args)]
pub struct OnNodes {
    /// The nodes.
    #[arg(required = true, value_name = "ID")]
    pub nodes: Vec<u64>,
    /// Only in these shards, such as 0-3,7.
    #[arg(long, value_name = "SHARDS")]
    pub shards: Option<Shards>,
}

/// A node that comes: with its addresses, or known already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Newcomer {
    /// It is put into the address book.
    Member(Member),
    /// It is there already.
    Known(u64),
}

impl Newcomer {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> u64 {
        match self {
            Self::Member(member) => member.id.0,
            Self::Known(id) => *id,
        }
    }
}

impl FromStr for Newcomer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().parse() {
            Ok(id) => Ok(Self::Known(id)),
            Err(_) => {
                text.parse().map(Self::Member).map_err(|e: coracle::ConfigError| e.to_string())
            }
        }
    }
}

/// A list of shards: numbers and ranges of them, such as `0-3,7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards(pub BTreeSet<ShardId>);

impl FromStr for Shards {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("'{text}' is no list of shards such as 0-3,7");
        let mut shards = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.trim().parse::<u32>().map_err(|_| malformed());
            let (first, last) = (number(first)?, number(last)?);
            // A cluster has no more.
            if first > last || last >= coracle::limits::SHARDS_MAX {
                return Err(malformed());
            }
            shards.extend((first..=last).map(ShardId));
        }
        Ok(Self(shards))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn lists_of_shards_are_read() {
        let read = |text: &str| {
            text.parse::<Shards>().map(|shards| shards.0.into_iter().map(|s| s.0).collect())
        };
        assert_eq!(read("0-3,7"), Ok(vec![0, 1, 2, 3, 7]));
        assert_eq!(read(" 5 , 5"), Ok(vec![5]));
        for bad in ["", "a", "3-1", "-1", "0-", "0-4294967295", "16384", "1,,2"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_newcomer_has_addresses_or_is_known() {
        assert_eq!("4".parse(), Ok(Newcomer::Known(4)));
        let member = "4=a:1,b:2".parse::<Newcomer>().unwrap();
        assert!(matches!(&member, Newcomer::Member(member) if member.peer_port == 2));
        assert!("4=a:1".parse::<Newcomer>().is_err_and(|error| error.contains("ID=CLIENT_HOST")));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |line: &str| Args::try_parse_from(line.split(' ')).is_err();
        for line in [
            "coraclectl",
            "coraclectl conquer",
            "coraclectl transfer",
            "coraclectl transfer 3 --spread",
            "coraclectl transfer --spread --to 2",
            "coraclectl move 3 --from 1",
            "coraclectl add",
            "coraclectl set priority",
            "coraclectl set priority 1 --all --node 2",
            "coraclectl --timeout-s 0 status",
        ] {
            assert!(refused(line), "{line}");
        }
        for line in ["coraclectl set priority -3", "coraclectl set", "coraclectl status --json"] {
            assert!(!refused(line), "{line}");
        }
    }
}
