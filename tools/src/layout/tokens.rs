//! Reads a Rust file as the paths it names and the places of `unsafe`, comments and strings left out.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path as written, with the prefixes of grouped `use` items filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NamedPath {
    pub(super) segments: Vec<String>,
    /// Line of its last segment, counted from 1.
    pub(super) line: usize,
    /// Whether `!` follows: a macro call.
    pub(super) is_macro: bool,
}

/// Every path of `source`, in order.
///
/// # Errors
/// Line and reason when the text is not Rust.
pub(super) fn paths(source: &str) -> Result<Vec<NamedPath>, (usize, String)> {
    let stream: TokenStream = source.parse().map_err(|error: proc_macro2::LexError| {
        (error.span().start().line.max(1), error.to_string())
    })?;
    let mut found = Vec::new();
    walk(stream, &[], &mut found);
    Ok(found)
}

/// Collects the paths of one token stream; `prefix` stands before each first segment.
fn walk(stream: TokenStream, prefix: &[String], found: &mut Vec<NamedPath>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(_) => at = path(&tokens, at, prefix, found),
            TokenTree::Group(group) => {
                walk(group.stream(), &[], found);
                at += 1;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
        }
    }
}

/// Reads the path that starts at the identifier `tokens[at]`; gives the position after it.
fn path(
    tokens: &[TokenTree],
    mut at: usize,
    prefix: &[String],
    found: &mut Vec<NamedPath>,
) -> usize {
    let mut segments = prefix.to_vec();
    let mut line = 0;
    while let Some(TokenTree::Ident(ident)) = tokens.get(at) {
        segments.push(ident.to_string());
        line = ident.span().start().line;
        at += 1;
        if !is_double_colon(tokens, at) {
            break;
        }
        at += 2;
    }
    if let Some(TokenTree::Group(group)) = tokens.get(at)
        && group.delimiter() == Delimiter::Brace
        && is_double_colon(tokens, at.wrapping_sub(2))
    {
        walk(group.stream(), &segments, found);
        return at + 1;
    }
    let is_macro = is_punct(tokens, at, '!') && !is_punct(tokens, at + 1, '=');
    found.push(NamedPath { segments, line, is_macro });
    at
}

fn is_double_colon(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens, at, ':') && is_punct(tokens, at + 1, ':')
}

fn is_punct(tokens: &[TokenTree], at: usize, wanted: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn named(source: &str) -> Vec<String> {
        paths(source).unwrap().iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn grouped_uses_are_spelled_out() {
        assert_eq!(
            named("use std::{fs, io::{self, Write}, net::TcpStream};"),
            ["use", "std::fs", "std::io::self", "std::io::Write", "std::net::TcpStream"]
        );
    }

    #[test]
    fn comments_and_strings_name_nothing() {
        let source = "//! std::fs\n/// glommio\n/* tokio */ fn f() { g(\"std::net\") } // rand";
        assert_eq!(named(source), ["doc", "doc", "fn", "f", "g"]);
    }

    #[test]
    fn macro_arguments_are_code() {
        let found = paths("fn f() {\n    vec![std::thread::spawn];\n    a != b;\n}").unwrap();
        let macros: Vec<_> = found.iter().filter(|path| path.is_macro).collect();
        assert_eq!(macros.len(), 1);
        assert_eq!(macros[0].segments, ["vec"]);
        assert!(found.iter().any(|path| path.segments == ["std", "thread", "spawn"]));
        assert!(found.iter().all(|path| path.line <= 3));
    }

    #[test]
    fn text_that_is_not_rust_has_a_line() {
        assert_eq!(paths("fn f() {\n    (\n}\n").unwrap_err().0, 3);
    }
}
