//! What the server says about its commands: `COMMAND` and the `HELP` subcommands.

use super::tips::tips;
use super::{CommandError, Handler, Spec, Subcommand, all, find};
use crate::server::resp::{Args, Writer};

fn words(text: &'static str) -> Vec<&'static str> {
    text.split_ascii_whitespace().collect()
}

fn names(out: &mut Writer<'_>, text: &'static str) {
    let words = words(text);
    out.set(words.len());
    words.into_iter().for_each(|word| out.simple(word));
}

fn subcommands(spec: &Spec) -> &'static [Subcommand] {
    match spec.handler {
        Handler::Container(subcommands) => subcommands,
        _ => &[],
    }
}

/// `COMMAND` and `COMMAND INFO`: all commands, or those named; null for an unknown one.
pub fn info(asked: Args<'_>, out: &mut Writer<'_>) {
    if asked.is_empty() {
        out.array(all().len());
        all().iter().for_each(|spec| one_info(spec, out));
        return;
    }
    out.array(asked.len());
    for name in asked.iter() {
        match find(name) {
            Some(spec) => one_info(spec, out),
            None => out.null(),
        }
    }
}

fn one_info(spec: &Spec, out: &mut Writer<'_>) {
    out.array(10);
    out.text(spec.name);
    out.integer(spec.arity.into());
    names(out, spec.flags);
    let (first, last, step) = spec.keys;
    [first, last, step].into_iter().for_each(|position| out.integer(position.into()));
    names(out, spec.categories);
    let tips = tips(spec.name);
    out.array(tips.len());
    tips.iter().for_each(|tip| out.text(tip));
    key_specification(spec, out);
    let subcommands = subcommands(spec);
    out.array(subcommands.len());
    for subcommand in subcommands {
        out.array(10);
        out.text(&format!("{}|{}", spec.name, subcommand.name));
        out.integer(subcommand.arity.into());
        out.set(0);
        (0..3).for_each(|_| out.integer(0));
        names(out, spec.categories);
        (0..3).for_each(|_| out.array(0));
    }
}

fn key_specification(spec: &Spec, out: &mut Writer<'_>) {
    let (first, last, step) = spec.keys;
    if first == 0 {
        return out.array(0);
    }
    out.array(1);
    out.map(3);
    out.text("flags");
    out.set(1);
    let writes = spec.flags.split(' ').any(|flag| flag == "write");
    out.simple(if writes { "RW" } else { "RO" });
    out.text("begin_search");
    out.map(2);
    out.text("type");
    out.text("index");
    out.text("spec");
    out.map(1);
    out.text("index");
    out.integer(first.into());
    out.text("find_keys");
    out.map(2);
    out.text("type");
    out.text("range");
    out.text("spec");
    out.map(3);
    out.text("lastkey");
    out.integer(if last < 0 { last.into() } else { i64::from(last - first) });
    out.text("keystep");
    out.integer(step.into());
    out.text("limit");
    out.integer(0);
}

/// `COMMAND DOCS`: all commands, or those named that exist.
pub fn docs(asked: Args<'_>, out: &mut Writer<'_>) {
    let chosen: Vec<&Spec> = if asked.is_empty() {
        all().iter().collect()
    } else {
        asked.iter().filter_map(find).collect()
    };
    out.map(chosen.len());
    for spec in chosen {
        out.text(spec.name);
        let subcommands = subcommands(spec);
        out.map(4 + usize::from(!subcommands.is_empty()));
        for (title, text) in [
            ("summary", spec.summary),
            ("since", spec.since),
            ("group", spec.group),
            ("complexity", spec.complexity),
        ] {
            out.text(title);
            out.text(text);
        }
        if !subcommands.is_empty() {
            out.text("subcommands");
            out.map(subcommands.len());
            for subcommand in subcommands {
                out.text(&format!("{}|{}", spec.name, subcommand.name));
                out.map(1);
                out.text("group");
                out.text(spec.group);
            }
        }
    }
}

/// `COMMAND LIST`: all names.
pub fn list(out: &mut Writer<'_>) {
    out.array(all().len());
    all().iter().for_each(|spec| out.text(spec.name));
}

/// `COMMAND GETKEYS`: the keys of a full command.
///
/// # Errors
/// If there is no such command, its number of arguments does not fit, or it has no keys.
pub fn keys<'a>(full: Args<'a>) -> Result<Vec<&'a [u8]>, CommandError> {
    let spec = find(&full[0]).ok_or(CommandError::InvalidCommand)?;
    if spec.keys.0 == 0 {
        return Err(CommandError::NoKeys);
    }
    if !spec.takes(full.len()) {
        return Err(CommandError::InvalidArity);
    }
    if let Handler::Once = spec.handler {
        let wrapped = full.from(4);
        return match find(&wrapped[0]) {
            Some(write) if matches!(write.handler, Handler::Write(_)) => {
                Ok(write.keys_of(wrapped).collect())
            }
            _ => Err(CommandError::InvalidCommand),
        };
    }
    Ok(spec.keys_of(full).collect())
}

/// The subcommands of a container.
pub fn help(container: &[u8], out: &mut Writer<'_>) {
    let Some(spec) = find(container) else { return out.array(0) };
    let subcommands = subcommands(spec);
    out.array(1 + subcommands.len());
    let name = spec.name.to_ascii_uppercase();
    out.simple(&format!("{name} <subcommand> [<arg> [value] ...]. Subcommands are:"));
    for subcommand in subcommands {
        let wanted = subcommand.arity.unsigned_abs() - 2;
        let more = if subcommand.arity < 0 { " or more" } else { "" };
        let upper = subcommand.name.to_ascii_uppercase();
        out.simple(&format!("{upper} ({wanted}{more} arguments)"));
    }
}
