//! The codec: any split, any bytes, and what it writes for each protocol.

#![allow(clippy::unwrap_used)]

use bytes::BytesMut;
use proptest::prelude::*;

use super::{Decoder, Protocol, ProtocolError, Writer, parse_f64, parse_i64, parse_u64};
use crate::server::limits::{ARGS_MAX, BULK_BYTES_MAX, LINE_BYTES_MAX};

fn encoded(words: &[Vec<u8>]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut writer = Writer::new(&mut out, Protocol::Resp2);
    writer.array(words.len());
    words.iter().for_each(|word| writer.bulk(word));
    out.to_vec()
}

fn decode_all(stream: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
    let (mut decoder, mut rest, mut requests) = (Decoder::new(), stream, Vec::new());
    while let Some(bytes) = decoder.decode(rest)? {
        requests.push(decoder.args(rest).iter().map(<[u8]>::to_vec).collect());
        rest = &rest[bytes..];
    }
    Ok(requests)
}

fn inline(line: &str) -> Result<Vec<String>, ProtocolError> {
    let text = |word: Vec<u8>| String::from_utf8_lossy(&word).into_owned();
    Ok(decode_all(format!("{line}\r\n").as_bytes())?.remove(0).into_iter().map(text).collect())
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        requests in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..6), 1..6),
    ) {
        let stream: Vec<u8> = requests.iter().flat_map(|words| encoded(words)).collect();
        prop_assert_eq!(decode_all(&stream).unwrap(), requests);
    }

    #[test]
    fn arrival_in_pieces_makes_no_difference(
        words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 1..5),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let stream = encoded(&words);
        let mut lengths: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        lengths.sort_unstable();
        let mut decoder = Decoder::new();
        for length in lengths {
            prop_assert_eq!(decoder.decode(&stream[..length]).unwrap(), None);
            prop_assert!(decoder.needed() <= stream.len(), "never asks for more than there is");
        }
        prop_assert_eq!(decoder.decode(&stream).unwrap(), Some(stream.len()));
        let got: Vec<_> = decoder.args(&stream).iter().map(<[u8]>::to_vec).collect();
        prop_assert_eq!(got, words);
    }

    #[test]
    fn random_bytes_are_requests_or_errors(bytes in proptest::collection::vec(
        prop_oneof![4 => prop::sample::select(b"*$\r\n0129-\"'\\x a".to_vec()), 1 => any::<u8>()],
        0..200,
    )) {
        let whole = decode_all(&bytes);
        // Byte by byte it must come to the same.
        let (mut decoder, mut start, mut requests) = (Decoder::new(), 0, Vec::new());
        let mut failed = None;
        for end in 0..=bytes.len() {
            match decoder.decode(&bytes[start..end]) {
                Ok(None) => {}
                Ok(Some(length)) => {
                    let args = decoder.args(&bytes[start..end]);
                    requests.push(args.iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
                    start += length;
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        match whole {
            Ok(whole) => {
                prop_assert_eq!(failed, None);
                prop_assert_eq!(whole, requests);
            }
            Err(error) => prop_assert_eq!(failed, Some(error)),
        }
    }

    #[test]
    fn only_canonical_integers_are_integers(number in any::<i64>(), zeros in 1_usize..3) {
        let text = number.to_string();
        prop_assert_eq!(parse_i64(text.as_bytes()), Some(number));
        let padded = text.replacen(|c: char| c.is_ascii_digit(), &"0".repeat(zeros), 1) + "7";
        prop_assert_eq!(parse_i64(padded.as_bytes()), None);
    }
}

#[test]
fn integers_at_the_edges() {
    assert_eq!(parse_i64(b"-9223372036854775808"), Some(i64::MIN));
    for text in ["9223372036854775808", "-9223372036854775809", "-0", "-", "", "+1", " 1", "1 "] {
        assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
    }
    assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
    assert_eq!(parse_u64(b"18446744073709551616"), None);
    assert_eq!(parse_f64(b"1.5"), Some(1.5));
    assert_eq!(parse_f64(b"inf"), None);
}

#[test]
fn inline_requests_have_words_and_quotes() {
    assert_eq!(inline("SET  k\tv ").unwrap(), ["SET", "k", "v"]);
    assert_eq!(inline(r#"a"b c" "\x41\n\q" '' 'it\'s'"#).unwrap(), ["ab c", "A\nq", "", "it's"]);
    assert!(inline("").unwrap().is_empty());
    for unbalanced in ["\"a", "'a", "\"a\"b", "'a'b", "\"a\\\""] {
        assert_eq!(inline(unbalanced), Err(ProtocolError::UnbalancedQuotes), "{unbalanced}");
    }
}

#[test]
fn empty_requests_are_requests_without_arguments() {
    assert_eq!(
        decode_all(b"*0\r\n*-1\r\n\r\n*1\r\n$0\r\n\r\n").unwrap(),
        [vec![], vec![], vec![], vec![Vec::<u8>::new()]]
    );
}

#[test]
fn limits_are_checked_before_the_bytes_arrive() {
    let error = |stream: String| decode_all(stream.as_bytes()).unwrap_err();
    assert_eq!(error(format!("*{}\r\n", ARGS_MAX + 1)), ProtocolError::BadCount);
    assert_eq!(error(format!("*1\r\n${}\r\n", BULK_BYTES_MAX + 1)), ProtocolError::BadLength);
    assert_eq!(error("9".repeat(LINE_BYTES_MAX + 1)), ProtocolError::InlineTooLong);
    let endless = "9".repeat(LINE_BYTES_MAX + 1);
    assert_eq!(error(format!("*{endless}")), ProtocolError::CountLineTooLong);
    assert_eq!(error(format!("*1\r\n${endless}")), ProtocolError::LengthLineTooLong);
    assert_eq!(decode_all(format!("*1\r\n${BULK_BYTES_MAX}\r\n").as_bytes()), Ok(vec![]));
}

#[test]
fn each_protocol_has_its_own_forms() {
    let written = |protocol| {
        let mut out = BytesMut::new();
        let mut writer = Writer::new(&mut out, protocol);
        writer.null();
        writer.map(1);
        writer.set(2);
        writer.boolean(true);
        writer.double(1.5);
        writer.verbatim("hi");
        writer.error("ERR two\r\nlines");
        String::from_utf8(out.to_vec()).unwrap()
    };
    assert_eq!(
        written(Protocol::Resp2),
        "$-1\r\n*2\r\n*2\r\n:1\r\n$3\r\n1.5\r\n$2\r\nhi\r\n-ERR two  lines\r\n"
    );
    assert_eq!(
        written(Protocol::Resp3),
        "_\r\n%1\r\n~2\r\n#t\r\n,1.5\r\n=6\r\ntxt:hi\r\n-ERR two  lines\r\n"
    );
}
