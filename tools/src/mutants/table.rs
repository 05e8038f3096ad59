//! Every mutant: its name, what is wrong, who had that bug, and what it takes to notice it.

/// Where a mutant lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `wal/src`.
    Wal,
    /// `engine/src`.
    Engine,
    /// `src`.
    Server,
}

impl Part {
    /// Its directory.
    #[must_use]
    pub const fn dir(self) -> &'static str {
        match self {
            Self::Wal => "wal/src",
            Self::Engine => "engine/src",
            Self::Server => "src",
        }
    }

    /// Its package.
    #[must_use]
    pub const fn package(self) -> &'static str {
        match self {
            Self::Wal => "coracle-wal",
            Self::Engine => "coracle-engine",
            Self::Server => "coracle",
        }
    }
}

/// A fault of one line that `--cfg mutant="name"` puts into the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// Where it lives.
    pub part: Part,
    /// What goes wrong.
    pub what: &'static str,
    /// Who had it, or what it stands for.
    pub history: &'static str,
    /// The state it shows in.
    pub shows: &'static str,
}

const fn wal(
    name: &'static str,
    what: &'static str,
    history: &'static str,
    shows: &'static str,
) -> Mutant {
    Mutant { name, part: Part::Wal, what, history, shows }
}

const fn engine(
    name: &'static str,
    what: &'static str,
    history: &'static str,
    shows: &'static str,
) -> Mutant {
    Mutant { name, part: Part::Engine, what, history, shows }
}

const fn server(
    name: &'static str,
    what: &'static str,
    history: &'static str,
    shows: &'static str,
) -> Mutant {
    Mutant { name, part: Part::Server, what, history, shows }
}

