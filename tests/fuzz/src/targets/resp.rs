//! RESP requests of clients: the decoder alone.

use bytes::BytesMut;
use coracle::server::limits::REQUEST_BYTES_MAX;
use coracle::server::resp::{Decoder, Protocol, ProtocolError, Writer};

use super::steps;
use crate::{Memory, Seed, Target};

pub(super) const TARGET: Target = Target {
    name: "resp",
    run,
    mend: None,
    seeds,
    memory: Memory {
        constant: 64 << 10,
        factor: 64,
        reason: "each request is kept twice, as a Vec (24 bytes) for each argument of 6 bytes or more; \
                 growing doubles",
    },
};

type Request = Vec<Vec<u8>>;

/// All requests at once, and the error that ended them.
fn whole(stream: &[u8]) -> (Vec<Request>, Option<ProtocolError>) {
    let (mut decoder, mut rest, mut requests) = (Decoder::new(), stream, Vec::new());
    loop {
        match decoder.decode(rest) {
            Ok(None) => return (requests, None),
            Err(error) => return (requests, Some(error)),
            Ok(Some(bytes)) => {
                assert!((1..=rest.len()).contains(&bytes), "a request is some of what is there");
                let args = decoder.args(rest);
                requests.push(args.iter().map(<[u8]>::to_vec).collect());
                rest = &rest[bytes..];
            }
        }
    }
}

/// The same, as it arrives.
fn in_pieces(stream: &[u8]) -> (Vec<Request>, Option<ProtocolError>) {
    let (mut decoder, mut start, mut end, mut requests) = (Decoder::new(), 0, 0, Vec::new());
    let mut steps = steps(stream);
    loop {
        let there = &stream[start..end];
        match decoder.decode(there) {
            Err(error) => return (requests, Some(error)),
            Ok(Some(bytes)) => {
                requests.push(decoder.args(there).iter().map(<[u8]>::to_vec).collect());
                start += bytes;
            }
            Ok(None) => {
                assert!(decoder.needed() <= REQUEST_BYTES_MAX, "what it asks for is bounded");
                if end == stream.len() {
                    return (requests, None);
                }
                end = stream.len().min(end + steps.next().unwrap_or(1));
            }
        }
    }
}

fn run(data: &[u8]) {
    let (requests, error) = whole(data);
    assert_eq!(in_pieces(data), (requests.clone(), error), "arrival in pieces changes nothing");
    let mut encoded = BytesMut::new();
    let mut writer = Writer::new(&mut encoded, Protocol::Resp2);
    for request in &requests {
        writer.array(request.len());
        request.iter().for_each(|arg| writer.bulk(arg));
    }
    assert_eq!(whole(&encoded), (requests, None), "what was read can be written and read");
}

fn seeds() -> Vec<Seed> {
    vec![
        Seed::new(
            "array",
            *b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        ),
        Seed::new("inline", *b"SET k 'a b'\r\nGET \"\\x41\\n\"\r\n\r\nPING\n"),
        Seed::new("empty", *b"*0\r\n*-1\r\n\r\n*1\r\n$0\r\n\r\n"),
        Seed::new("cut", *b"*2\r\n$4\r\nECHO\r\n$100\r\nonly some of it"),
        Seed::new("limits", *b"*1048576\r\n$1048576\r\n"),
        Seed::new("refused", *b"*1\r\n:1\r\n"),
    ]
}
