//! Commands on values.

use bytes::Bytes;

use super::{CommandError, Parse, integer, is};
use crate::server::kv::op::{Expiry, Read, SetIf, SetReply, Write};
use crate::server::resp::Args;

type Parsed = Result<Bytes, CommandError>;

/// Milliseconds of one unit of a time argument, and whether it is a moment or a span.
#[derive(Clone, Copy)]
struct TimeUnit {
    ms: i64,
    absolute: bool,
}

fn time_unit(option: &[u8]) -> Option<TimeUnit> {
    let (ms, absolute) = match option {
        o if is(o, "ex") => (1000, false),
        o if is(o, "px") => (1, false),
        o if is(o, "exat") => (1000, true),
        o if is(o, "pxat") => (1, true),
        _ => return None,
    };
    Some(TimeUnit { ms, absolute })
}

/// A deadline that must lie after the beginning of time and within what 63 bits can say.
fn positive_expiry(
    text: &[u8],
    unit: TimeUnit,
    command: &'static str,
    parse: &mut Parse<'_>,
) -> Result<Expiry, CommandError> {
    parse.sets_expiry = true;
    let number = integer(text)?;
    let invalid = CommandError::InvalidExpire(command);
    let ms = number.checked_mul(unit.ms).filter(|ms| *ms > 0).ok_or(invalid.clone())?;
    if unit.absolute {
        return Ok(Expiry::At(ms));
    }
    match ms.checked_add_unsigned(parse.now_ms) {
        Some(_) => Ok(Expiry::After(ms)),
        None => Err(invalid),
    }
}

pub(super) fn get(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.read(&Read::Get { key: &args[1] }))
}

pub(super) fn mget(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.mget(args.from(1).iter()))
}

pub(super) fn strlen(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.read(&Read::StrLen { key: &args[1] }))
}

pub(super) fn getrange(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    let (start, end) = (integer(&args[2])?, integer(&args[3])?);
    Ok(parse.encoder.read(&Read::GetRange { key: &args[1], start, end }))
}

pub(super) fn substr(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    getrange(args, parse)
}

pub(super) fn set(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    let (mut when, mut reply, mut expiry) = (SetIf::Always, SetReply::Status, Expiry::Never);
    let mut pending = None;
    let mut options = args.from(3).iter();
    while let Some(option) = options.next() {
        let fresh_expiry = expiry == Expiry::Never && pending.is_none();
        match option {
            o if is(o, "nx") && when != SetIf::Present => when = SetIf::Absent,
            o if is(o, "xx") && when != SetIf::Absent => when = SetIf::Present,
            o if is(o, "get") => reply = SetReply::Old,
            o if is(o, "keepttl") && pending.is_none() => expiry = Expiry::Keep,
            o => {
                let unit = time_unit(o).filter(|_| fresh_expiry).ok_or(CommandError::Syntax)?;
                pending = Some((unit, options.next().ok_or(CommandError::Syntax)?));
            }
        }
    }
    // Only now: Redis looks at the number after all options are known to be right.
    if let Some((unit, text)) = pending {
        expiry = positive_expiry(text, unit, "set", parse)?;
    }
    Ok(parse.encoder.write(&Write::Set { key: &args[1], value: &args[2], expiry, when, reply }))
}

fn plain_set(
    key: &[u8],
    value: &[u8],
    (when, reply, expiry): (SetIf, SetReply, Expiry),
    parse: &mut Parse<'_>,
) -> Parsed {
    Ok(parse.encoder.write(&Write::Set { key, value, expiry, when, reply }))
}

pub(super) fn setnx(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    plain_set(&args[1], &args[2], (SetIf::Absent, SetReply::Flag, Expiry::Never), parse)
}

pub(super) fn getset(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    plain_set(&args[1], &args[2], (SetIf::Always, SetReply::Old, Expiry::Never), parse)
}

pub(super) fn setex(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    let unit = TimeUnit { ms: 1000, absolute: false };
    let expiry = positive_expiry(&args[2], unit, "setex", parse)?;
    plain_set(&args[1], &args[3], (SetIf::Always, SetReply::Status, expiry), parse)
}

pub(super) fn psetex(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    let unit = TimeUnit { ms: 1, absolute: false };
    let expiry = positive_expiry(&args[2], unit, "psetex", parse)?;
    plain_set(&args[1], &args[3], (SetIf::Always, SetReply::Status, expiry), parse)
}

pub(super) fn getdel(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.write(&Write::GetDel { key: &args[1] }))
}

pub(super) fn getex(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    let key = &args[1];
    let expiry = match args.len() {
        2 => Expiry::Keep,
        3 if is(&args[2], "persist") => Expiry::Never,
        4 => {
            let unit = time_unit(&args[2]).ok_or(CommandError::Syntax)?;
            positive_expiry(&args[3], unit, "getex", parse)?
        }
        _ => return Err(CommandError::Syntax),
    };
    Ok(parse.encoder.write(&Write::GetEx { key, expiry }))
}

fn mset_any(args: Args<'_>, name: &str, only_if_all_absent: bool, parse: &mut Parse<'_>) -> Parsed {
    if args.len().is_multiple_of(2) {
        return Err(CommandError::WrongArity(name.to_owned()));
    }
    Ok(parse.encoder.mset(only_if_all_absent, args.from(1).iter()))
}

pub(super) fn mset(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    mset_any(args, "mset", false, parse)
}

pub(super) fn msetnx(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    mset_any(args, "msetnx", true, parse)
}

pub(super) fn append(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.write(&Write::Append { key: &args[1], value: &args[2] }))
}

pub(super) fn setrange(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    let offset = integer(&args[2])?;
    let offset = u64::try_from(offset).map_err(|_| CommandError::OffsetOutOfRange)?;
    Ok(parse.encoder.write(&Write::SetRange { key: &args[1], offset, value: &args[3] }))
}

fn add(key: &[u8], delta: i64, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.write(&Write::IncrBy { key, delta }))
}

pub(super) fn incr(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    add(&args[1], 1, parse)
}

pub(super) fn decr(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    add(&args[1], -1, parse)
}

pub(super) fn incrby(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    let delta = integer(&args[2])?;
    add(&args[1], delta, parse)
}

pub(super) fn decrby(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    let delta = integer(&args[2])?.checked_neg().ok_or(CommandError::DecrementOverflow)?;
    add(&args[1], delta, parse)
}

pub(super) fn incrbyfloat(args: Args<'_>, parse: &mut Parse<'_>) -> Parsed {
    Ok(parse.encoder.write(&Write::IncrByFloat { key: &args[1], delta: &args[2] }))
}
