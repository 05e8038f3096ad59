//! Commands on keys.

use bytes::Bytes;

use super::{CommandError, Parse, integer, is, quoted};
use crate::server::kv::op::{Expiry, Read, TtlForm, Write, expire_if};
use crate::server::resp::{Args, parse_u64};

type Parsed = Result<Bytes, CommandError>;

pub(super) fn del(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.del(args.from(1).iter()))
}

pub(super) fn unlink(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    del(args, parse)
}

pub(super) fn exists(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.exists(args.from(1).iter()))
}

pub(super) fn touch(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    exists(args, parse)
}

fn expire_any(
    args: Args<'_>,
    (name, unit_ms, absolute): (&'static str, i64, bool),
    parse: &mut Parse<'_>,
) -> Parsed {
    parse.sets_expiry = true;
    let conditions = conditions(args.from(3))?;
    let number = integer(&args[2])?;
    let invalid = CommandError::InvalidExpire(name);
    let ms = number.checked_mul(unit_ms).ok_or(invalid.clone())?;
    let expiry = if absolute {
        Expiry::At(ms)
    } else {
        ms.checked_add_unsigned(parse.now_ms).ok_or(invalid)?;
        Expiry::After(ms)
    };
    Ok(parse.encoder.write(&Write::Expire { key: &args[1], expiry, conditions }))
}

fn conditions(options: Args<'_>) -> Result<u8, CommandError> {
    let mut bits = 0;
    for option in options.iter() {
        bits |= match option {
            o if is(o, "nx") => expire_if::NX,
            o if is(o, "xx") => expire_if::XX,
            o if is(o, "gt") => expire_if::GT,
            o if is(o, "lt") => expire_if::LT,
            o => return Err(CommandError::UnsupportedOption(quoted(o))),
        };
    }
    if bits & expire_if::NX != 0 && bits != expire_if::NX {
        return Err(CommandError::ExpireNx);
    }
    if bits & expire_if::GT != 0 && bits & expire_if::LT != 0 {
        return Err(CommandError::ExpireGtLt);
    }
    Ok(bits)
}

pub(super) fn expire(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    expire_any(args, ("expire", 1000, false), parse)
}

pub(super) fn pexpire(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    expire_any(args, ("pexpire", 1, false), parse)
}

pub(super) fn expireat(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    expire_any(args, ("expireat", 1000, true), parse)
}

pub(super) fn pexpireat(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    expire_any(args, ("pexpireat", 1, true), parse)
}

fn ttl_form(args: Args<'_>, form: TtlForm, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.read(&Read::Ttl { key: &args[1], form }))
}

pub(super) fn ttl(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    ttl_form(args, TtlForm::Seconds, parse)
}

pub(super) fn pttl(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    ttl_form(args, TtlForm::Millis, parse)
}

pub(super) fn expiretime(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    ttl_form(args, TtlForm::AtSeconds, parse)
}

pub(super) fn pexpiretime(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    ttl_form(args, TtlForm::AtMillis, parse)
}

pub(super) fn persist(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.write(&Write::Persist { key: &args[1] }))
}

pub(super) fn kind(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.read(&Read::Type { key: &args[1] }))
}

fn rename_any(args: Args<'_>, only_if_absent: bool, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.write(&Write::Rename { from: &args[1], to: &args[2], only_if_absent }))
}

pub(super) fn rename(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    rename_any(args, false, parse)
}

pub(super) fn renamenx(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    rename_any(args, true, parse)
}

pub(super) fn copy(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    let mut replace = false;
    let mut options = args.from(3).iter();
    while let Some(option) = options.next() {
        match option {
            o if is(o, "replace") => replace = true,
            o if is(o, "db") => match integer(options.next().ok_or(CommandError::Syntax)?)? {
                0 => {}
                _ => return Err(CommandError::CopyToDatabase),
            },
            _ => return Err(CommandError::Syntax),
        }
    }
    let (from, to) = (&args[1], &args[2]);
    if from == to {
        return Err(CommandError::SameObject);
    }
    Ok(parse.encoder.write(&Write::Copy { from, to, replace }))
}

/// What `SCAN` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanRequest {
    /// Where to go on; 0 is the start.
    pub cursor: u64,
    /// About how many keys to look at.
    pub count: u64,
    /// What the keys must match.
    pub pattern: Bytes,
    /// Whether keys of the only type there is are wanted.
    pub strings: bool,
}

/// Reads the arguments of `SCAN`.
///
/// # Errors
/// For a cursor, count or option that is none.
pub fn scan(args: Args<'_>) -> Result<ScanRequest, CommandError> {
    let cursor = parse_u64(&args[1]).ok_or(CommandError::InvalidCursor)?;
    let mut request = ScanRequest {
        cursor,
        count: 10,
        pattern: Bytes::from_static(crate::server::kv::GLOB_ANY),
        strings: true,
    };
    let mut options = args.from(2).iter();
    while let Some(option) = options.next() {
        let value = options.next().ok_or(CommandError::Syntax)?;
        match option {
            o if is(o, "count") => {
                let count = integer(value)?;
                request.count =
                    u64::try_from(count).ok().filter(|n| *n > 0).ok_or(CommandError::Syntax)?;
            }
            o if is(o, "match") => request.pattern = Bytes::copy_from_slice(value),
            o if is(o, "type") => request.strings = is(value, "string"),
            _ => return Err(CommandError::Syntax),
        }
    }
    Ok(request)
}