/// All mutants.
pub const MUTANTS: &[Mutant] = &[
    // What counts as committed.
    engine(
        "prior-term-commit",
        "a leader commits entries of an earlier term by counting",
        "LogCabin#44; Raft paper, figure 8",
        "a message that ends below the no-op (small inflight_bytes_max, or payloads over 64 KiB), then a change of leader",
    ),
    engine(
        "unsorted-progress",
        "commits the index of some voter instead of the one a majority has reached",
        "openraft#1802",
        "any replication to 3 or more voters",
    ),
    engine(
        "lone-voter-unsynced",
        "a single voter commits before its log is synced",
        "etcd#14370",
        "one node, a power cut during a write",
    ),
    engine(
        "leader-counts-unflushed",
        "the leader counts its own entries before they are flushed",
        "openraft a9f696a9",
        "a leader whose disk is slower than a follower's",
    ),
    engine(
        "heartbeat-commit-unclamped",
        "heartbeats carry the commit index beyond what the follower has acknowledged",
        "the same for heartbeats; hashicorp/raft, etcd clamp it",
        "a follower that lags while entries commit without it",
    ),
    engine(
        "apply-beyond-commit",
        "entries are applied before they are committed",
        "RedisRaft#14 class",
        "any write",
    ),
    // What an acknowledgement promises.
    engine(
        "follower-ack-unsynced",
        "a follower acknowledges before its log is synced",
        "TiKV#994",
        "any replication",
    ),
    engine(
        "empty-append-ack-unsynced",
        "an append without entries is acknowledged at once, although its position is not durable yet",
        "Yugabyte#32875: a heartbeat's reply reports the last index (ours reports none)",
        "a follower's flush that outlasts a heartbeat interval, or a reconnection",
    ),
    engine(
        "ack-covers-all-sent",
        "an acknowledgement counts for all that was sent so far, not for what its append proved",
        "CCF#6016",
        "several appends on the way",
    ),
    engine(
        "stale-ack",
        "an acknowledgement of an earlier term counts",
        "openraft cecb5de8",
        "a slow disk or link, and the same leader again two terms later",
    ),
    engine(
        "promise-rests-on-previous",
        "a promise is kept when the write before its own is durable",
        "openraft ee460f37",
        "two writes in a row on one core",
    ),
    engine(
        "flush-races-truncate",
        "a report of durability counts although the entries were overwritten meanwhile",
        "Redpanda#16105",
        "a follower's write in flight while a new leader overwrites it",
    ),
    engine(
        "append-aba",
        "a report of durability counts for an entry that was overwritten and came back",
        "etcd append_aba_race",
        "a stalled disk over two changes of leader",
    ),
    engine(
        "entry-before-term",
        "entries are stored and promised before the hard state that belongs to them",
        "openraft io_ordering.md",
        "a first append in a new term, a power cut soon after",
    ),
    engine(
        "hint-unclamped",
        "the stored commit index names entries that are not stored yet",
        "etcd#11888 class: hard state ahead of the log, unbootable",
        "a group over 2 MiB (payloads of 1 MiB, several appends in a turn) and a power cut between its batches",
    ),
    engine(
        "replay-keeps-suffix",
        "recovery keeps what followed an overwritten entry",
        "openraft#1808 class: stale state after a restart",
        "a follower that had two or more divergent entries replaced by fewer, then a restart",
    ),
    // Truncation.
    engine(
        "truncate-without-conflict",
        "an append cuts the log although nothing differs",
        "CCF#5991",
        "a repeated or overtaken append (replay, or one resent after a reconnection)",
    ),
    engine(
        "suffix-lost-on-step-down",
        "a leader that steps down forgets its uncommitted entries",
        "CCF#5674",
        "an entry committed by the leader before, a short reign, then a vote",
    ),
    // Votes and terms.
    engine(
        "vote-before-flush",
        "a vote leaves before it is durable",
        "openraft ee460f37",
        "any election",
    ),
    engine(
        "candidate-vote-unsynced",
        "a candidate asks for votes, and counts its own, before its term is durable",
        "etcd-raft: msgsAfterAppend",
        "any election",
    ),
    engine(
        "vote-forgotten-on-restart",
        "a restart forgets the vote",
        "the paper's persistent votedFor",
        "a restart between two candidates of one term",
    ),
    engine(
        "vote-for-shorter-log",
        "a vote goes to a shorter log that ends in the same term",
        "Raft paper, 5.4.1",
        "a lagging follower that campaigns after the leader's crash",
    ),
    engine(
        "pre-votes-elect",
        "answers to the pre-vote count as votes",
        "Yugabyte 1.1.9: votes counted that are none (there are no non-voters here)",
        "any election",
    ),
    engine(
        "pre-vote-raises-term",
        "asking for pre-votes raises the own term",
        "etcd#8501 class",
        "a node that is cut off, and comes back: it deposes a healthy leader",
    ),
    engine(
        "check-quorum-off-by-one",
        "a leader forgets itself when it counts whom it must hear: with two nodes it never steps down",
        "etcd check-quorum",
        "2 or 4 nodes and a partition that outlasts the election timeout",
    ),
    // Reads.
    engine(
        "delayed-ack-confirms-read",
        "an answer to an earlier round confirms a read",
        "etcd-raft#397",
        "a deposed leader that does not know it yet and has old answers in its socket (a pause, a one-way partition)",
    ),
    engine(
        "read-before-own-commit",
        "a new leader serves reads before it has committed in its term",
        "rabbitmq/ra#340",
        "a new leader with an old commit index, and a read at once",
    ),
    // Clients.
    engine(
        "pending-proposed-again",
        "what waits is proposed again when leadership comes back",
        "RedisRaft, duplicate application",
        "a leader that steps down with proposals pending and leads again",
    ),
    engine(
        "unknown-told-as-refused",
        "an unknown outcome is told as a refusal, so that the client sends again",
        "Jepsen's recurring class: indeterminate taken for failed",
        "a leader that steps down with proposals pending that the next leader commits",
    ),
    // The log on disk: durability.
    wal(
        "completions-in-order-assumed",
        "a completed write is taken for the oldest one in flight",
        "openraft 2af491fb",
        "two writes in flight that complete in the other order",
    ),
    wal(
        "submitted-claimed-durable",
        "a batch vouches for what is only submitted",
        "raft-engine 0.4.0 class",
        "two writes in flight, a power cut that keeps only the later one",
    ),
    wal(
        "flush-retried",
        "a failed durable write is followed by a sync, whose success counts",
        "ATC'20, fsync failures",
        "a failed write or flush, then a sync that succeeds",
    ),
    wal(
        "write-error-ignored",
        "a failed write counts as done",
        "ATC'20; latching forgotten",
        "a failed write",
    ),
    wal(
        "short-write-complete",
        "a short write counts as complete",
        "io_uring short writes",
        "a short write",
    ),
    wal(
        "short-write-unsynced",
        "what a short write wrote is not flushed",
        "io_uring: a short write breaks the link to its flush",
        "a short write and a power cut",
    ),
    wal(
        "rename-without-dir-sync",
        "a segment's name is not made durable",
        "etcd#6368",
        "a power cut right after a start, or with recycled segments",
    ),
    wal(
        "rotation-without-sync",
        "the log moves to a segment whose size and zeros were never synced",
        "raft-engine#123 (ours writes each batch durably, so there is no old file to sync)",
        "a power cut after a segment was prepared",
    ),
    // The log on disk: recovery.
    wal(
        "unsynced-batch-recovered",
        "recovery believes what is only in the page cache",
        "raft-engine 0.4.0",
        "a killed process with a write in the cache, a restart, then a power cut",
    ),
    wal(
        "records-unverified",
        "recovery checks a batch's header, but not its records",
        "etcd wal: torn record accepted",
        "a power cut that tears a batch of more than one sector",
    ),
    wal(
        "cut-comes-back",
        "recovery looks behind a place where an earlier recovery has cut",
        "LevelDB-style log reuse",
        "a torn tail with later batches behind it, and a second restart",
    ),
    wal(
        "rot-cut-as-tail",
        "recovery cuts the log at a damaged batch although a later one vouches for it",
        "NATS#7549",
        "a flipped byte in acknowledged data, and a restart",
    ),
    wal(
        "hole-cut-as-tail",
        "recovery cuts the log at a lost batch although a later one vouches for it",
        "Protocol-Aware Recovery (CTRL)",
        "a lost or misdirected write of acknowledged data, and a restart",
    ),
    wal(
        "misdirected-write-accepted",
        "neither the positions in a batch nor its link to the one before are checked",
        "TigerBeetle#2711",
        "a batch written over an earlier one of the same size",
    ),
    wal(
        "recycled-batch-accepted",
        "batches of an earlier use of a segment's file pass as its own",
        "PostgreSQL and RocksDB recycled logs",
        "a segment recycled after a trim, and a restart before it is full",
    ),
    wal(
        "segment-recycled-early",
        "a trimmed segment is recycled before a durable batch says that it was trimmed",
        "etcd wal release before snapshot",
        "a trim and a power cut",
    ),
    // Snapshots, compaction, and nodes without data.
    engine(
        "compact-beyond-snapshot",
        "the log is compacted up to what is applied, not to what the snapshot has",
        "etcd wal release before snapshot",
        "a compaction, then a restart or a slow follower",
    ),
    engine(
        "manifest-before-chunks",
        "the manifest of a snapshot gets its name before its chunks are durable",
        "LevelDB: MANIFEST before its tables",
        "a power cut after a snapshot",
    ),
    engine(
        "snapshot-name-unsynced",
        "a snapshot counts before its name is durable",
        "etcd#6368 class, for snapshots",
        "a compaction after a snapshot, and a power cut",
    ),
    engine(
        "old-snapshot-removed-early",
        "the old snapshot is removed before the new one is durable",
        "hashicorp/raft: reaping before the rename was synced",
        "a second snapshot and a power cut, or one that fails",
    ),
    engine(
        "snapshot-index-too-low",
        "a snapshot is said to be of an entry earlier than it is",
        "an apply that races with the snapshot of its state",
        "an installed snapshot, or a restart from one",
    ),
    engine(
        "received-chunk-unverified",
        "a received chunk is not compared with its checksum",
        "etcd#11888 class: a corrupt snapshot is taken over",
        "a bit that flips on the way",
    ),
    engine(
        "install-keeps-suffix",
        "a log that contradicts an installed snapshot is kept",
        "CCF, Raft paper 7: discard the entire log",
        "a deposed leader with a divergent log that is offered a snapshot",
    ),
    engine(
        "held-offer-forgotten",
        "a follower that waits for a new snapshot is not told when it is there",
        "a pause that nobody ends",
        "a follower that needs a snapshot when the newest is old; engine/tests/raft/snapshots.rs",
    ),
    engine(
        "install-leaves-applied",
        "an installed snapshot does not move what was applied",
        "RedisRaft: entries applied twice after a snapshot",
        "any installed snapshot",
    ),
    engine(
        "trim-before-rewritten",
        "segments are given up before what replaces their records is durable",
        "raft-engine purge before rewrite was synced",
        "a trim, and a power cut at once",
    ),
    engine(
        "trim-forgets-hard-state",
        "segments are given up although they hold the newest hard state of a shard",
        "the vote lost with its segment",
        "a shard that is idle while others write, and a restart",
    ),
    engine(
        "kept-truncates",
        "entries that were written again cut off what follows them, in recovery",
        "raft-engine: rewrite appended as new",
        "entries that are rewritten, and a restart",
    ),
    engine(
        "cold-read-of-any-term",
        "entries are read back from the log whatever their term",
        "a stale copy of an overwritten entry",
        "an entry that was overwritten, then read from disk",
    ),
    // Reads by lease.
    engine(
        "lease-without-margin",
        "a lease lasts for longer than voters keep quiet, by the drift, instead of shorter",
        "thesis, 6.4.1: a lease is only as good as the bound on the clocks",
        "an election as soon as voters may, read at the old leader; engine/tests/raft/leases.rs",
    ),
    engine(
        "lease-from-answer",
        "a lease is counted from the answer to a heartbeat, not from its sending",
        "thesis, 6.4.1: the lease begins when the heartbeats are sent",
        "a slow answer; engine/tests/raft/leases.rs",
    ),
    engine(
        "lone-voter-breaks-lease",
        "the only voter of a configuration that is not committed yet elects itself while a lease rests on it",
        "an exception to being quiet, made for shards of one replica",
        "a leader of two that removes itself; engine/tests/raft/leases.rs",
    ),
    engine(
        "lease-by-stale-clock",
        "a leader looks for its lease at the time of its last tick",
        "a process that was stopped serves reads before it looks at the clock",
        "a pause, and a read before the first tick; engine/tests/raft/leases.rs",
    ),
    engine(
        "quiet-from-stale-clock",
        "a voter keeps quiet from its last tick on, not from the heartbeat",
        "as the one before, on the other side of the lease",
        "a voter that stood still; engine/tests/raft/leases.rs",
    ),
    engine(
        "restarted-voter-votes",
        "a voter that has just started votes although it has forgotten whom it heard",
        "what a follower promises to a lease is in memory alone",
        "a quick restart; engine/tests/raft/leases.rs",
    ),
    engine(
        "lease-read-during-transfer",
        "a leader keeps its lease although it has told somebody to campaign",
        "a transfer is the way around what voters promise to a lease",
        "a read at the old leader between vote and news; engine/tests/raft/leases.rs",
    ),
    engine(
        "transfer-keeps-proposing",
        "a leader that is handing over goes on taking proposals",
        "etcd-io/raft drops proposals while it has a leadTransferee; without that a busy leader never gets there",
        "a transfer under load; the scenarios in engine/testdata/raft/transfer_*.txt",
    ),
    engine(
        "timeout-now-before-caught-up",
        "the successor is told to campaign before it has the whole log",
        "thesis, 3.10: the target's log must be brought up to date first, or its election fails",
        "a transfer with entries under way; the scenarios in engine/testdata/raft/transfer_*.txt",
    ),
    engine(
        "wiped-node-votes",
        "a node that has lost its data votes at once",
        "Raft without stable storage; TigerBeetle's recovering_head",
        "a node wiped between two candidates, or after an acknowledgement that counted",
    ),
    engine(
        "reconfigure-without-own-commit",
        "a leader changes members before it has committed an entry of its own term",
        "Raft's single-server changes as first published (Ongaro, raft-dev, 2015)",
        "two leaders in a row, each with a change of one voter that is not committed",
    ),
    engine(
        "truncated-configuration-kept",
        "a configuration stays in force although its entry was cut off",
        "what applying at once, without a way back, comes to",
        "a leader that changes members alone and is deposed",
    ),
    engine(
        "joint-quorum-by-union",
        "a joint configuration decides by a majority of all voters, not of both halves",
        "a common misreading of joint consensus",
        "a change of several voters, and a partition between old and new ones",
    ),
    engine(
        "auto-leave-twice",
        "the leader leaves the joint configuration again while leaving is not committed",
        "etcd raft guards against it with pendingConfIndex",
        "anything committed between the joint configuration and its end",
    ),
    engine(
        "stale-configuration-after-snapshot",
        "a snapshot is installed, and the configuration stays the one before",
        "etcd raft restores the ConfState with each snapshot for this reason",
        "a change of members that a follower gets by a snapshot only",
    ),
    engine(
        "removed-leader-counts-itself",
        "a leader that removes itself counts itself until that is committed",
        "Raft thesis, 4.2.2",
        "a leader that is removed while another voter is cut off",
    ),
    engine(
        "learner-votes",
        "a learner counts for votes and commits",
        "Yugabyte 1.1.9: votes of nodes that have none",
        "a learner that keeps pace while voters are cut off",
    ),
    // Shards that sleep.
    engine(
        "quiescent-shard-misses-new-term",
        "a follower that is doubted says nothing",
        "CockroachDB: replicas that stayed quiesced behind a leader that was none any more",
        "a follower that sleeps behind a node whose replica follows in a later term",
    ),
    engine(
        "quiescent-follower-ignores-dead-leader",
        "a follower that sleeps goes on sleeping when its leader's node is suspected",
        "CockroachDB: ranges without a leader until somebody used them",
        "the death of a node whose shards sleep",
    ),
    engine(
        "lease-extended-by-quiescence",
        "a leader that sleeps takes the sleep of its followers for an answer to a heartbeat",
        "CockroachDB: quiesced leaders with epoch leases whose liveness others had incremented",
        "a read by lease of a shard that has slept while others elected another leader",
    ),
    // Leaders that spread.
    engine(
        "leaders-spread-without-slack",
        "a core hands over when it leads one shard more than another",
        "balancers without a threshold, whose leaders go to and fro for ever",
        "any number of shards that the nodes can't share evenly",
    ),
    engine(
        "leaders-spread-by-old-counts",
        "a look does not count what it hands over itself",
        "schedulers that go by counts which their own decisions have made old",
        "a node that comes back while others lead many shards",
    ),
    // Reads on any replica.
    engine(
        "bounded-read-dated-at-answer",
        "what a replica can show of its state is dated when the answer came, not when it asked",
        "a bound on staleness that leaves out the way of the question",
        "a read with a small bound while an answer is on its way, or of a leader that was deposed meanwhile",
    ),
    engine(
        "bounded-read-before-apply",
        "a replica answers when it knows how much is committed, before it has applied that",
        "follower reads that forget the last step of Raft thesis, 6.4",
        "a follower that applies later than the leader",
    ),
    engine(
        "answer-to-any-question",
        "an answer of the leader counts for whatever question is under way",
        "read indexes told apart by ids that begin anew with each start",
        "an answer that comes late, when the replica has asked again",
    ),
    engine(
        "question-answered-without-round",
        "a leader tells followers what is committed without confirming that it leads",
        "a stale leader that does not know it",
        "a leader that is cut off together with a follower, in a shard of four voters or more",
    ),
    // Client sessions.
    engine(
        "session-dropped-by-snapshot",
        "snapshots have no sessions",
        "RedisRaft, dragonboat: sessions that were not part of the snapshot",
        "a request that is sent again after a restart from a snapshot, or to a replica that was sent one",
    ),
    engine(
        "duplicate-applied-after-expiry",
        "a request of a session that is gone is applied",
        "Ongaro's thesis, 6.3: sessions must not come back",
        "a request that is sent again when its session has expired or was evicted",
    ),
    engine(
        "reply-cache-ignored",
        "a request is applied whether or not it was before",
        "at-least-once, as without sessions",
        "any request that is sent again",
    ),
    engine(
        "acknowledged-request-applied",
        "a late copy of a request whose reply was acknowledged is applied",
        "a reply cache without LogCabin's first outstanding request",
        "a copy of a request that arrives after its client has gone on",
    ),
    // Hooks and timers.
    engine(
        "hook-on-follower",
        "the hook of a state machine is called on every replica",
        "a periodic task that every node does: as many times as there are nodes, or with as many clocks",
        "any hook that is due",
    ),
    engine(
        "hook-before-own-commit",
        "a new leader calls the hook before it has applied what earlier leaders proposed",
        "Raft paper, section 8: a leader knows what is committed only after an entry of its own term",
        "a new leader with a hook that is due, before its first commit",
    ),
    engine(
        "timer-not-removed",
        "a timer that has fired is still there",
        "at-least-once, as by a job queue without acknowledgements",
        "any timer that fires",
    ),
    engine(
        "timer-fires-again-after-snapshot",
        "a timer that has fired is due no more, but goes into snapshots",
        "two structures for one fact, of which one is stored",
        "a timer that fired before a snapshot, and a leader that starts from it",
    ),
    engine(
        "timers-dropped-by-snapshot",
        "snapshots have no timers",
        "as session-dropped-by-snapshot",
        "a leader that starts from a snapshot, or was sent one",
    ),
    engine(
        "timer-fires-early",
        "a timer fires whatever the time of the entry is",
        "trust in whoever proposes, where the state could know better",
        "an entry that fires before the time; engine/src/timers/model_tests.rs",
    ),
    // The key-value server.
    server(
        "expiry-by-local-time",
        "each replica expires keys by its own clock",
        "Redis replication before expiry was propagated",
        "a key with an absolute deadline, or one that outlives its time to live",
    ),
    server(
        "expired-key-returns",
        "a reader's clock alone decides that a key has expired",
        "clock skew between readers",
        "a reader whose clock is ahead of the log's: any read between a deadline and the next write",
    ),
    server(
        "bulk-crowds-out-log",
        "bulk is not held back while the log writes",
        "write latency under compaction or backup, in many stores",
        "a log that writes beside a snapshot; the simulator has disks of its own, src/uring/pace.rs has tests",
    ),
];

/// The mutant of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Mutant> {
    MUTANTS.iter().find(|mutant| mutant.name == name)
}
