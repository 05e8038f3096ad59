//! Client sessions: entries of the log, and sessions in snapshots.

use bytes::Bytes;
use coracle_engine::session::{ClientSession, Entry, RequestId, SessionId, SessionReply, Sessions};

use super::echo::{self, Echo};
use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "session",
    run,
    mend: Some(echo::mend),
    seeds,
    memory: Memory {
        constant: 8 << 20,
        factor: 1000,
        reason: "buffers for chunks; a session of five bytes takes some hundred, twice",
    },
};

fn run(data: &[u8]) {
    let mut index = 0;
    echo::run(Sessions::new(Echo::default()), data, |machine, payload| {
        if let Ok(entry) = Entry::decode(&payload) {
            assert_eq!(entry.encode(), payload, "an entry can be written in one way only");
        }
        index += 1;
        let reply = echo::apply(machine, index, &payload);
        SessionReply::decode(&reply).expect("every entry is answered by sessions");
        if let Ok(mut session) = ClientSession::opened(&payload) {
            let (request, _) = session.begin(b"x").expect("nothing is under way");
            let _ = session.answered(request, &payload);
        }
    });
}

fn seeds() -> Vec<Seed> {
    let (session, first) = (SessionId(2), RequestId(1));
    let request = |request, payload: &'static [u8]| Entry::Request {
        session,
        request: RequestId(request),
        first,
        payload: Bytes::from_static(payload),
    };
    let all = [
        Entry::Plain(Bytes::from_static(b"plain")),
        Entry::Open,
        request(1, b"one"),
        request(3, b"three"),
        request(3, b"three"),
        Entry::KeepAlive { session, first: RequestId(2) },
        Entry::Tick { now_ms: 1_700_000_000_000 },
        Entry::Configure(Sessions::new(Echo::default()).limits()),
        Entry::Open,
        Entry::Close { session: SessionId(9) },
    ]
    .map(|entry| entry.encode());
    echo::seeds(|| Sessions::new(Echo::default()), &all)
}
