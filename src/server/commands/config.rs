//! `CONFIG`: the settings that clients and benchmarks ask for, as far as they mean something here.

use super::{CommandError, quoted};
use crate::server::kv::glob_matches;
use crate::server::limits::BULK_BYTES_MAX;
use crate::server::resp::{Args, Writer};

/// Names and values, in the order of the names.
fn settings(clients_max: usize) -> [(&'static str, String); 13] {
    let text = str::to_owned;
    [
        ("appendfsync", text("always")),
        ("appendonly", text("yes")),
        ("cluster-enabled", text("yes")),
        ("cluster-require-full-coverage", text("no")),
        ("databases", text("1")),
        ("hz", text("10")),
        ("maxclients", clients_max.to_string()),
        ("maxmemory", text("0")),
        ("maxmemory-policy", text("noeviction")),
        ("proto-max-bulk-len", BULK_BYTES_MAX.to_string()),
        ("save", text("")),
        ("tcp-keepalive", text("0")),
        ("timeout", text("0")),
    ]
}

/// `CONFIG GET` of patterns.
pub fn get(patterns: Args<'_>, clients_max: usize, out: &mut Writer<'_>) {
    let matches = |name: &str| {
        patterns.iter().any(|pattern| glob_matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
    };
    let settings = settings(clients_max);
    let found: Vec<_> = settings.iter().filter(|(name, _)| matches(name)).collect();
    out.map(found.len());
    for (name, value) in found {
        out.text(name);
        out.text(value);
    }
}

/// Why `CONFIG SET` of these names and values is refused; nothing can be set in this way.
#[must_use]
pub fn refuse_set(pairs: Args<'_>) -> CommandError {
    let first = pairs.get(0).unwrap_or_default();
    let name = quoted(first);
    let known = settings(0).iter().any(|(known, _)| name.eq_ignore_ascii_case(known));
    if known { CommandError::ConfigSet(name) } else { CommandError::ConfigUnknown(name) }
}
