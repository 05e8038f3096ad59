//! Glob patterns of `KEYS` and `SCAN`: `*`, `?`, `[abc]`, `[^a-z]`, `\` before any character.

/// Whether `text` matches `pattern`. Takes at most pattern times text steps, whatever the pattern.
pub(in crate::server) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: behind the last star, one more byte of text swallowed.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if p == pattern.len() && t == text.len() {
            return true;
        }
        if p < pattern.len() {
            if pattern[p] == b'*' {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            if t < text.len()
                && let Some(next) = one(pattern, p, text[t])
            {
                p = next;
                t += 1;
                continue;
            }
        }
        match retry {
            Some((after_star, from)) if from < text.len() => {
                retry = Some((after_star, from + 1));
                p = after_star;
                t = from + 1;
            }
            _ => return false,
        }
    }
}

/// If the element of the pattern at `p` matches `byte`, where the next element starts.
pub(super) fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match pattern[p] {
        b'?' => Some(p + 1),
        b'[' => class(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        literal => (literal == byte).then_some(p + 1),
    }
}

fn class(pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match pattern[p.min(pattern.len())..] {
            // A class that is not closed ends with the pattern.
            [] => break,
            [b'\\', escaped, ..] => {
                found |= escaped == byte;
                p += 2;
            }
            [b']', ..] => {
                p += 1;
                break;
            }
            [low, b'-', high, ..] => {
                found |= (low.min(high)..=low.max(high)).contains(&byte);
                p += 3;
            }
            [literal, ..] => {
                found |= literal == byte;
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
}
