//! Values that name themselves: a value is read, and everybody knows which write it comes from.
//!
//! A value is `v<number>;` and then one letter, which the number gives, up to its length. What `APPEND` makes
//! is a row of such values.

use bytes::Bytes;

/// What was written to where: number, key and length of each value.
#[derive(Debug, Default)]
pub struct Values {
    issued: Vec<Issued>,
}

#[derive(Clone, Copy, Debug)]
struct Issued {
    key: u32,
    bytes: usize,
}

impl Values {
    /// Makes a value for a key, of this length if that is enough for its name. Returns its name and itself.
    pub fn issue(&mut self, key: u32, bytes: usize) -> (Bytes, Bytes) {
        let name = name(self.issued.len());
        let bytes = bytes.max(name.len());
        let mut value = name.clone().into_bytes();
        value.resize(bytes, letter(self.issued.len()));
        self.issued.push(Issued { key, bytes });
        (Bytes::from(name), Bytes::from(value))
    }

    /// The name of the value that was read from a key.
    ///
    /// # Errors
    /// It was never written there, or not like this.
    pub fn name_of(&self, key: u32, value: &[u8]) -> Result<Bytes, String> {
        match self.split(key, value)? {
            (name, []) => Ok(name),
            (name, rest) => Err(format!(
                "{} is followed by {} bytes that nobody wrote",
                name.escape_ascii(),
                rest.len()
            )),
        }
    }

    /// Whether a row of values was read that were all appended to this key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_row(&self, key: u32, mut value: &[u8]) -> Result<(), String> {
        let mut names: Vec<Bytes> = Vec::new();
        while !value.is_empty() {
            let (name, rest) = self.split(key, value)?;
            if names.contains(&name) {
                return Err(format!("{} is there twice", name.escape_ascii()));
            }
            names.push(name);
            value = rest;
        }
        Ok(())
    }

    /// The name of the first value, and what follows it.
    fn split<'v>(&self, key: u32, value: &'v [u8]) -> Result<(Bytes, &'v [u8]), String> {
        let wrong = || format!("it holds {}, which nobody wrote there", excerpt(value));
        let digits = value.strip_prefix(b"v").ok_or_else(wrong)?;
        let end = digits.iter().position(|byte| *byte == b';').ok_or_else(wrong)?;
        let number: usize = std::str::from_utf8(&digits[..end])
            .ok()
            .and_then(|number| number.parse().ok())
            .ok_or_else(wrong)?;
        let issued = self.issued.get(number).filter(|issued| issued.key == key);
        let bytes = issued.ok_or_else(wrong)?.bytes;
        let (own, rest) = value.split_at_checked(bytes).ok_or_else(wrong)?;
        let name = name(number);
        let padding = own.strip_prefix(name.as_bytes()).ok_or_else(wrong)?;
        match padding.iter().all(|byte| *byte == letter(number)) {
            true => Ok((Bytes::from(name), rest)),
            false => Err(wrong()),
        }
    }
}

fn name(number: usize) -> String {
    format!("v{number};")
}

fn letter(number: usize) -> u8 {
    b'a' + (number % 26) as u8
}

/// The beginning of some bytes.
pub fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 60;
    let shown = &bytes[..bytes.len().min(SHOWN)];
    let dots = if bytes.len() > SHOWN { "..." } else { "" };
    format!("\"{}\"{dots} ({} bytes)", shown.escape_ascii(), bytes.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn values_are_known_again_and_nothing_else_is() {
        let mut values = Values::default();
        let (name, value) = values.issue(1, 100);
        let (_, other) = values.issue(2, 3);
        assert_eq!(value.len(), 100);
        assert_eq!(values.name_of(1, &value).unwrap(), name);
        assert!(values.name_of(2, &value).is_err(), "another key's");
        assert!(values.name_of(1, &value[..99]).is_err(), "cut short");
        assert!(values.name_of(1, &[&value[..], b"a"].concat()).is_err(), "too long");
        let mut damaged = value.to_vec();
        damaged[50] ^= 1;
        assert!(values.name_of(1, &damaged).is_err());
        assert!(values.name_of(1, b"v7;").is_err(), "of the future");
        assert_eq!(values.name_of(2, &other).unwrap(), "v1;");
    }

    #[test]
    fn rows_hold_each_value_once() {
        let mut values = Values::default();
        let [(_, a), (_, b)] = [values.issue(1, 10), values.issue(1, 4)];
        values.check_row(1, &[&a[..], &b].concat()).unwrap();
        values.check_row(1, &[&b[..], &a].concat()).unwrap();
        values.check_row(1, b"").unwrap();
        assert!(values.check_row(1, &[&a[..], &b, &a].concat()).is_err());
    }
}
